"""How well a ranking by cosine answers: which excerpts of the same piece come first.

An excerpt asks, all others of a pool are ranked, and those of its own piece are relevant. Scores are means
over a piece's excerpts, so that every piece counts the same.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from muq_jax.inference.search import nearest

METRICS = ("recall@1", "recall@5", "MRR", "MAP")

# [N] values of each field of the excerpts; `piece` and `split` are always there.
Fields = Mapping[str, np.ndarray]


class Question(NamedTuple):
    """Who asks and what is searched.

    Attributes:
        name: for tables.
        asking: splits whose excerpts ask.
        searched: splits that are searched; those that ask are among them.
        same: a field; only excerpts that agree in it are searched.
    """

    name: str
    asking: tuple[str, ...]
    searched: tuple[str, ...]
    same: str | None = None


def ranking_scores(relevant: np.ndarray) -> np.ndarray:
    """Returns the `METRICS` of each query, [4, Q]; recall@k is whether any of the first k is relevant.

    Args:
        relevant: bool [Q, N], best match first, at least one in each row.
    """
    first = relevant.argmax(axis=1)
    precision = np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)
    average_precision = (precision * relevant).sum(axis=1) / relevant.sum(axis=1)
    return np.stack([first < 1, first < 5, 1 / (first + 1), average_precision])


def piece_scores(matrix: np.ndarray, fields: Fields, question: Question) -> dict[str, np.ndarray]:
    """Returns the `METRICS` [4] of each piece that asks, the mean over its excerpts.

    A piece of one excerpt does not ask, it is only found; one that would search itself alone is left out.

    Args:
        matrix: [N, D].
        fields: of the N excerpts.
        question: who asks and what is searched.
    """
    scores = defaultdict(list)
    searched = np.isin(fields["split"], question.searched)
    pool = fields[question.same] if question.same else np.zeros(len(matrix), int)
    for value in np.unique(pool[searched]):
        rows = np.flatnonzero(searched & (pool == value))
        piece = fields["piece"][rows]
        if len(set(piece)) < 2:
            continue
        _, order = nearest(matrix[rows], matrix[rows], len(rows))
        others = order[order != np.arange(len(rows))[:, None]].reshape(len(rows), -1)
        relevant = piece[others] == piece[:, None]
        asks = np.isin(fields["split"][rows], question.asking) & relevant.any(axis=1)
        for name, query in zip(piece[asks], ranking_scores(relevant[asks]).T, strict=True):
            scores[str(name)].append(query)
    return {name: np.mean(queries, axis=0) for name, queries in sorted(scores.items())}
