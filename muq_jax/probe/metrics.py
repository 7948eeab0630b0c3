"""A score for every test item, and bootstrap intervals over the items."""

from collections.abc import Callable, Sequence

import mir_eval
import numpy as np

ItemScore = Callable[[np.ndarray, np.ndarray], np.ndarray]


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns [N], 1.0 where the label is right and 0.0 elsewhere."""
    return (truth == predicted).astype(np.float64)


def weighted_key_score(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns [N], mir_eval's weighted key score of each item.

    1 for the same key, 0.5 for a perfect fifth above the true one, 0.3 for the relative key, 0.2 for the
    parallel.

    Args:
        truth, predicted: [N] names such as `Gb:maj`, `F# minor`, `A:min`.
    """
    pairs = zip(truth, predicted, strict=True)
    return np.array([mir_eval.key.weighted_score(_mir_eval_key(t), _mir_eval_key(p)) for t, p in pairs])


METRICS: dict[str, ItemScore] = {"accuracy": accuracy, "weighted_key_score": weighted_key_score}


def bootstrap_interval(
    tasks: Sequence[np.ndarray], *, confidence: float = 0.95, num_resamples: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """The mean over tasks of the mean over items, and its percentile bootstrap interval.

    The items of each task are resampled with replacement within the task. Given differences of two encoders'
    scores on the same items, this is the paired bootstrap.

    Args:
        tasks: one array [N] of item scores a task; a list of one for a single task.

    Returns:
        (value, low, high)

    Raises:
        ValueError: no task, or a task without items.
    """
    if not tasks or any(len(items) == 0 for items in tasks):
        raise ValueError("a bootstrap needs at least one item in every task")
    rng = np.random.default_rng(seed)
    means = np.zeros(num_resamples)
    for items in tasks:
        picks = rng.integers(len(items), size=(num_resamples, len(items)))
        means += np.asarray(items, np.float64)[picks].mean(axis=1) / len(tasks)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(np.mean([np.mean(items) for items in tasks])), float(low), float(high)


def _mir_eval_key(name: str) -> str:
    """`Gb:maj` and `Gb major` as mir_eval spells them: `Gb major`."""
    tonic, _, mode = str(name).replace(":", " ").partition(" ")
    return f"{tonic} {({'maj': 'major', 'min': 'minor'}).get(mode, mode)}"
