"""What a probe's task is: its items with their labels and splits, and how it is learned and scored."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

SPLITS = ("train", "val", "test")

Kind = Literal["classification", "multilabel", "regression", "frames", "beats"]
KINDS: tuple[Kind, ...] = ("classification", "multilabel", "regression", "frames", "beats")
FRAME_KINDS = ("frames", "beats")
"""Kinds of tasks whose heads see one frame at a time."""


class Beats(NamedTuple):
    """Times in seconds of all beats, and of those that begin a bar (empty where they are not known)."""

    beats: tuple[float, ...]
    downbeats: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Item:
    """A recording, or a stretch of one, with its label.

    Attributes:
        id: unique in its dataset.
        split: "train", "val" or "test".
        label: by the task's kind: a text (classification); texts, perhaps none (multilabel); numbers
            (regression); (start, end, label) in seconds from the item's start (frames); `Beats` (beats).
        audio: a file, or a function that returns float32 [S] at 24 kHz.
        group: the artist, song or player; no group may be in two splits. None where it is not known.
        start_seconds, end_seconds: the stretch of the recording that is meant; None is its end.
    """

    id: str
    split: str
    label: Any
    audio: Path | Callable[[], np.ndarray]
    group: str | None = None
    start_seconds: float = 0.0
    end_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a folder holds of a task.

    Attributes:
        items: in the dataset's order.
        classes: of classification, multilabel and frames, in the order of the head's outputs; the names of
            the targets of a regression; empty for beats.
        left_out: how many items were left out, by reason.
        problems: what makes a score not comparable with published ones, in sentences for a person.
    """

    items: Sequence[Item]
    classes: tuple[str, ...]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class V1:
    """How MARBLE v1 trains the head of a task; the sweep over learning rates and layers is the protocol's.

    Attributes:
        window_seconds: clips are cut into windows of this length; None takes a clip whole (30 s at most).
        crop_seconds: of each clip, how much is heard, from its start; None is all.
        plateau: epochs without a better validation score after which the learning rate is halved.
        patience: and after which the training ends.
        epochs: at most.
    """

    window_seconds: float | None = None
    crop_seconds: float | None = None
    plateau: int = 5
    patience: int = 20
    epochs: int = 100


@dataclasses.dataclass(frozen=True)
class V2:
    """MARBLE v2's settings of a task: one configuration, no sweep.

    Attributes:
        window_seconds: as in `V1`.
        layer: of a 12-layer encoder, or "all": the layers side by side, reduced by a linear map.
        batch_size: with accumulation.
        epochs, plateau, patience: as in `V1`.
        factor: that the learning rate falls by.
    """

    window_seconds: float | None = None
    layer: int | Literal["all"] = "all"
    learning_rate: float = 1e-3
    batch_size: int = 64
    epochs: int = 50
    plateau: int = 6
    factor: float = 0.5
    patience: int = 20


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of MARBLE, or a user's own.

    Attributes:
        name: as the command takes it.
        title: as tables show it.
        kind: what a label is.
        metrics: what is reported on test; the first chooses on validation.
        read: reads a folder (or `tfds:NAME`) in the layouts that `source` describes.
        source: what to download, from where, and where to put it, for a person who has nothing yet.
        counts: items of train, val and test as published; None where there is no published split.
        aliases: other names, such as MARBLE's own.
        drop_short: the last window of a clip is left out where it is not whole.
        trim_silence: silence is cut off and every window standardised, as MARBLE does for VocalSet.
        standardise: heads see features of mean 0 and deviation 1 over the training split. MARBLE's do not.
        v1, v2: the protocols' settings; None where MARBLE has no such task in that version.
    """

    name: str
    title: str
    kind: Kind
    metrics: tuple[str, ...]
    read: Callable[[str], Dataset]
    source: str = ""
    counts: tuple[int, int, int] | None = None
    aliases: tuple[str, ...] = ()
    drop_short: bool = False
    trim_silence: bool = False
    standardise: bool = False
    v1: V1 | None = V1()
    v2: V2 | None = V2()
