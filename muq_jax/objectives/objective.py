"""The interface between what is learned and the training step."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

from muq_jax.objectives.metric import Mean

Batch = Mapping[str, jax.Array]
"""`wave` float32 [B, S]; `num_samples` int32 [B], 0 in a padding row; `row` int32 [B], global.

With stored codes also `codes` int32 [B, T, Q], those of the whole tokens of S; -1 where there is no audio.
With texts also `ids` int32 [B, N], a text's token ids with padding after them.
"""


class LossOutput(NamedTuple):
    """One batch's loss and what goes with it.

    Attributes:
        loss: scalar, a mean; 0 when `weight` is 0.
        weight: scalar, what the mean was taken over (masked or valid tokens): micro-batches are joined by it.
        model_state: the collections that no gradient trains, after this batch; unchanged when not training.
        metrics: named means.
        updates: what `Objective.replace` writes into the parameters, or None.
        rows: when not training, named values for every row of the batch [B, ...], from which something is
            made of a whole evaluation that no mean is; or None.
    """

    loss: jax.Array
    weight: jax.Array
    model_state: dict[str, Any]
    metrics: dict[str, Mean]
    updates: Any = None
    rows: dict[str, jax.Array] | None = None


class Objective(Protocol):
    """A model, its loss, and the state that goes with both."""

    def init(self, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns fresh `(params, model_state)`."""
        ...

    def loss(
        self,
        params: dict[str, Any],
        model_state: dict[str, Any],
        batch: Batch,
        key: jax.Array,
        *,
        train: bool,
    ) -> LossOutput:
        """Returns the loss of a batch.

        All chance comes from `key` and `batch["row"]`: every micro-batch of a step gets the step's key.
        """
        ...

    def replace(self, params: dict[str, Any], updates: Any) -> dict[str, Any]:
        """Returns `params` with `updates` written in; called before the optimiser's update is added."""
        ...


def split_rows(batch: Batch, num_parts: int) -> dict[str, jax.Array]:
    """Returns a batch's rows [B, ...] as [num_parts, B / num_parts, ...].

    Part i holds rows i, i + num_parts and so on: every `num_parts`-th row leaves each device its own rows,
    where contiguous parts would move the batch between them.

    Raises:
        ValueError: the rows do not divide evenly.
    """

    def split(rows: jax.Array) -> jax.Array:
        if rows.shape[0] % num_parts:
            raise ValueError(f"{rows.shape[0]} rows do not divide into {num_parts} parts")
        return rows.reshape(rows.shape[0] // num_parts, num_parts, *rows.shape[1:]).swapaxes(0, 1)

    return {name: split(rows) for name, rows in batch.items()}
