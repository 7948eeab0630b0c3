"""Where examples come from: random access to decoded clips, whatever they are stored in.

A source is any object with `__len__` and `__getitem__(index) -> Example`, safe to read from several threads and to
pickle into a worker process; the same index always gives the same example.
"""

import collections
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
from grain.sources import ArrayRecordDataSource

from muq_jax.audio.decode import audio_info, load_audio
from muq_jax.data.manifest import Clip, read_manifest, scan_folder, select_split
from muq_jax.data.records import SHARD_SUFFIX, decode_record
from muq_jax.errors import UserError

# One and a half hours of decoded audio: a small corpus is decoded once instead of once an epoch.
_CACHE_BYTES = 512 * 2**20
_TOY_CLIPS = 1024


class Example(TypedDict):
    """What a source gives.

    `wave` is float32 [S] at 24 kHz, or [channels, S] from a source that keeps channels. `id` is unique in the source.
    """

    id: str
    wave: np.ndarray
    labels: NotRequired[dict[str, Any]]


class Source(Protocol):
    """Random access to examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def make_source(spec: Any, *, split: str | None = None, keep_channels: bool = False) -> Source:
    """Returns the source that a user names.

    Args:
      spec: a folder of audio files, a manifest (`.jsonl`), a folder of shards written by `prepare`, "toy_music" or
        "toy_music:NUM_CLIPS", "tfds:NAME" or "tfds:NAME:SPLIT", or an object that gives what `tfds.data_source` does.
      split: only clips of this split; None takes all (of a tfds dataset: "train").
      keep_channels: give [channels, S] from audio files, for `Augment(random_channel=True)`.

    Raises:
      UserError: there is nothing of that name, or nothing in it.
    """
    if not isinstance(spec, str | os.PathLike):
        from muq_jax.data.tfds_source import TfdsSource

        return TfdsSource(spec)
    name = os.fspath(spec)
    kind, _, rest = name.partition(":")
    if kind == "toy_music":
        from muq_jax.data.toy_music import SPLITS, ToyMusicSource

        if split not in (None, *SPLITS):
            raise UserError(f"source {name!r}: no split {split!r}; found {', '.join(sorted(set(SPLITS)))}")
        if rest and not (rest.isdecimal() and int(rest) > 0):
            raise UserError(f"source {name!r}: expected toy_music or toy_music:NUM_CLIPS, such as toy_music:256")
        return ToyMusicSource(num_clips=int(rest or _TOY_CLIPS), seed=0, split=split)
    if kind == "tfds":
        from muq_jax.data.tfds_source import open_tfds

        return open_tfds(rest, split=split)

    path = Path(name)
    if path.is_dir() and is_shards(path):
        if keep_channels:
            raise UserError(f"{path}: shards hold one channel; a random channel needs the audio files themselves")
        return ShardSource(path, split=split)
    if path.is_dir():
        return FileSource(select_split(scan_folder(path), split, name), keep_channels=keep_channels)
    if path.is_file():
        return FileSource(select_split(read_manifest(path), split, name), keep_channels=keep_channels)
    raise UserError(
        f"source {name!r}: no such file or folder; expected a folder of audio, a manifest (.jsonl), "
        "a folder written by `prepare`, toy_music[:NUM_CLIPS] or tfds:NAME[:SPLIT]"
    )


class FileSource:
    """Audio files, each decoded whole: a seek into compressed audio gives wrong samples.

    What was decoded last is kept, up to half a gigabyte a process.
    """

    def __init__(self, clips: Sequence[Clip], *, keep_channels: bool = False):
        missing = [clip for clip in clips if not clip.path.is_file()]
        if missing:
            raise UserError(
                f"{missing[0].path}: no such audio file (clip {missing[0].id!r}); {len(missing)} of {len(clips)} clips "
                "are missing. `python -m muq_jax prepare` skips them and lists them"
            )
        for clip in clips:
            if clip.path.suffix == SHARD_SUFFIX:
                raise UserError(f"{clip.path}: a shard, not an audio file; give the folder of shards as the source")
        self._clips = list(clips)
        self._keep_channels = keep_channels
        self._cache = _WaveCache(_CACHE_BYTES)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Example:
        clip = self._clips[index]
        wave = self._cache.get(index)
        if wave is None:
            wave = self._decode(clip)
            self._cache.put(index, wave)
        return {"id": clip.id, "wave": wave, "labels": clip.labels}

    def __repr__(self) -> str:
        return f"FileSource({len(self._clips)} clips)"

    def _decode(self, clip: Clip) -> np.ndarray:
        try:
            if not self._keep_channels:
                return load_audio(clip.path)
            channels = range(audio_info(clip.path).num_channels)
            return np.stack([load_audio(clip.path, channel=channel) for channel in channels])
        except UserError as error:
            raise UserError(
                f"{error}. `python -m muq_jax prepare` finds such files once, skips them and lists them"
            ) from error


class ShardSource:
    """The pieces in a folder written by `prepare`: every record once an epoch.

    An example's id is the clip's, followed by `@SECONDS`, where the piece starts, if the clip has several.
    """

    def __init__(self, folder: str | os.PathLike[str], *, split: str | None = None):
        folder = Path(folder)
        clips = read_manifest(folder / "manifest.jsonl")
        shards = sorted({clip.path for clip in clips})
        missing = [path for path in shards if not path.is_file()]
        if missing:
            raise UserError(f"{missing[0]}: this shard is missing ({len(missing)} of {len(shards)}); prepare again")
        self._records = ArrayRecordDataSource([str(path) for path in shards])
        expected = sum(clip.labels["num_pieces"] for clip in clips)
        if len(self._records) != expected:
            raise UserError(f"{folder}: the shards hold {len(self._records)} records, manifest.jsonl says {expected}")

        # The manifest lists clips in the order of their records, which is that of the sorted shards.
        first = np.cumsum([0] + [clip.labels["num_pieces"] for clip in clips])
        start = {clip.id: int(index) for clip, index in zip(clips, first[:-1], strict=True)}
        self._folder = folder
        self._index = [
            start[clip.id] + piece
            for clip in select_split(clips, split, str(folder))
            for piece in range(clip.labels["num_pieces"])
        ]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Example:
        record = self._index[index]
        header, wave = decode_record(self._records[record], f"{self._folder}, record {record}")
        return {"id": header["id"], "wave": wave}

    def __repr__(self) -> str:
        return f"ShardSource({str(self._folder)!r}, {len(self)} pieces)"


def is_shards(folder: Path) -> bool:
    """Whether `prepare` wrote this folder."""
    return (folder / "manifest.jsonl").is_file() and any(folder.glob(f"*{SHARD_SUFFIX}"))


class _WaveCache:
    """The waves used last, up to a number of bytes. A copy in another process starts empty."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._waves: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: int) -> np.ndarray | None:
        with self._lock:
            if key in self._waves:
                self._waves.move_to_end(key)
            return self._waves.get(key)

    def put(self, key: int, wave: np.ndarray) -> None:
        with self._lock:
            if key not in self._waves:
                self._waves[key] = wave
                self._num_bytes += wave.nbytes
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= self._waves.popitem(last=False)[1].nbytes

    def __reduce__(self):
        return (_WaveCache, (self._max_bytes,))
