"""Probes of several encoders on one task: who gets which test items right."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from muq_jax.errors import UserError
from muq_jax.probe.features import LabelledClip
from muq_jax.probe.heads import Split, fit_head
from muq_jax.probe.metrics import METRICS

MOST_FREQUENT = "most frequent class"
UNTRAINED = "untrained"
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Task:
    """A classification task: its label, and the metrics to report; the first chooses layer and penalty."""

    name: str
    label: str
    metrics: tuple[str, ...] = ("accuracy",)


@dataclasses.dataclass(frozen=True)
class Result:
    """One encoder on one task.

    Attributes:
        layer: chosen on the validation split; None for the most frequent class.
        validation: the validation score of each layer.
        item_scores: [N_test], the mean over seeds of each test item's score, a metric each.
        counts: items in train, val and test.
    """

    task: str
    encoder: str
    layer: int | None
    validation: tuple[float, ...]
    item_scores: dict[str, np.ndarray]
    counts: tuple[int, int, int]
    num_seeds: int

    @property
    def main_scores(self) -> np.ndarray:
        """[N_test], by the task's first metric."""
        return next(iter(self.item_scores.values()))


def run_task(
    task: Task,
    clips: Sequence[LabelledClip],
    features: Mapping[str, Sequence[np.ndarray]],
    *,
    num_seeds: int = 3,
) -> list[Result]:
    """Fits and scores a head on every encoder's features; the most frequent training class comes first.

    Args:
        clips: in the order of the features; those without a label for this task are left out.
        features: [layers, N, D] of each encoder, in a list: one entry, or one an instance (the
            initialisations of an untrained one).

    Raises:
        UserError: a split has no clip with this label, or the training split fewer than two classes.
    """
    labels = [clip.labels.get(task.label) for clip in clips]
    labelled = [i for i, label in enumerate(labels) if label is not None]
    where = {split: np.array([i for i in labelled if clips[i].split == split], int) for split in SPLITS}
    text = np.array([str(label) for label in labels])
    train, val, test = (text[where[split]] for split in SPLITS)
    counts = (len(train), len(val), len(test))
    if min(counts) == 0 or len(set(train)) < 2:
        raise UserError(
            f"probe {task.name}: found {counts[0]} training, {counts[1]} validation and {counts[2]} test "
            f"clips with a label {task.label!r} and {len(set(train))} classes to learn; expected clips in "
            "every split and at least two classes. Add labels or leave this task out"
        )

    def result(
        encoder: str, layer: int | None, validation: Sequence[float], predicted: Any, seeds: int
    ) -> Result:
        scores = {m: np.mean([METRICS[m](test, p) for p in predicted], axis=0) for m in task.metrics}
        return Result(task.name, encoder, layer, tuple(validation), scores, counts, seeds)

    # Ties go to the name that sorts first, so that the baseline does not hang on the order of the clips.
    commonest = min(Counter(train.tolist()).items(), key=lambda item: (-item[1], item[0]))[0]
    results = [result(MOST_FREQUENT, None, (), np.full((1, len(test)), commonest), 1)]
    for encoder, instances in features.items():
        fitted = fit_head(
            [Split(x[:, where["train"]], train) for x in instances],
            [Split(x[:, where["val"]], val) for x in instances],
            [x[:, where["test"]] for x in instances],
            METRICS[task.metrics[0]],
            num_seeds,
        )
        validation = fitted.validation.tolist()
        results.append(result(encoder, fitted.layer, validation, fitted.predicted, num_seeds))
    return results
