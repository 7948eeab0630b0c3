"""Means that can be added up over micro-batches, devices and batches."""

from typing import NamedTuple

import jax


class Mean(NamedTuple):
    """A weighted mean, kept as its sum and its weight so that partial means add exactly.

    `total` may be an array (one entry a book) over one scalar `weight`. Two partial means are joined leaf by
    leaf, `jax.tree.map(operator.add, a, b)`; `a + b` would chain them as tuples.
    """

    total: jax.Array
    weight: jax.Array

    @property
    def value(self) -> jax.Array:
        """total / weight; NaN when nothing was counted."""
        return self.total / self.weight
