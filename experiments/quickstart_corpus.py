"""What the quickstart listens to: `toy_music`, or a folder of somebody's own."""

import dataclasses
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.data.manifest import Clip, read_manifest, scan_folder, with_header, write_manifest
from muq_jax.data.prepare import prepare
from muq_jax.data.sources import Source, make_source
from muq_jax.data.statistics import mel_statistics
from muq_jax.data.toy_music import ToyMusicSource, make_clip
from muq_jax.errors import UserError
from muq_jax.probe.task import SPLITS, V1, Dataset, Item, Task

MAX_HOURS = 2.0  # of one's own music: as much as ten minutes can decode and learn from
MIN_CLIPS_TO_SPLIT = 10
MIN_CLIPS_A_CLASS = 8
TRACK_SECONDS = 30.0
# Any eight in a row have some of each. Clips are dealt in an order that has nothing to do with their names.
_SPLITS = ("train", "test", "train", "val", "train", "train", "test", "train", "train", "val")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What is trained and probed on.

    Attributes:
        source: as `data.source`.
        stat: mean and standard deviation of its mel in dB; None where the shards have them.
        facts: what there is to say about it, by name.
        probes: tasks and the clips that they are learned from; none where there are no labels.
        why_no_probe: what to say where there are none.
        track: float32 [S] at 24 kHz, the piece of music that the report shows.
        chords: of the track, (start, end, name), where they are known.
    """

    source: str
    stat: tuple[float, float] | None
    facts: dict[str, str]
    probes: tuple[tuple[Task, Dataset], ...]
    why_no_probe: str
    track: np.ndarray
    chords: list[list[Any]]


def toy_corpus(num_clips: int, num_probe_clips: int, probe_seconds: float) -> Corpus:
    """Returns `toy_music:NUM_CLIPS`; the probe gets clips of its own, which pretraining never hears.

    Args:
        num_clips: for pretraining.
        num_probe_clips: for the probe.
        probe_seconds: of each of these, how much is heard, from its start.
    """
    source = ToyMusicSource(num_probe_clips, seed=1)
    labels = [source[i]["labels"] for i in range(num_probe_clips)]
    # Every task asks for every clip twice an encoder, and a clip takes 30 ms to synthesise.
    waves = [cache(partial(_wave, source, i)) for i in range(num_probe_clips)]

    def probe(name: str, *metrics: str) -> tuple[Task, Dataset]:
        items = [
            # A third to test on, more than usual: the intervals shrink with the number of test clips.
            Item(
                f"probe-{i}",
                ("train", "train", "train", "val", "test", "test")[i % 6],
                labels[i][name],
                waves[i],
                end_seconds=probe_seconds,
            )
            for i in range(num_probe_clips)
            if labels[i][name] is not None
        ]
        return _probe(name, metrics, items, probe_seconds)

    track, chords = _toy_track()
    # A hundred clips have 13 million mel values: more change nothing that can be seen.
    stats = mel_statistics(ToyMusicSource(num_clips, split="train"), max_clips=100)
    return Corpus(
        source=f"toy_music:{num_clips}",
        stat=(stats["mean"], stats["std"]),
        facts={
            "music": "toy_music, composed and synthesised by our own code: songs and notes of 10 s",
            "for pretraining": f"{num_clips} clips, {num_clips / 360:.1f} h; eight in ten to train on",
            "for the probe": f"{num_probe_clips} other clips, with labels",
        },
        probes=(
            probe("key", "accuracy", "weighted_key_score"),
            probe("instrument", "accuracy"),
            probe("style", "accuracy"),
        ),
        why_no_probe="",
        track=track,
        chords=chords,
    )


def own_corpus(folder: Path, workdir: Path, probe_seconds: float) -> Corpus:
    """Prepares a folder of audio in `WORKDIR/corpus`, split by file; labels are the names of its subfolders.

    Args:
        folder: of the music.
        workdir: the quickstart's.
        probe_seconds: of each clip, how much the probe hears, from its start.

    Raises:
        UserError: no such folder, no audio in it, or none that can be decoded.
    """
    chosen, num_found = _choose(folder)
    classes = _classes(chosen, folder)
    workdir.mkdir(parents=True, exist_ok=True)
    manifest = workdir / "clips.jsonl"
    write_manifest(manifest, _rows(chosen, classes))
    report = prepare(manifest, workdir / "corpus")
    rejects = [f"{reject.path}: {reject.reason}" for reject in report.rejects]
    source = make_source(workdir / "corpus")
    prepared = read_manifest(workdir / "corpus" / "manifest.jsonl")
    first_piece = np.cumsum([0, *(clip.labels["num_pieces"] for clip in prepared)])
    items = [
        Item(clip.id, clip.split, label, partial(_wave, source, int(piece)), end_seconds=probe_seconds)
        for clip, piece in zip(prepared, first_piece, strict=False)
        if clip.split and (label := clip.labels["folder"])
    ]
    why_no_probe = _why_no_probe(items)
    names = sorted({clip.labels["folder"] for clip in prepared if clip.labels["folder"]})
    facts = {
        "music": f"{folder}: {num_found} audio files",
        "used": f"{report.num_clips} files, {report.hours:.2f} h"
        + (f" (at most {MAX_HOURS:g} h are taken)" if len(chosen) < num_found else ""),
        "left out": "; ".join(rejects) or "nothing",
        "labels": f"the names of subfolders: {', '.join(names)}" if names else "none",
    }
    longest = max(range(len(prepared)), key=lambda i: min(prepared[i].num_samples or 0, _TRACK_SAMPLES))
    return Corpus(
        source=str(workdir / "corpus"),
        stat=None,
        # A name that is not in UTF-8 cannot be printed as it is.
        facts={name: fact.encode(errors="backslashreplace").decode() for name, fact in facts.items()},
        probes=() if why_no_probe else (_probe("subfolder", ("accuracy",), items, probe_seconds),),
        why_no_probe=why_no_probe,
        track=source[int(first_piece[longest])]["wave"][:_TRACK_SAMPLES],
        chords=[],
    )


_TRACK_SAMPLES = round(TRACK_SECONDS * SAMPLE_RATE_HZ)
# Assumed of a file that does not say its length; one of a higher rate counts for longer than it is.
_BITS_A_SECOND = 128_000


def _choose(folder: Path) -> tuple[list[Clip], int]:
    """Clips in an order drawn from their names' hashes, up to MAX_HOURS; and how many there are in all."""
    found = sorted(scan_folder(folder), key=lambda clip: hashlib.sha256(os.fsencode(clip.id)).digest())
    chosen: list[Clip] = []
    seconds = 0.0
    for clip in found:
        if seconds > MAX_HOURS * 3600:
            break
        chosen.append(clip)
        try:
            header = with_header(clip)
        except (UserError, OSError):
            continue  # `prepare` will say why
        if header.num_samples is None:
            seconds += clip.path.stat().st_size * 8 / _BITS_A_SECOND
        else:
            seconds += header.num_samples / (header.sample_rate_hz or SAMPLE_RATE_HZ)
    return chosen, len(found)


def _classes(clips: Sequence[Clip], folder: Path) -> dict[str, str | None]:
    """The first subfolder of each clip, where two or more subfolders have enough clips; else None."""
    parts = {clip.id: clip.path.relative_to(folder).parts for clip in clips}
    names = {id: path[0] if len(path) > 1 else None for id, path in parts.items()}
    counts = Counter(name for name in names.values() if name)
    large = {name for name, count in counts.items() if count >= MIN_CLIPS_A_CLASS}
    return {id: name if name in large and len(large) > 1 else None for id, name in names.items()}


def _probe(
    name: str, metrics: tuple[str, ...], items: Sequence[Item], seconds: float
) -> tuple[Task, Dataset]:
    """A classification of these clips, each one window."""
    dataset = Dataset(items, tuple(sorted({item.label for item in items})))
    task = Task(
        name=name,
        title=name,
        kind="classification",
        metrics=metrics,
        read=lambda _: dataset,
        v1=V1(window_seconds=seconds),
        v2=None,
    )
    return task, dataset


def _why_no_probe(items: Sequence[Item]) -> str:
    """Says what a probe of these clips lacks; "" where it lacks nothing."""
    if not items:
        return (
            "No labels: probe skipped. Music sorted into subfolders, two or more with at least "
            f"{MIN_CLIPS_A_CLASS} files each, would have been probed for them."
        )
    classes = {split: {item.label for item in items if item.split == split} for split in SPLITS}
    if len(classes["train"]) < 2 or not all(classes.values()):
        found = ", ".join(f"{split} {len(folders)}" for split, folders in classes.items())
        return (
            "Too few labelled files could be used: probe skipped. Subfolders with files in each split: "
            f"{found}; needed: train 2, val 1, test 1."
        )
    return ""


def _rows(clips: Sequence[Clip], classes: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Rows of a manifest; splits are dealt within each class, so that each split has every class."""
    dealt: Counter[str | None] = Counter()
    rows = []
    for clip in clips:
        label = classes[clip.id]
        row: dict[str, Any] = {"id": clip.id, "path": str(clip.path.resolve()), "folder": label}
        if len(clips) >= MIN_CLIPS_TO_SPLIT:
            row["split"] = _SPLITS[dealt[label] % len(_SPLITS)]
        dealt[label] += 1
        rows.append(row)
    return rows


def _toy_track() -> tuple[np.ndarray, list[list[Any]]]:
    """A song with drums that is in neither corpus, and its chords."""
    for index in itertools.count():
        clip = make_clip(index, seed=2, seconds=TRACK_SECONDS)
        if clip.labels["has_drums"]:
            return clip.wave, clip.labels["chords"]
    raise AssertionError("unreachable: the corpus has no end")


def _wave(source: Source, index: int) -> np.ndarray:
    return source[index]["wave"]
