"""Where examples come from: random access to decoded clips, whatever they are stored in.

A source is any object with `__len__` and `__getitem__(index) -> Example`, safe to read from several threads
and to pickle into a worker process; the same index always gives the same example.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
from grain.sources import ArrayRecordDataSource

from muq_jax.audio.decode import audio_info, load_audio
from muq_jax.data.manifest import Clip, read_manifest, scan_folder, select_split
from muq_jax.data.mixture import Mixture, parse_mixture
from muq_jax.data.mtg_jamendo import PREFIX, mtg_jamendo_clips
from muq_jax.data.paths import as_path, check_reachable, is_remote
from muq_jax.data.shards import SHARD_SUFFIX, SLICE_PREFIX, decode_record, is_shards
from muq_jax.errors import UserError

# One and a half hours of decoded audio: a small corpus is decoded once instead of once an epoch.
_KEPT_BYTES = 512 * 2**20
_TOY_CLIPS = 1024


class Example(TypedDict):
    """What a source gives.

    Attributes:
        id: unique in the source.
        wave: float32 [S] at 24 kHz, or [channels, S] from a source that keeps channels.
        labels: whatever else is known of the clip.
        codes: int32 [T, Q], those of its whole tokens, from a source that has them stored.
    """

    id: str
    wave: np.ndarray
    labels: NotRequired[dict[str, Any]]
    codes: NotRequired[np.ndarray]


class Source(Protocol):
    """Random access to examples: mappings with the fields of `Example`, and others that nothing reads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def make_source(spec: Any, *, split: str | None = None, keep_channels: bool = False) -> Source:
    """Returns the source that a user names.

    Args:
        spec: a folder of audio files, a manifest (`.jsonl`), a folder of shards written by `prepare`,
            "toy_music" or "toy_music:NUM_CLIPS", "tfds:NAME" or "tfds:NAME:SPLIT", "mtg_jamendo:FOLDER" of
            the published files, a mixture of these ("runs/rock=0.7,runs/folk=0.3"), or an object like those
            of `tfds.data_source`. Shards may lie in an object store (gs://...).
        split: only clips of this split; None takes all (of a tfds dataset: "train"). Of a mixture: of those
            corpora that have this split; one without any splits is all "train".
        keep_channels: give [channels, S] from audio files, for `Augment(random_channel=True)`.

    Raises:
        UserError: there is nothing of that name, or nothing in it.
    """
    if not isinstance(spec, str | os.PathLike):
        from muq_jax.data.tfds_source import TfdsSource

        _check_channels(keep_channels, "a tfds data source gives")
        return TfdsSource(spec)
    name = os.fspath(spec)
    if mixture := parse_mixture(name):
        return _open_mixture(mixture, split, keep_channels)
    kind, _, rest = name.partition(":")
    if kind in ("toy_music", "tfds"):
        _check_channels(keep_channels, f"{name}: {kind} gives")
    if kind == "toy_music":
        from muq_jax.data.toy_music import ToyMusicSource

        if rest and not (rest.isdecimal() and int(rest) > 0):
            raise UserError(
                f"source {name!r}: expected toy_music or toy_music:NUM_CLIPS, such as toy_music:256"
            )
        return ToyMusicSource(num_clips=int(rest or _TOY_CLIPS), split=split)
    if kind == "tfds":
        from muq_jax.data.tfds_source import open_tfds

        return open_tfds(rest, split=split)
    if name.startswith(PREFIX):
        return FileSource(mtg_jamendo_clips(rest, split), name=name, keep_channels=keep_channels)

    path = as_path(name)
    check_reachable(path)
    if path.is_dir() and is_shards(path):
        _check_channels(keep_channels, f"{path}: shards hold")
        return ShardSource(path, split=split)
    if path.is_dir() and any(path.glob(f"{SLICE_PREFIX}*")):
        raise UserError(f"{path}: parts of a corpus, not joined; run `prepare` for those that are missing")
    if is_remote(path):
        raise UserError(
            f"source {name!r}: of an object store, only a folder written by `prepare` is read; make one of it"
        )
    if path.is_dir():
        clips = select_split(scan_folder(path), split, name)
        return FileSource(clips, name=name, keep_channels=keep_channels)
    if path.is_file():
        clips = select_split(read_manifest(path), split, name)
        return FileSource(clips, name=name, keep_channels=keep_channels)
    raise UserError(
        f"source {name!r}: no such file or folder; expected a folder of audio, a manifest (.jsonl), "
        "a folder written by `prepare`, toy_music[:NUM_CLIPS], tfds:NAME[:SPLIT], mtg_jamendo:FOLDER, or a "
        "mixture of these such as runs/rock=0.7,runs/folk=0.3"
    )


def _open_mixture(parts: Sequence[tuple[str, float]], split: str | None, keep_channels: bool) -> Mixture:
    from muq_jax.data.splits import split_names

    sources, weights = [], []
    for corpus, weight in parts:
        splits = split_names(corpus)
        if split is None or split == "train" or split in splits:
            own = split if splits else None
            sources.append(make_source(corpus, split=own, keep_channels=keep_channels))
            weights.append(weight)
    if not sources:
        raise UserError(f"{', '.join(corpus for corpus, _ in parts)}: none of these has a split {split!r}")
    return Mixture(sources, weights)


def _check_channels(keep_channels: bool, who_gives: str) -> None:
    if keep_channels:
        raise UserError(
            f"{who_gives} one channel; random_channel needs audio files themselves, as a folder or a manifest"
        )


class FileSource:
    """Audio files, each decoded whole: a seek into compressed audio gives wrong samples.

    Decoded waves are kept up to half a gigabyte a process, the first that come: an epoch reads every clip
    once, so keeping the latest instead would hardly ever find one again.
    """

    def __init__(self, clips: Sequence[Clip], *, name: str = "", keep_channels: bool = False):
        missing = [clip for clip in clips if not clip.path.is_file()]
        if missing:
            raise UserError(
                f"{missing[0].path}: no such audio file (clip {missing[0].id!r}); {len(missing)} of "
                f"{len(clips)} clips are missing. `python -m muq_jax prepare` skips them and lists them"
            )
        for clip in clips:
            if clip.path.suffix == SHARD_SUFFIX:
                raise UserError(
                    f"{clip.path}: a shard, not an audio file; give the folder of shards as the source"
                )
        self._clips = list(clips)
        self._name = name
        self._keep_channels = keep_channels
        self._kept: dict[int, np.ndarray] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Example:
        clip = self._clips[index]
        wave = self._kept.get(index)
        if wave is None:
            wave = self._decode(clip)
            if self._kept_bytes + wave.nbytes <= _KEPT_BYTES:
                self._kept[index] = wave
                self._kept_bytes += wave.nbytes
        return {"id": clip.id, "wave": wave, "labels": clip.labels}

    def labels_at(self, index: int) -> tuple[str, dict[str, Any]]:
        """Returns an example's id and labels; decodes nothing."""
        return self._clips[index].id, self._clips[index].labels

    @property
    def paths(self) -> list[Path]:
        """The audio files, in order."""
        return [clip.path for clip in self._clips]

    # Grain keeps it in checkpoints: a corpus may be moved.
    def __repr__(self) -> str:
        return f"FileSource({len(self._clips)} clips)"

    def __str__(self) -> str:
        return self._name or repr(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}, "_kept_bytes": 0}

    def _decode(self, clip: Clip) -> np.ndarray:
        try:
            if not self._keep_channels:
                return load_audio(clip.path)
            channels = range(audio_info(clip.path).num_channels)
            return np.stack([load_audio(clip.path, channel=channel) for channel in channels])
        except UserError as error:
            raise UserError(
                f"{error}. `python -m muq_jax prepare` skips such files and lists them"
            ) from error


class ShardSource:
    """The pieces in a folder written by `prepare`: every record once an epoch.

    An example's id is the clip's, followed by `@SECONDS`, where the piece starts, if the clip has several;
    its labels are the clip's, from the manifest that `prepare` wrote.
    """

    def __init__(self, folder: str | os.PathLike[str], *, split: str | None = None):
        folder = as_path(folder)
        clips = read_manifest(folder / "manifest.jsonl")
        shards = sorted({clip.path for clip in clips})
        missing = [path for path in shards if not path.exists()]
        if missing:
            raise UserError(
                f"{missing[0]}: this shard is missing ({len(missing)} of {len(shards)}); prepare again"
            )
        pieces = [clip.labels.get("num_pieces") for clip in clips]
        if None in pieces:
            row = clips[pieces.index(None)].id
            raise UserError(f"{folder}: no `num_pieces` for {row!r} in manifest.jsonl; prepare again")
        try:
            self._records = ArrayRecordDataSource([str(path) for path in shards])
        except RuntimeError as error:
            raise UserError(f"{folder}: a shard is damaged ({error}); prepare again") from error
        # The manifest lists clips in the order of their records, which is that of the sorted shards.
        first = np.cumsum([0, *pieces])
        if len(self._records) != first[-1]:
            raise UserError(
                f"{folder}: the shards hold {len(self._records)} records, manifest.jsonl says {first[-1]}"
            )

        start = dict(zip((clip.id for clip in clips), first, strict=False))
        self._folder = folder
        self._clips = select_split(clips, split, str(folder))
        counts = [clip.labels["num_pieces"] for clip in self._clips]
        self._index = np.concatenate(
            [start[clip.id] + np.arange(count) for clip, count in zip(self._clips, counts, strict=True)]
        )
        self._clip_of = np.repeat(np.arange(len(self._clips)), counts)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Example:
        record = int(self._index[index])
        header, wave = decode_record(self._records[record], f"{self._folder}, record {record}")
        return {"id": header["id"], "wave": wave, "labels": self.labels_at(index)[1]}

    def labels_at(self, index: int) -> tuple[str, dict[str, Any]]:
        """Returns the id and the labels of the clip that a piece is of; reads nothing."""
        clip = self._clips[self._clip_of[index]]
        return clip.id, clip.labels

    def __repr__(self) -> str:
        return f"ShardSource({str(self._folder)!r}, {len(self)} pieces)"
