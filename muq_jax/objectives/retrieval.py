"""How well queries find their right items by similarity: recall, mean average precision, median rank.

Items of equal similarity stand in random order, and every number is its exact mean over these orders (as in
McSherry and Najork, ECIR 2008): a model to which all items are alike gets what chance gives, no more.
"""

from typing import NamedTuple

import numpy as np

_DEPTH = 10  # of the mean average precision
_BLOCK = 1 << 22  # similarities that are looked at together, so that memory stays near that of the matrix
_ROUNDING = 1e-9


class Ranking(NamedTuple):
    """Means over queries; shares of 1, but for the rank.

    Attributes:
        recall_at_1, recall_at_5, recall_at_10: how often a right item is among the first k.
        map_at_10: mean average precision of the first ten; the best that a query can reach is 1, also where
            it has more than ten right items.
        median_rank: the first k with which at least half of the queries find a right item, from 1 on.
    """

    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    map_at_10: float
    median_rank: float


class Retrieval(NamedTuple):
    """What queries found, and what they would find if all items stood in random order."""

    scores: Ranking
    chance: Ranking
    num_queries: int
    num_items: int


class _Best(NamedTuple):
    """Float64 [N] each: items above a query's best right one, those tied with it, the right ones of these."""

    above: np.ndarray
    tied: np.ndarray
    right: np.ndarray


def retrieval(similarity: np.ndarray, right: np.ndarray) -> Retrieval:
    """Returns how well queries find their items.

    Args:
        similarity: [N queries, M items]; only its order within a row counts.
        right: bool [N, M], what a query should find, at least one item each.

    Raises:
        ValueError: other shapes, nothing to rank, a similarity that is no finite number, or a query without a
            right item.
    """
    similarity, right = _checked(similarity, right)
    num_queries, num_items = similarity.shape
    best = _best(similarity, right)
    scores = _ranking(best, _average_precision(similarity, right), num_items)
    return Retrieval(scores, chance(right.sum(axis=1), num_items), num_queries, num_items)


def both_ways(similarity: np.ndarray, right: np.ndarray) -> tuple[Retrieval, Retrieval]:
    """Returns what rows find among columns, and columns among rows; arguments are those of `retrieval`."""
    similarity, right = np.asarray(similarity), np.asarray(right)
    return retrieval(similarity, right), retrieval(similarity.T, right.T)


def chance(num_right: np.ndarray, num_items: int) -> Ranking:
    """Returns what queries find on average if all items stand in random order.

    The median rank is that of all queries and orders together.

    Args:
        num_right: [N], how many of the items are right for each query, at least one.
        num_items: M.
    """
    right = np.asarray(num_right, np.float64)
    best = _Best(np.zeros_like(right), np.full_like(right, num_items), right)
    precision = np.zeros_like(right)
    for position in range(1, min(_DEPTH, num_items) + 1):
        precision += _share_at(position, np.zeros_like(right), best.above, best.tied, right)
    return _ranking(best, precision / np.minimum(right, _DEPTH), num_items)


def best_ranks(similarity: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns [N], the rank of each query's best right item, 1 the first; of ties the mean over their orders.

    Arguments and errors are those of `retrieval`.
    """
    above, tied, right_tied = _best(*_checked(similarity, right))
    return above + (tied + 1) / (right_tied + 1)


def _ranking(best: _Best, precision: np.ndarray, num_items: int) -> Ranking:
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num_items + 1)))])

    def recall(k: int) -> float:
        """How often, on average, a right item is among the first k."""
        drawn = np.clip(k - best.above, 0, best.tied)  # of the tied ones, those among the first k
        wrong = best.tied - best.right
        possible = drawn <= wrong  # that none of those is right
        n = [np.where(possible, x, 0).astype(int) for x in (wrong, best.tied - drawn, wrong - drawn)]
        missed = log_factorial[n[0]] + log_factorial[n[1]] - log_factorial[n[2]]
        missed -= np.where(possible, log_factorial[best.tied.astype(int)], np.inf)
        return float(np.mean(-np.expm1(missed)))

    low, high = 1, num_items
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(middle) >= 0.5 - _ROUNDING else (middle + 1, high)
    return Ranking(recall(1), recall(5), recall(10), float(precision.mean()), float(low))


def _best(similarity: np.ndarray, right: np.ndarray) -> _Best:
    blocks = []
    for rows in _blocks(similarity):
        values, good = similarity[rows], right[rows]
        best = np.where(good, values, -np.inf).max(axis=1, keepdims=True)
        tied = values == best
        counts = ((values > best).sum(axis=1), tied.sum(axis=1), (tied & good).sum(axis=1))
        blocks.append(np.stack(counts).astype(np.float64))
    return _Best(*np.concatenate(blocks, axis=1))


def _average_precision(similarity: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Average precision [N] of each query's first items."""
    depth = min(_DEPTH, similarity.shape[1])
    found = []
    for rows in _blocks(similarity):
        values, good = similarity[rows], right[rows]
        first = -np.sort(np.partition(-values, depth - 1, axis=1)[:, :depth], axis=1)
        precision = np.zeros(len(values))
        for position, value in enumerate(first.T, start=1):
            above, tied = values > value[:, None], values == value[:, None]
            counts = ((above & good).sum(axis=1), above.sum(axis=1), tied.sum(axis=1))
            precision += _share_at(position, *counts, (tied & good).sum(axis=1))
        found.append(precision / np.minimum(good.sum(axis=1), _DEPTH))
    return np.concatenate(found)


def _share_at(
    position: int, right_above: np.ndarray, above: np.ndarray, tied: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """The mean, over the orders of ties, of whether the item here is right times the precision down to it.

    Args:
        position: from 1 on.
        right_above, above: items above those tied here that are right, and all, [N].
        tied, right: items tied here, and how many of them are right, [N].
    """
    before = (position - 1 - above) * (right - 1) / np.maximum(tied - 1, 1)
    return np.where(right > 0, right / tied * (right_above + 1 + before) / position, 0.0)


def _blocks(similarity: np.ndarray) -> list[slice]:
    size = max(1, _BLOCK // similarity.shape[1])
    return [slice(start, start + size) for start in range(0, len(similarity), size)]


def _checked(similarity: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    similarity, right = np.asarray(similarity), np.asarray(right)
    if similarity.ndim != 2 or not similarity.size or similarity.shape != right.shape:
        raise ValueError(
            f"retrieval: found similarities of shape {similarity.shape} and right items of shape "
            f"{right.shape}; expected [queries, items] twice, neither of them empty"
        )
    if right.dtype != bool:
        raise ValueError(f"retrieval: right items are {right.dtype}; expected bool")
    if not np.isfinite(similarity).all():
        query, item = np.argwhere(~np.isfinite(similarity))[0]
        raise ValueError(
            f"retrieval: query {query} and item {item} have the similarity {similarity[query, item]}"
        )
    if not right.any(axis=1).all():
        raise ValueError(f"retrieval: query {np.flatnonzero(~right.any(axis=1))[0]} has no right item")
    return similarity, right
