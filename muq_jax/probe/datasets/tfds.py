"""GTZAN and NSynth as TFDS prepares them, read without tensorflow where the waveform is a plain tensor.

    tfds:gtzan@LISTS    GTZAN (1000 clips, one split, `train`), parted by the fault-filtered lists in the
                        folder LISTS: train_filtered.txt, valid_filtered.txt, test_filtered.txt. A clip is
                        known by its feature `audio/filename`, such as blues.00012.wav. jazz.00054 is left
                        out, as in `gtzan`
    tfds:nsynth         NSynth (config `full`), whose splits are train, valid and test

In the place of the name may stand the folder of a prepared data set: tfds:/data/gtzan/1.0.0@LISTS. Features
and splits were read in tensorflow_datasets 4.9.10 (audio/gtzan, datasets/nsynth). TFDS's GTZAN and NSynth
keep their waveforms as tfds.features.Audio, which needs tensorflow to be read; GTZAN's download host is
dead.

To know the labels, every example is read once, its waveform too: minutes for GTZAN, hours for NSynth, whose
own archives (see `nsynth`) are read at once.
"""

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.data.tfds_source import TfdsSource, open_tfds
from muq_jax.errors import UserError
from muq_jax.probe.datasets.folder import AUDIO_MISSING, count_splits, published_problem, read_text, require
from muq_jax.probe.datasets.gtzan import BAD_CLIP, COUNTS, GENRES
from muq_jax.probe.datasets.nsynth import FAMILIES, PITCHES, make_dataset
from muq_jax.probe.task import SPLITS, Dataset, Item

GTZAN_SOURCE = (
    "Prepare GTZAN with TFDS (TFDS_DATA_DIR or ~/tensorflow_datasets), put train_filtered.txt, "
    "valid_filtered.txt and test_filtered.txt of github.com/coreyker/dnn-mgr (folder gtzan) in a folder "
    "LISTS, and give tfds:gtzan@LISTS"
)


def is_tfds(data: str) -> bool:
    """Returns whether --data names a TFDS data set."""
    return data.startswith("tfds:")


def read_tfds_gtzan(data: str) -> Dataset:
    """Returns the clips of the fault-filtered lists with their genre.

    Args:
        data: "tfds:gtzan@LISTS".

    Raises:
        UserError: the lists are missing, the data set cannot be opened, or it is no GTZAN.
    """
    name, _, lists = data.removeprefix("tfds:").rpartition("@")
    if not name:
        raise UserError(f"{data}: TFDS's GTZAN has no splits; expected tfds:gtzan@LISTS. {GTZAN_SOURCE}")
    splits = _splits(Path(lists))
    source = open_tfds(name, split="train")
    items: dict[str, Item] = {}
    left_out: Counter[str] = Counter()
    for index in range(len(source)):
        labels = source[index]["labels"]
        file, genre = labels.get("audio/filename"), labels.get("label", -1)
        if not isinstance(file, str) or genre not in range(len(GENRES)):
            raise UserError(
                f"{data}: example {index} has the features {', '.join(sorted(labels))}; expected those of "
                "TFDS's gtzan: audio/filename and label, 0 to 9"
            )
        id = file.removesuffix(".wav")
        if id == BAD_CLIP:
            left_out["damaged in other copies"] += 1
        elif id in splits:
            items[id] = Item(id, splits[id], GENRES[genre], functools.partial(_wave, source, index))
        else:
            left_out["in none of the lists"] += 1
    if missing := len(splits.keys() - items.keys()):
        left_out[AUDIO_MISSING] += missing
    if not items:
        raise UserError(f"{data}: none of the {len(splits)} clips of the lists is in it. {GTZAN_SOURCE}")
    found = [items[id] for id in splits if id in items]
    return Dataset(found, GENRES, left_out, published_problem(count_splits(found), COUNTS))


def read_tfds_nsynth_pitch(data: str) -> Dataset:
    """Returns the notes with their MIDI pitch.

    Raises:
        UserError: the data set cannot be opened, or it is no NSynth.
    """
    return _read_nsynth(data, PITCHES, "pitch")


def read_tfds_nsynth_instrument(data: str) -> Dataset:
    """Returns the notes with their instrument's family.

    Raises:
        UserError: as of `read_tfds_nsynth_pitch`.
    """
    return _read_nsynth(data, FAMILIES, "family")


def _read_nsynth(data: str, classes: tuple[str, ...], label: str) -> Dataset:
    items = []
    for split, theirs in zip(SPLITS, ("train", "valid", "test"), strict=True):
        source = open_tfds(data.removeprefix("tfds:"), split=theirs)
        for index in range(len(source)):
            example = source[index]
            labels = example["labels"]
            try:
                instrument = labels["instrument"]
                name = classes[int(labels["pitch"] if label == "pitch" else instrument["family"])]
                group = str(int(instrument["label"]))
            except (KeyError, TypeError, ValueError, IndexError):
                raise UserError(
                    f"{data}: example {index} of {theirs} has the features {', '.join(sorted(labels))}; "
                    "expected those of TFDS's nsynth: pitch, 0 to 127, and instrument with label and "
                    "family, 0 to 10"
                ) from None
            wave = functools.partial(_wave, source, index)
            items.append(Item(f"nsynth-{theirs}/{example['id']}", split, name, wave, group))
    return make_dataset(items, classes, Counter())


def _splits(folder: Path) -> dict[str, str]:
    """Returns the split of each clip of the fault-filtered lists, by its name without the suffix."""
    splits: dict[str, str] = {}
    for split, theirs in zip(SPLITS, ("train", "valid", "test"), strict=True):
        path = require(folder, (f"{theirs}_filtered.txt", f"*/{theirs}_filtered.txt"), GTZAN_SOURCE)
        for line in filter(None, map(str.strip, read_text(path).split("\n"))):
            id = line.rpartition("/")[2].removesuffix(".wav")
            if id.partition(".")[0] not in GENRES:
                raise UserError(
                    f"{path}: found {line!r}; expected a file such as blues/blues.00012.wav a line"
                )
            splits[id] = split
    splits.pop(BAD_CLIP, None)
    return splits


def _wave(source: TfdsSource, index: int) -> np.ndarray:
    wave: Any = source[index]["wave"]
    return np.asarray(wave, np.float32)
