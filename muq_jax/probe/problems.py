"""What heads learn of a task: features and labels as rows of arrays, and outputs as scores.

A row is a window of a clip, or a frame. Statistics (of labels) are those of the training split alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from muq_jax.errors import UserError
from muq_jax.probe import scores
from muq_jax.probe.beats import beat_targets, decode_beats
from muq_jax.probe.extract import Features, long_enough
from muq_jax.probe.heads import Objective
from muq_jax.probe.scores import Score
from muq_jax.probe.task import SPLITS, Beats, Item, Kind

WIDENED_FRAMES = 2
"""Frames beside a beat that count as one while a head learns, as in MARBLE v2."""
_TRAINING_BYTES = 4 << 30  # of all layers' frames; of more, evenly spread ones: an epoch sees 8,192
_VALIDATION_ROWS = 4000  # frames that choose; more change nothing and take the longest
FAILED = -1e9
"""The validation score of a head whose training diverged."""


class Rows(NamedTuple):
    """Inputs [L, N, D] and what a head is to make of them: int [N], or float [N, C]."""

    inputs: np.ndarray
    targets: np.ndarray


class Outcome(NamedTuple):
    """What a head's outputs on the test split are worth.

    Attributes:
        scores: by metric.
        confusion: int [C, C]; None where there are no classes.
    """

    scores: dict[str, Score]
    confusion: np.ndarray | None = None


class Problem(Protocol):
    """A task on the features of one encoder.

    Attributes:
        objective: what heads minimise.
        num_outputs: of a head.
        counts: items of each split.
        num_layers: of the encoder.
        layer_bytes: of one layer's training rows.
    """

    objective: Objective
    num_outputs: int
    counts: dict[str, int]
    num_layers: int
    layer_bytes: int

    def rows(
        self, split: str, layers: Sequence[int] | None = None, picks: Sequence[int] | None = None
    ) -> Rows:
        """The rows of a split, of these layers and items; None is all."""
        ...

    def item_targets(self, split: str, index: int) -> np.ndarray:
        """The target of an item: int [] or float [C]; of frames int [T], or float [T, C]."""
        ...

    def validate(self, outputs: np.ndarray) -> np.ndarray:
        """Scores [H], higher is better, of outputs [H, N, C] for the validation rows."""
        ...

    def test(self, outputs: np.ndarray) -> Outcome:
        """What outputs [N, C] for the test rows are worth."""
        ...

    def constant_outputs(self) -> np.ndarray | None:
        """Outputs for the test rows of a head that knows the training labels and hears nothing."""
        ...

    def draw(self, shots: int, seed: int) -> list[int]:
        """Some items of the training split: so many of every class."""
        ...


def make_problem(
    kind: Kind, metrics: Sequence[str], classes: Sequence[str], features: Features
) -> "ClipProblem | FrameProblem | BeatProblem":
    """Returns the problem of a task's kind."""
    if kind == "beats":
        return BeatProblem(metrics, features)
    if kind == "frames":
        return FrameProblem(metrics, classes, features)
    return ClipProblem(kind, metrics, classes, features)


class ClipProblem:
    """One label a clip; a clip's output is the mean of its windows'."""

    def __init__(
        self, kind: Kind, metrics: Sequence[str], classes: Sequence[str], features: Features
    ) -> None:
        self._kind, self._metrics, self._classes = kind, tuple(metrics), tuple(classes)
        objectives: dict[Kind, Objective] = {"classification": "cross_entropy", "multilabel": "binary"}
        self.objective: Objective = objectives.get(kind, "squared")
        self._items = _by_split(features.items)
        self.counts = {split: len(found) for split, found in self._items.items()}
        self._labels = {
            split: self._encoded([features.items[i] for i in found]) for split, found in self._items.items()
        }
        self._clips = {split: [features.pooled[i] for i in found] for split, found in self._items.items()}
        # Which windows of each clip count.
        self._kept = {split: [long_enough(c.seconds) for c in found] for split, found in self._clips.items()}
        self._lengths = {split: [int(k.sum()) for k in found] for split, found in self._kept.items()}
        self.num_outputs = len(self._classes)
        _, self.num_layers, width = features.pooled[0].vectors.shape
        self.layer_bytes = 4 * width * sum(self._lengths["train"])
        if kind == "regression":
            self._mean = self._labels["train"].mean(axis=0)
            self._deviation = np.maximum(self._labels["train"].std(axis=0), 1e-12)

    def rows(
        self, split: str, layers: Sequence[int] | None = None, picks: Sequence[int] | None = None
    ) -> Rows:
        chosen = range(self.counts[split]) if picks is None else picks
        lengths = [self._lengths[split][i] for i in chosen]
        targets = np.repeat(np.stack([self.item_targets(split, i) for i in chosen]), lengths, axis=0)
        numbers = list(range(self.num_layers) if layers is None else layers)
        # Asked of the split: while an encoder is fine-tuned, the outputs that are scored lie beside blanks.
        width = self._windows(split, chosen[0]).shape[-1]
        inputs = np.empty((len(numbers), sum(lengths), width), np.float32)
        at = 0
        for i, length in zip(chosen, lengths, strict=True):
            inputs[:, at : at + length] = self._windows(split, i)[:, numbers].swapaxes(0, 1)
            at += length
        return Rows(inputs, targets)

    def _windows(self, split: str, index: int) -> np.ndarray:
        """[W, L, D], the windows of a clip that count."""
        return self._clips[split][index].vectors[self._kept[split][index]]

    def item_targets(self, split: str, index: int) -> np.ndarray:
        label = self._labels[split][index]
        if self._kind == "regression":
            label = (label - self._mean) / self._deviation
        return np.asarray(label, np.int32 if self._kind == "classification" else np.float32)

    def validate(self, outputs: np.ndarray) -> np.ndarray:
        return scores.validation_score(
            self._metrics[0],
            self._labels["val"],
            self._of_clips("val", outputs),
            classes=self._classes,
            diverged=FAILED,
        )

    def test(self, outputs: np.ndarray) -> Outcome:
        return self.score_clips(self._of_clips("test", outputs[None])[0])

    @property
    def class_names(self) -> np.ndarray:
        """Texts [C]."""
        return np.array(self._classes)

    def clips(self, split: str) -> Rows:
        """A row a clip, the mean of its windows."""
        found = [self._windows(split, i).mean(axis=0) for i in range(self.counts[split])]
        vectors = np.stack(found, axis=1)
        return Rows(vectors, self._labels[split])

    def score_clips(self, found: np.ndarray) -> Outcome:
        """What outputs [N, C], a row a test clip, are worth."""
        truth = self._labels["test"]
        result: dict[str, Score] = {}
        for metric in self._metrics:
            name, _, target = metric.partition("r2_")
            if metric == "weighted_key_score":
                result[metric] = scores.weighted_key_score(truth, found, self._classes)
            elif not name and target:
                result[metric] = Score(float(scores.r2_of_each(truth, found)[self._classes.index(target)]))
            else:
                result[metric] = getattr(scores, metric)(truth, found)
        confusion = None
        if self._kind == "classification":
            confusion = scores.confusion(truth, found.argmax(axis=-1), len(self._classes))
        return Outcome(result, confusion)

    def constant_outputs(self) -> np.ndarray:
        labels = self._labels["train"]
        if self._kind == "classification":
            one = np.bincount(labels, minlength=self.num_outputs).astype(float)
        else:
            one = labels.mean(axis=0)
            if self._kind == "regression":
                one = np.zeros(self.num_outputs)
        num_rows = sum(self._lengths["test"])
        return np.tile(one, (num_rows, 1))

    def draw(self, shots: int, seed: int) -> list[int]:
        return _draw(self._labels["train"], self._kind, shots, seed)

    def _encoded(self, items: Sequence[Item]) -> np.ndarray:
        if self._kind == "classification":
            number = {name: i for i, name in enumerate(self._classes)}
            return np.array([number[item.label] for item in items], int)
        if self._kind == "multilabel":
            return np.array([[name in item.label for name in self._classes] for item in items], bool)
        return np.array([item.label for item in items], float).reshape(len(items), -1)

    def _of_clips(self, split: str, outputs: np.ndarray) -> np.ndarray:
        """[H, clips, C] of [H, windows, C], in the labels' units."""
        lengths = self._lengths[split]
        starts = np.cumsum([0, *lengths[:-1]])
        found = np.add.reduceat(outputs.astype(np.float64), starts, axis=1) / np.array(lengths)[:, None]
        return found * self._deviation + self._mean if self._kind == "regression" else found


class FrameProblem:
    """A label a frame; frames that no span covers, or whose label is not among the classes, are ignored."""

    objective: Objective = "cross_entropy"

    def __init__(self, metrics: Sequence[str], classes: Sequence[str], features: Features) -> None:
        self._metrics, self._classes, self._features = tuple(metrics), tuple(classes), features
        self._items = _by_split(features.items)
        self.counts = {split: len(found) for split, found in self._items.items()}
        self.num_outputs = len(classes)
        number = {name: i for i, name in enumerate(classes)}
        assert features.frame_rate_hz is not None
        self._rate = features.frame_rate_hz
        self._truth = {
            split: [
                _frame_labels(features.items[i].label, number, features.frames(i).shape[1], self._rate)
                for i in found
            ]
            for split, found in self._items.items()
        }
        self.num_layers, _, width = features.frames(0).shape
        most = _TRAINING_BYTES // (4 * width * self.num_layers)
        self._chosen = {"train": _choose(self._truth["train"], most), "val": _choose(self._truth["val"])}
        for split, chosen in self._chosen.items():
            if not sum(map(len, chosen)):
                raise UserError(
                    f"no frame of the {split} split has a label of the vocabulary; nothing is left to learn"
                )
        self.layer_bytes = 4 * width * sum(map(len, self._chosen["train"]))

    def rows(
        self, split: str, layers: Sequence[int] | None = None, picks: Sequence[int] | None = None
    ) -> Rows:
        inputs, targets = [], []
        for i in range(self.counts[split]) if picks is None else picks:
            kept = self._kept(split, i)
            inputs.append(_frames(self._features, self._items[split][i], layers, kept))
            targets.append(self._truth[split][i][kept])
        return Rows(np.concatenate(inputs, axis=1), np.concatenate(targets).astype(np.int32))

    def item_targets(self, split: str, index: int) -> np.ndarray:
        return self._truth[split][index].astype(np.int32)

    def validate(self, outputs: np.ndarray) -> np.ndarray:
        truth = np.concatenate(
            [self._truth["val"][i][self._kept("val", i)] for i in range(self.counts["val"])]
        )
        return scores.validation_score("frame_accuracy", truth, outputs, diverged=FAILED)

    def test(self, outputs: np.ndarray) -> Outcome:
        truth = self._truth["test"]
        decided = np.split(outputs.argmax(axis=-1), np.cumsum([len(t) for t in truth])[:-1])
        result: dict[str, Score] = {}
        for metric in self._metrics:
            if metric == "chord_majmin":
                labels = [self._features.items[i].label for i in self._items["test"]]
                names = [np.array(self._classes)[d] for d in decided]
                result[metric] = scores.chord_majmin(labels, names, self._rate)
            else:
                result[metric] = scores.frame_accuracy(truth, decided)
        flat = np.concatenate(truth), np.concatenate(decided)
        return Outcome(result, scores.confusion(*flat, self.num_outputs))

    def constant_outputs(self) -> np.ndarray:
        train = np.concatenate(self._truth["train"])
        one = np.bincount(train[train >= 0], minlength=self.num_outputs).astype(float)
        return np.tile(one, (sum(map(len, self._truth["test"])), 1))

    def draw(self, shots: int, seed: int) -> list[int]:
        return _draw(np.zeros(self.counts["train"], int), "classification", shots, seed)

    def _kept(self, split: str, i: int) -> np.ndarray:
        """Which frames of an item are rows: on test all of them, since a piece is scored whole."""
        if split == "test":
            return np.arange(len(self._truth[split][i]))
        return self._chosen[split][i]


class BeatProblem:
    """Beats and downbeats: two activations a frame, decoded by the bar-pointer model of `beats.py`.

    The average precision of the activations chooses on the validation split; the decoder runs on test alone.
    """

    objective: Objective = "binary"

    def __init__(self, metrics: Sequence[str], features: Features) -> None:
        self._features = features
        self._items = _by_split(features.items)
        self.counts = {split: len(found) for split, found in self._items.items()}
        assert features.frame_rate_hz is not None
        self._rate = features.frame_rate_hz
        labels: list[Beats] = [item.label for item in features.items]
        known = {split: [i for i in found if labels[i].downbeats] for split, found in self._items.items()}
        has_downbeats = all(known.values())
        self._metrics = [m for m in metrics if has_downbeats or m != "downbeat_f"]
        self.num_outputs = 2 if has_downbeats else 1
        self.notes: list[str] = []
        if has_downbeats:
            # A head that is to tell downbeats cannot learn from pieces that do not say where they are.
            missing = {s: len(self._items[s]) - len(known[s]) for s in SPLITS}
            if any(missing.values()):
                self.notes.append(
                    f"Without known downbeats are {missing['train']} training, {missing['val']} validation "
                    f"and "
                    f"{missing['test']} test pieces: no head learns from them, and downbeats are scored "
                    f"without them."
                )
            self._items |= {split: known[split] for split in ("train", "val")}
            self.counts |= {split: len(known[split]) for split in ("train", "val")}
        self._lengths = [features.frames(i).shape[1] for i in range(len(labels))]
        self.num_layers, _, width = features.frames(0).shape
        most = _TRAINING_BYTES // (4 * width * self.num_layers)
        whole = {s: [np.zeros(self._lengths[i], int) for i in self._items[s]] for s in ("train", "val")}
        self._chosen = {"train": _choose(whole["train"], most), "val": _choose(whole["val"])}
        self.layer_bytes = 4 * width * sum(map(len, self._chosen["train"]))

    def rows(
        self, split: str, layers: Sequence[int] | None = None, picks: Sequence[int] | None = None
    ) -> Rows:
        inputs, targets = [], []
        for i in range(self.counts[split]) if picks is None else picks:
            at = self._items[split][i]
            kept = np.arange(self._lengths[at]) if split == "test" else self._chosen[split][i]
            inputs.append(_frames(self._features, at, layers, kept))
            targets.append(self._targets(at, WIDENED_FRAMES)[kept])
        return Rows(np.concatenate(inputs, axis=1), np.concatenate(targets).astype(np.float32))

    def item_targets(self, split: str, index: int) -> np.ndarray:
        return self._targets(self._items[split][index], WIDENED_FRAMES)

    def validate(self, outputs: np.ndarray) -> np.ndarray:
        targets = [
            self._targets(at, WIDENED_FRAMES)[kept]
            for at, kept in zip(self._items["val"], self._chosen["val"], strict=True)
        ]
        truth = np.concatenate(targets) > 0
        return scores.validation_score("average_precision", truth, outputs, diverged=FAILED)

    def test(self, outputs: np.ndarray) -> Outcome:
        activations = 1 / (1 + np.exp(-outputs.astype(np.float64)))
        lengths = [self._lengths[i] for i in self._items["test"]]
        pieces = np.split(activations, np.cumsum(lengths)[:-1])
        found = [decode_beats(piece, self._rate) for piece in pieces]
        truth: list[Beats] = [self._features.items[i].label for i in self._items["test"]]
        result: dict[str, Score] = {}
        for metric in self._metrics:
            which = "downbeats" if metric == "downbeat_f" else "beats"
            pairs = [
                (getattr(t, which), getattr(f, which))
                for t, f in zip(truth, found, strict=True)
                if getattr(t, which)
            ]
            result[metric] = scores.beat_f([t for t, _ in pairs], [f for _, f in pairs])
        return Outcome(result)

    def constant_outputs(self) -> None:
        return None

    def draw(self, shots: int, seed: int) -> list[int]:
        return _draw(np.zeros(self.counts["train"], int), "classification", shots, seed)

    def _targets(self, at: int, widen: int) -> np.ndarray:
        label = self._features.items[at].label
        return beat_targets(label, self._lengths[at], self._rate, widen)[:, : self.num_outputs]


def baseline(problem: Problem) -> Outcome | None:
    """Returns what a head is worth that hears nothing; None where there is no such head."""
    outputs = problem.constant_outputs()
    return None if outputs is None else problem.test(outputs)


def unseen_classes(items: Sequence[Item], kind: Kind, classes: Sequence[str]) -> Mapping[str, int]:
    """Returns the classes that no training item has, with the number of test items that have them."""
    if kind not in ("classification", "multilabel", "frames"):
        return {}
    seen = {
        split: Counter(c for i in items if i.split == split for c in _classes_of(i, kind)) for split in SPLITS
    }
    return {name: seen["test"][name] for name in classes if not seen["train"][name]}


def _classes_of(item: Item, kind: Kind) -> set[str]:
    if kind == "classification":
        return {item.label}
    return set(item.label) if kind == "multilabel" else {label for _, _, label in item.label}


def _by_split(items: Sequence[Item]) -> dict[str, list[int]]:
    return {split: [i for i, item in enumerate(items) if item.split == split] for split in SPLITS}


def _frames(features: Features, index: int, layers: Sequence[int] | None, kept: np.ndarray) -> np.ndarray:
    """[layers, kept, D] of a clip."""
    frames = features.frames(index)
    return (frames if layers is None else frames[list(layers)])[:, kept]


def _frame_labels(
    spans: Sequence[tuple[float, float, str]], number: Mapping[str, int], num_frames: int, rate: float
) -> np.ndarray:
    """int [T], the class at the middle of each frame, -1 where there is none."""
    middle = (np.arange(num_frames) + 0.5) / rate
    truth = np.full(num_frames, scores.IGNORED)
    for start, end, label in spans:
        truth[(start <= middle) & (middle < end)] = number.get(label, scores.IGNORED)
    return truth


def _choose(truth: Sequence[np.ndarray], most: int = _VALIDATION_ROWS) -> list[np.ndarray]:
    """Frames of each piece that have a label, evenly spread, at most so many in all."""
    labelled = [np.flatnonzero(t != scores.IGNORED) for t in truth]
    every = max(1, -(-sum(map(len, labelled)) // max(1, most)))
    return [frames[::every] for frames in labelled]


def _draw(labels: np.ndarray, kind: Kind, shots: int, seed: int) -> list[int]:
    rng = np.random.default_rng([seed, shots])
    if kind == "multilabel":
        groups = [np.flatnonzero(column) for column in labels.T]
    elif kind == "classification":
        groups = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    else:
        groups = [np.arange(len(labels))]
    return sorted({int(i) for group in groups for i in rng.permutation(group)[:shots]})
