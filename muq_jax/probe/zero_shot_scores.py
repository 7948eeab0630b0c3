"""What similarities of tracks and texts are worth: raw, calibrated and weighted, beside guessing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from muq_jax.errors import UserError
from muq_jax.objectives.retrieval import Retrieval, both_ways
from muq_jax.probe import scores
from muq_jax.probe.metrics import bootstrap_interval
from muq_jax.probe.scores import Score

RAW, CALIBRATED, WEIGHTED = "raw", "calibrated", "weighted"
_ROUNDING = 1e-6  # of float32 similarities

Found = Mapping[str, np.ndarray]
"""`RAW`, `CALIBRATED` and perhaps `WEIGHTED` scores [N tracks, M texts]."""


def over_tracks(found: np.ndarray) -> np.ndarray:
    """Returns scores [N, M] with mean 0 and deviation 1 over the tracks of every text, as float64.

    A text that fits every track alike has 0: it says nothing.
    """
    found = np.asarray(found, np.float64)
    centred, spread = found - found.mean(axis=0), found.std(axis=0)
    return np.divide(
        centred, spread, out=np.zeros_like(found), where=spread > _ROUNDING * np.abs(found).max(axis=0)
    )


def weighted(similarities: np.ndarray, temperature: float, counts: Sequence[int]) -> np.ndarray:
    """Returns scores [N, M] of labels that are not equally frequent, as float64.

    What a contrastive loss learns is log p(text | track) - log p(text), but for a constant of the track
    (arXiv 1807.03748, section 2.3): a rare label is as near as a frequent one. The frequency is added.

    Args:
        similarities: [N, M].
        temperature: the model's, which multiplies them in its loss.
        counts: [M], clips of each label in the training split; half a clip more is counted of each.
    """
    more = np.asarray(counts, np.float64) + 0.5
    return temperature * np.asarray(similarities, np.float64) + np.log(more / more.sum())


def rate_labels(
    kind: str, metrics: Sequence[str], classes: Sequence[str], right: np.ndarray, found: Found, where: str
) -> dict[str, Any]:
    """Returns the metrics of labels that were found by similarity, each a share of 1.

    Args:
        kind: "classification" or "multilabel".
        metrics: of `probe.scores`.
        classes: [M].
        right: bool [N, M]; one a row in a classification.
        found: the scores.
        where: for messages.

    Returns:
        `scores`, by name and metric; `interval`, 95 % of those that are means over tracks; `chance`, what
        guessing gives on average; `majority`, the best answer that is always the same label (None where a
        track may have several); `without_positives`, labels that were left out, by metric.

    Raises:
        UserError: nothing can be scored.
    """
    try:
        rated = {name: {m: _score(kind, m, classes, right, s) for m in metrics} for name, s in found.items()}
        if kind == "multilabel":
            by_label = chance_average_precision(right.sum(axis=0), len(right))
            by_metric = {"roc_auc": 0.5, "average_precision": float(by_label[right.any(axis=0)].mean())}
            chance = {m: by_metric[m] for m in metrics}
            majority = None
        else:
            constant = np.eye(len(classes))
            answers = {
                m: [_score(kind, m, classes, right, np.tile(row, (len(right), 1))).value for row in constant]
                for m in metrics
            }
            chance = {m: float(np.mean(values)) for m, values in answers.items()}
            majority = {m: max(values) for m, values in answers.items()}
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return {
        "scores": {name: {m: s.value for m, s in own.items()} for name, own in rated.items()},
        "interval": {
            name: {m: bootstrap_interval([s.items])[1:] for m, s in own.items() if s.items is not None}
            for name, own in rated.items()
        },
        "chance": chance,
        "majority": majority,
        "without_positives": {
            m: [classes[c] for c in s.left_out] for m, s in rated[RAW].items() if s.left_out
        },
    }


def chance_average_precision(num_right: np.ndarray, num_items: int) -> np.ndarray:
    """Returns [C], the mean average precision of labels over all orders of the tracks.

    It is above the label's share: of 73 tracks in random order, 1 right one gives 0.067, not 0.014.

    Args:
        num_right: [C], tracks of each label; one that has none gets 0.
        num_items: tracks in all.
    """
    harmonic = (1 / np.arange(1, num_items + 1)).sum()
    others = np.maximum(num_right - 1, 0) / max(num_items - 1, 1)
    return np.where(num_right > 0, (harmonic + others * (num_items - harmonic)) / num_items, 0.0)


def rate_each(kind: str, classes: Sequence[str], right: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """Returns what each label is worth alone: ROC-AUC, average precision and its chance; or a confusion.

    Args:
        kind, classes, right: as of `rate_labels`.
        found: scores [N, M].
    """
    if kind == "classification":
        table = scores.confusion(right.argmax(axis=1), found.argmax(axis=1), len(classes))
        return {"confusion": table.tolist()}
    chance = chance_average_precision(right.sum(axis=0), len(right))
    return {
        "by_label": {
            label: {
                "roc_auc": scores.roc_auc(right[:, [c]], found[:, [c]]).value,
                "average_precision": scores.average_precision(right[:, [c]], found[:, [c]]).value,
                "average_precision_chance": float(chance[c]),
            }
            for c, label in enumerate(classes)
            if 0 < right[:, c].sum() < len(right)
        }
    }


def rate_search(found: Found, right: np.ndarray) -> list[dict[str, Any]]:
    """Returns how well texts find their tracks, and tracks their texts, beside chance.

    Args:
        found: the scores.
        right: bool [N, M], which texts belong to which tracks; every one to some.
    """
    ways = {name: both_ways(own, right) for name, own in found.items()}
    described = (
        ("music to text", "every track asks for its text among all different ones"),
        ("text to music", "every different text asks for its tracks; any track that has this text is right"),
    )
    parts = []
    for way, (name, description) in enumerate(described):
        results: dict[str, Retrieval] = {calibration: both[way] for calibration, both in ways.items()}
        first = results[RAW]
        parts.append(
            {
                "name": name,
                "description": description,
                "num_items": first.num_queries,
                "num_searched": first.num_items,
                "scores": {calibration: own.scores._asdict() for calibration, own in results.items()},
                "chance": first.chance._asdict(),
                "majority": None,
            }
        )
    return parts[::-1]


def _score(kind: str, metric: str, classes: Sequence[str], right: np.ndarray, found: np.ndarray) -> Score:
    if kind == "multilabel":
        by_tag = {"roc_auc": scores.roc_auc, "average_precision": scores.average_precision}
        return by_tag[metric](right, found)
    truth = right.argmax(axis=1)
    if metric == "weighted_key_score":
        return scores.weighted_key_score(truth, found, classes)
    return {"accuracy": scores.accuracy, "balanced_accuracy": scores.balanced_accuracy}[metric](truth, found)
