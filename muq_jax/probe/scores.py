"""The metrics of MARBLE's tasks, and the fast scores by which many heads are compared during training."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mir_eval
import numpy as np
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from muq_jax.probe import metrics

BEAT_WINDOW_SECONDS = 0.07
IGNORED = -1  # the class of a frame that is not scored

LARGEST = 1e150  # of a regression's numbers: the squares of larger ones overflow


class Score(NamedTuple):
    """A metric over a split, never NaN.

    Every metric here raises ValueError for numbers that are not finite, shapes that do not fit and a split
    with nothing that can be scored; the text names the item, piece or file, counted from 0.

    Attributes:
        value: the metric.
        items: [N] float64 whose mean is the value, where the metric is a mean over items. (Of `beat_f` alone
            the mean is another one than the value: the F of each file against that of the pooled counts.)
        left_out: indices of the classes that could not be scored and are not in the value.
    """

    value: float
    items: np.ndarray | None = None
    left_out: tuple[int, ...] = ()


def accuracy(truth: np.ndarray, scores: np.ndarray) -> Score:
    """The share of items whose highest score is the true class's; of equal scores the first counts.

    Args:
        truth: [N] int.
        scores: [N, C].
    """
    truth, decided = _decide("accuracy", truth, scores)
    return _mean(truth == decided)


def balanced_accuracy(truth: np.ndarray, scores: np.ndarray) -> Score:
    """The mean over classes of the share of their items that are decided right, as scikit-learn's.

    A class without items is left out. One answer for all items gives 1 / classes, however frequent it is.

    Args:
        truth: [N] int.
        scores: [N, C]; the highest decides, of equal ones the first.
    """
    truth, decided = _decide("balanced_accuracy", truth, scores)
    num_classes = np.shape(scores)[1]
    counts = np.bincount(truth, minlength=num_classes)
    hits = np.bincount(truth[truth == decided], minlength=num_classes)
    occurs = counts > 0
    left_out = tuple(np.flatnonzero(~occurs).tolist())
    return Score(float(np.mean(hits[occurs] / counts[occurs])), None, left_out)


def weighted_key_score(truth: np.ndarray, scores: np.ndarray, classes: Sequence[str]) -> Score:
    """The mean of `mir_eval.key.weighted_score` over items; the highest score decides.

    Args:
        truth: [N] int.
        scores: [N, C].
        classes: [C] names such as `Gb:maj`, `F# minor`, `A:min`.
    """
    truth, decided = _decide("weighted_key_score", truth, scores)
    _check(
        len(classes) == np.shape(scores)[1],
        f"weighted_key_score: {np.shape(scores)[1]} scores an item, but {len(classes)} classes are named",
    )
    return _mean(_key_scores(tuple(classes))[truth, decided])


def roc_auc(truth: np.ndarray, scores: np.ndarray) -> Score:
    """The mean over classes of the area under the ROC curve, as scikit-learn's.

    A class without positives or without negatives is left out.

    Args:
        truth: [N, C] bool.
        scores: [N, C]; only their order within a class counts.
    """
    return _macro("roc_auc", truth, scores, _each_by(roc_auc_score))


def average_precision(truth: np.ndarray, scores: np.ndarray) -> Score:
    """The mean over classes of the average precision, as scikit-learn's (not interpolated).

    A class without positives is left out.

    Args:
        truth: [N, C] bool.
        scores: [N, C]; only their order within a class counts.
    """
    return _macro("average_precision", truth, scores, _each_by(average_precision_score))


def r2(truth: np.ndarray, predicted: np.ndarray) -> Score:
    """The mean over targets of the coefficient of determination; see `r2_of_each`."""
    return Score(float(r2_of_each(truth, predicted).mean()))


def r2_of_each(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns [K], the coefficient of determination of each target, as scikit-learn's.

    A target whose truth is the same number in every item has, by scikit-learn's convention, 1.0 where every
    prediction is exactly that number, and 0.0 otherwise; it stays in the mean.

    Args:
        truth, predicted: [N, K], of at least two items.
    """
    truth, predicted = _regression("r2", truth, predicted)
    _check(len(truth) > 1, "r2: found 1 item; a variance needs at least two")
    with np.errstate(over="ignore"):
        each = r2_score(truth, predicted, multioutput="raw_values")
    # The mean of equal numbers may miss them by a rounding error, which r2_score takes for a variance.
    constant = (truth == truth[0]).all(axis=0)
    each = np.where(constant, (truth == predicted).all(axis=0), each)
    bad = np.flatnonzero(~np.isfinite(each))
    if len(bad):
        raise ValueError(f"r2: target {bad[0]}: the errors are too large beside its variance")
    return each


def mean_absolute_error(truth: np.ndarray, predicted: np.ndarray) -> Score:
    """The mean over items and targets of the absolute error: the smaller, the better.

    Args:
        truth, predicted: [N, K].
    """
    truth, predicted = _regression("mean_absolute_error", truth, predicted)
    return _mean(np.abs(truth - predicted).mean(axis=1))


def frame_accuracy(truth: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> Score:
    """The share of right frames among those of all pieces that are not ignored.

    Args:
        truth: an int array [T_i] a piece; frames that are -1 are ignored.
        predicted: an int array [T_i] a piece.
    """
    _check_pieces("frame_accuracy", truth, predicted)
    right = []
    for i, (true_classes, classes) in enumerate(zip(truth, predicted, strict=True)):
        where = f"frame_accuracy: piece {i}"
        t = _classes(where, true_classes, None, lowest=IGNORED)
        p = _classes(where, classes, None, lowest=IGNORED)
        _check(t.shape == p.shape, f"{where} has {len(t)} true and {len(p)} predicted frames")
        right.append((t == p)[t != IGNORED])
    pooled = np.concatenate(right)
    _check(len(pooled) > 0, "frame_accuracy: every frame is ignored; nothing can be scored")
    return Score(float(pooled.mean()))


def chord_majmin(
    truth: Sequence[Sequence[tuple[float, float, str]]],
    predicted: Sequence[np.ndarray],
    frame_rate_hz: float,
) -> Score:
    """The share of the time that has the right chord, by mir_eval's comparison of major, minor and no chord.

    Over all pieces together: the seconds that are right, divided by the seconds whose true chord can be
    compared (is major or minor up to its fifth, or none). A long piece so counts for more than a short one;
    one piece alone has mir_eval's own score. As there, a piece goes from its first true span's start to the
    last one's end, and `N` is predicted beyond its frames; where true spans overlap, the later one holds.
    Time that no span covers is not scored.

    Args:
        truth: a piece's spans (start, end, label) in seconds, in order, with labels such as `A:min7` or `N`.
        predicted: an array [T_i] of labels a piece; frame t lasts from second t / frame_rate_hz
            until the next one begins.
    """
    _check_pieces("chord_majmin", truth, predicted)
    _check(0 < frame_rate_hz < np.inf, f"chord_majmin: found a frame rate of {frame_rate_hz} Hz")
    comparisons, seconds = [np.zeros(0)], [np.zeros(0)]
    for i, (spans, labels) in enumerate(zip(truth, predicted, strict=True)):
        try:
            edges, names = _without_gaps(spans)
            if names:
                compared, lasting = _compare_chords(edges, names, np.asarray(labels), frame_rate_hz)
                comparisons.append(compared)
                seconds.append(lasting)
        except (ValueError, mir_eval.chord.InvalidChordException) as error:
            raise ValueError(f"chord_majmin: piece {i}: {error}") from error
    pooled = np.concatenate(comparisons)
    _check((pooled >= 0).any(), "chord_majmin: no true chord is major, minor or N; nothing can be scored")
    return Score(float(mir_eval.chord.weighted_accuracy(pooled, np.concatenate(seconds))))


def beat_f(truth: Sequence[Sequence[float]], predicted: Sequence[Sequence[float]]) -> Score:
    """The F-measure of beats at 70 ms, of the counts of all files together, as MARBLE reports it.

    With mir_eval's largest matching, a file has matched beats (TP), predicted ones without a match (FP) and
    true ones without (FN); the value is 2 TP / (2 TP + FP + FN) of their sums over the files. `items` is
    `mir_eval.beat.f_measure` of each file. Both are 0 where there is nothing at all to count. No beats are
    trimmed from the start. A file without true beats counts its predicted ones as wrong: leave files out
    whose beats are not known.

    Args:
        truth, predicted: times in seconds a file, in order, perhaps none.
    """
    _check_pieces("beat_f", truth, predicted)
    num_matched, num_beats = 0, 0
    items = np.zeros(len(truth))
    for i, pair in enumerate(zip(truth, predicted, strict=True)):
        true_times, times = (np.asarray(x, np.float64) for x in pair)
        for name, events in (("true", true_times), ("predicted", times)):
            _check(np.isfinite(events).all(), f"beat_f: file {i}: a {name} time is not finite")
            try:
                mir_eval.util.validate_events(events, mir_eval.beat.MAX_TIME)
            except ValueError as error:
                raise ValueError(f"beat_f: file {i}: {name} times: {error}") from error
        matched = len(mir_eval.util.match_events(true_times, times, BEAT_WINDOW_SECONDS))
        num_matched += matched
        num_beats += len(true_times) + len(times)
        if matched:
            items[i] = mir_eval.util.f_measure(matched / len(times), matched / len(true_times))
    return Score(2 * num_matched / max(num_beats, 1), items)


def confusion(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns int [C, C], how many items of each true class (row) were taken for each class (column).

    Args:
        truth, predicted: [N] int; items whose truth is -1 are ignored.
    """
    truth = _classes("confusion", truth, num_classes, lowest=IGNORED)
    predicted = _classes("confusion", predicted, num_classes)
    _check(len(truth) == len(predicted), f"confusion: {len(truth)} items, but {len(predicted)} predictions")
    kept = truth != IGNORED
    cells = truth[kept] * num_classes + predicted[kept]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def validation_score(
    metric: str,
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    classes: Sequence[str] | None = None,
    diverged: float | None = None,
) -> np.ndarray:
    """Returns [H], the metric of each of many heads on the same items: the higher, the better.

    Equal to the function of the metric's name, but fast also for `roc_auc` and `average_precision`.
    `mean_absolute_error` is negated.

    Args:
        metric: "accuracy", "balanced_accuracy", "weighted_key_score", "roc_auc", "average_precision", "r2",
            "mean_absolute_error" or "frame_accuracy".
        truth: as the metric's; of frame_accuracy [N] int, the frames of all pieces one after the other.
        scores: [H, N, C], or predictions [H, N, K] of a regression.
        classes: [C] names, for the key score.
        diverged: the result for a head with a score that is NaN or infinite; None raises ValueError instead.
    """
    _check(metric in _OF_A_HEAD, f"found no validation score {metric!r}; expected one of {[*_OF_A_HEAD]}")
    needs_classes = metric == "weighted_key_score"
    _check(classes is not None or not needs_classes, "weighted_key_score needs the classes' names")
    extra = (classes,) if needs_classes else ()
    scores = _as_float(scores)
    _check(scores.ndim == 3, f"{metric}: found scores of shape {scores.shape}; expected [H, N, C]")
    result = np.empty(len(scores))
    for h, head in enumerate(scores):
        if diverged is not None and not np.isfinite(head).all():
            result[h] = diverged
        else:
            _check_finite(f"{metric}: head {h}", head)
            result[h] = _OF_A_HEAD[metric](truth, head, *extra).value
    return result


def _accuracy_of_frames(truth: np.ndarray, scores: np.ndarray) -> Score:
    truth, decided = _decide("frame_accuracy", truth, scores, lowest=IGNORED)
    return frame_accuracy([truth], [decided])


def _negative_error(truth: np.ndarray, predicted: np.ndarray) -> Score:
    return Score(-mean_absolute_error(truth, predicted).value)


def _roc_auc_of_each(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """[C]; equals scikit-learn's up to rounding, for all classes at once."""
    where, hits, seen, hits_before, seen_before = _counts(truth, scores)
    misses_more = (seen - hits) - (seen_before - hits_before)
    areas = np.bincount(where, misses_more * (hits + hits_before) / 2, minlength=truth.shape[1])
    num_hits = truth.sum(axis=0)
    return areas / (num_hits * (len(truth) - num_hits))


def _average_precision_of_each(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """[C]; equals scikit-learn's up to rounding, for all classes at once."""
    where, hits, seen, hits_before, _ = _counts(truth, scores)
    areas = np.bincount(where, (hits - hits_before) * hits / seen, minlength=truth.shape[1])
    return areas / truth.sum(axis=0)


def _counts(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, ...]:
    """Positives and items met by going down the scores of each class, an entry for each different score.

    Returns:
        (class, positives down to and with this score, items likewise, both before this score), each [E], the
        classes one after the other.
    """
    falling = np.negative(scores.T, order="C")
    order = np.argsort(falling, axis=1)
    falling = np.take_along_axis(falling, order, axis=1)
    last = np.ones(falling.shape, bool)  # of equal scores
    last[:, :-1] = falling[:, 1:] != falling[:, :-1]
    hits = np.cumsum(np.take_along_axis(truth.T, order, axis=1), axis=1, dtype=np.float64)[last]
    where, position = np.nonzero(last)
    seen = position + 1.0
    first = np.diff(where, prepend=-1) > 0
    return where, hits, seen, np.where(first, 0, np.roll(hits, 1)), np.where(first, 0, np.roll(seen, 1))


_OfEach = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _macro(metric: str, truth: np.ndarray, scores: np.ndarray, of_each: _OfEach) -> Score:
    """The mean of `of_each` over the classes for which the metric is defined."""
    scores = _items(metric, scores)
    found = np.asarray(truth)
    _check(
        found.shape == scores.shape,
        f"{metric}: found truth of shape {found.shape} and scores of shape {scores.shape}; expected the same",
    )
    truth = found.astype(bool)
    _check((truth == found).all(), f"{metric}: found a truth other than 0 and 1")
    kept, needed = truth.any(axis=0), "positives"
    if metric == "roc_auc":
        kept, needed = kept & ~truth.all(axis=0), "positives and negatives"
    _check(kept.any(), f"{metric}: none of {truth.shape[1]} classes has {needed}; nothing can be scored")
    value = of_each(truth[:, kept], scores[:, kept]).mean()
    return Score(float(value), None, tuple(np.flatnonzero(~kept).tolist()))


def _each_by(library: Callable[..., float]) -> _OfEach:
    def of_each(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # differences of scores, of which only the sign is used
            return np.array([library(*pair) for pair in zip(truth.T, scores.T, strict=True)])

    return of_each


_OF_A_HEAD: dict[str, Callable[..., Score]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "weighted_key_score": weighted_key_score,
    "roc_auc": lambda truth, scores: _macro("roc_auc", truth, scores, _roc_auc_of_each),
    "average_precision": lambda truth, scores: _macro(
        "average_precision", truth, scores, _average_precision_of_each
    ),
    "r2": r2,
    "mean_absolute_error": _negative_error,
    "frame_accuracy": _accuracy_of_frames,
}


@functools.lru_cache(maxsize=8)
def _key_scores(classes: tuple[str, ...]) -> np.ndarray:
    """[true class, class], the key score of every pair."""
    names = np.array(classes)
    pairs = metrics.weighted_key_score(np.repeat(names, len(names)), np.tile(names, len(names)))
    return pairs.reshape(len(names), len(names))


def _without_gaps(spans: Sequence[tuple[float, float, str]]) -> tuple[np.ndarray, list[str]]:
    """Times [n + 1] and labels [n] of stretches that follow on each other, `X` where no span was."""
    times: list[float] = []
    names: list[str] = []
    followings = [start for start, _, _ in spans[1:]] + [np.inf]
    for (start, end, label), following in zip(spans, followings, strict=False):
        _check(-np.inf < start <= end < np.inf, f"found a span from {start} to {end} s")
        _check(start <= following, f"found a span from {start} s before one from {following} s; not in order")
        end = min(end, following)
        if end == start:
            continue
        if not times:
            times.append(start)
        elif start > times[-1]:
            times.append(start)
            names.append(mir_eval.chord.X_CHORD)
        times.append(end)
        names.append(label)
    return np.array(times), names


def _compare_chords(
    edges: np.ndarray, names: list[str], labels: np.ndarray, frame_rate_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """Comparisons (1 right, 0 wrong, -1 cannot be compared) and seconds of the stretches of one piece."""
    _check(labels.ndim == 1, f"found predictions of shape {labels.shape}; expected one label a frame")
    # Equal frames are joined first: mir_eval's merge takes a time that is quadratic in the number of spans.
    changes = np.flatnonzero(np.append(True, labels[1:] != labels[:-1])[: len(labels)])
    intervals = _pairs(np.append(changes, len(labels)) / frame_rate_hz)
    no_chord = mir_eval.chord.NO_CHORD
    intervals, predicted = mir_eval.util.adjust_intervals(
        intervals, [str(label) for label in labels[changes]], edges[0], edges[-1], no_chord, no_chord
    )
    merged, names, predicted = mir_eval.util.merge_labeled_intervals(
        _pairs(edges), names, intervals, predicted
    )
    return mir_eval.chord.majmin(names, predicted), mir_eval.util.intervals_to_durations(merged)


def _pairs(edges: np.ndarray) -> np.ndarray:
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _mean(items: np.ndarray) -> Score:
    items = items.astype(np.float64)
    return Score(float(items.mean()), items)


def _decide(metric: str, truth: Any, scores: Any, lowest: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The truth and the class of the highest score, [N] each."""
    scores = _items(metric, scores)
    truth = _classes(metric, truth, scores.shape[1], lowest)
    _check(
        len(truth) == len(scores), f"{metric}: {len(truth)} true classes, but scores of {len(scores)} items"
    )
    return truth, scores.argmax(axis=1)


def _classes(where: str, classes: Any, num_classes: int | None, lowest: int = 0) -> np.ndarray:
    """The classes [N] as integers from `lowest` to below `num_classes`."""
    found = np.asarray(classes)
    _check(
        found.ndim == 1 and (found.dtype.kind in "iu" or not len(found)),
        f"{where}: found classes of shape {found.shape} and type {found.dtype}; expected integers [N]",
    )
    bad = np.flatnonzero((found < lowest) | (found >= (np.inf if num_classes is None else num_classes)))
    if len(bad):
        raise ValueError(f"{where}: item {bad[0]} has class {found[bad[0]]}, of {num_classes} classes")
    return found.astype(np.int64)


def _regression(metric: str, truth: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    pair = [_items(metric, np.asarray(values, np.float64)) for values in (truth, predicted)]
    _check(
        pair[0].shape == pair[1].shape,
        f"{metric}: found truth of shape {pair[0].shape} and predictions of shape {pair[1].shape}",
    )
    for values in pair:
        bad = np.flatnonzero((np.abs(values) > LARGEST).any(axis=1))
        if len(bad):
            raise ValueError(f"{metric}: item {bad[0]} has a number beyond {LARGEST:g}")
    return pair[0], pair[1]


def _items(metric: str, values: Any) -> np.ndarray:
    """The values [N, C], of at least one item and class, all finite."""
    values = _as_float(values)
    _check(
        values.ndim == 2 and values.size > 0,
        f"{metric}: found values of shape {values.shape}; expected [items, classes or targets], none empty",
    )
    _check_finite(metric, values)
    return values


def _as_float(values: Any) -> np.ndarray:
    values = np.asarray(values)
    return values if values.dtype.kind == "f" else values.astype(np.float64)  # bfloat16 is none of numpy's


def _check_finite(where: str, values: np.ndarray) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        item, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"{where}: item {item} has {values[item, column]} in column {column}; expected numbers"
        )


def _check_pieces(metric: str, truth: Sequence, predicted: Sequence) -> None:
    _check(len(truth) > 0, f"{metric}: nothing to score")
    _check(len(truth) == len(predicted), f"{metric}: {len(truth)} truths, but {len(predicted)} predictions")


def _check(right: Any, problem: str) -> None:
    if not right:
        raise ValueError(problem)
