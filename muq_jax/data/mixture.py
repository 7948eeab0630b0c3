"""Several corpora, each drawn from with its weight: `runs/rock=0.7,runs/folk=0.3`."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from muq_jax.errors import UserError


def parse_mixture(spec: str) -> list[tuple[str, float]] | None:
    """Returns [(corpus, weight), ...] of `CORPUS=WEIGHT,CORPUS=WEIGHT,...`; None if it names one corpus.

    A corpus is whatever `make_source` takes by name, without a comma; weights are relative to each other.
    What is there as a file or folder of that name is never a mixture.

    Raises:
        UserError: one of several is not `CORPUS=WEIGHT`, with a weight above zero.
    """
    if "," not in spec or "=" not in spec or os.path.exists(spec):
        return None
    parts = []
    for item in spec.split(","):
        corpus, _, text = item.rpartition("=")
        weight = _number(text)
        if not corpus or not 0 < weight < math.inf:
            raise UserError(
                f"source {spec!r}: {item!r} is not CORPUS=WEIGHT with a weight above zero; expected a "
                "mixture such as runs/rock=0.7,runs/folk=0.3, or one folder or file, which is not there"
            )
        parts.append((corpus, weight))
    return parts


class Mixture:
    """Several sources as one; `make_batches` draws from each with its weight.

    As a source it is the corpora one after the other, without weights, as for evaluation. An id can come
    twice, from different corpora.
    """

    def __init__(self, sources: Sequence[Any], weights: Sequence[float]):
        self.sources, self.weights = list(sources), list(weights)
        self._ends = list(itertools.accumulate(len(source) for source in self.sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        source, place = self.place(index)
        return source[place]

    def place(self, index: int) -> tuple[Any, int]:
        """Returns the corpus that an example is of, and its number there."""
        for source, end in zip(self.sources, self._ends, strict=True):
            if index < end:
                return source, index - end + len(source)
        raise IndexError(index)

    def __repr__(self) -> str:
        parts = zip(self.sources, self.weights, strict=True)
        return f"Mixture({', '.join(f'{source}={weight:g}' for source, weight in parts)})"


def mix_statistics(parts: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """Returns {"mean", "std", "count"} of what is drawn from corpora of which these are known."""
    shares = [weight / math.fsum(weights) for weight in weights]
    pairs = list(zip(shares, parts, strict=True))
    mean = math.fsum(share * part["mean"] for share, part in pairs)
    variance = math.fsum(share * (part["std"] ** 2 + (part["mean"] - mean) ** 2) for share, part in pairs)
    return {"mean": mean, "std": math.sqrt(variance), "count": sum(part["count"] for part in parts)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
