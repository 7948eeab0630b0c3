"""Contrastive losses over all pairs of the global batch, stable at any temperature.

Under `jit` with a sharded batch the similarities of all pairs are formed across devices, and the gradient is
the whole one. (MuQ-MuLan's own gathers vectors by a function whose backward pass keeps one process's part.)
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

LOSSES = ("decoupled", "infonce", "sigmoid")

StateT = TypeVar("StateT")


def pair_losses(
    audio: jax.Array,
    text: jax.Array,
    log_temperature: jax.Array,
    *,
    loss: str = "decoupled",
    bias: jax.Array | None = None,
    valid: jax.Array | None = None,
    same: jax.Array | None = None,
) -> jax.Array:
    """Returns each pair's part of the loss, float32 [B]; its mean over valid pairs is the loss.

    With s_ij = exp(log_temperature) <audio_i, text_j>, the part of pair i is

    - decoupled (MuQ-MuLan's; arXiv 2110.06848): -s_ii + (log sum_j exp s_ij + log sum_j exp s_ji) / 2 over
      j other than i. A pair without any other one attracts nothing and repels nothing: its part is 0.
    - infonce: the same with j = i among them, which is the mean of both directions' cross-entropies.
    - sigmoid (arXiv 2303.15343): -log sigmoid(s_ii + bias) - sum_j log sigmoid(-s_ij - bias) over j other
      than i.

    Args:
        audio, text: [B, E], unit vectors; row i of both is a pair.
        log_temperature: scalar; upstream begins with log 10.
        loss: one of `LOSSES`.
        bias: scalar, of the sigmoid loss.
        valid: bool [B], False for rows that are padding: their part is 0 and they repel nothing. None: all.
        same: bool [B, B], True where two pairs have the same text, which do not repel each other. None: none.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; expected one of {LOSSES}")
    own = jnp.eye(len(audio), dtype=bool)
    valid = jnp.ones(len(audio), bool) if valid is None else valid
    similarity = jnp.matmul(audio.astype(jnp.float32), text.astype(jnp.float32).T, precision="highest")
    logits = jnp.exp(log_temperature) * similarity
    others = valid[:, None] & valid & ~own
    if same is not None:
        others &= ~same
    positive = jnp.diagonal(logits)
    if loss == "sigmoid":
        shift = jnp.float32(0) if bias is None else bias
        repelled = jnp.where(others, jax.nn.log_sigmoid(-logits - shift), 0.0).sum(axis=1)
        return jnp.where(valid, -jax.nn.log_sigmoid(positive + shift) - repelled, 0.0)
    counted = others if loss == "decoupled" else others | own
    counts = counted.any(axis=1) & valid
    row, column = (_log_sum_exp(logits, counted, axis) for axis in (1, 0))
    return jnp.where(counts, (row + column) / 2 - positive, 0.0)


def _log_sum_exp(logits: jax.Array, counted: jax.Array, axis: int) -> jax.Array:
    """The logarithm of the sum of exp(logits) where they count; 0, with no gradient, where none does."""
    some = counted.any(axis=axis)
    # Where nothing counts, everything does: what is left out afterwards is to have a finite gradient.
    kept = counted | ~jnp.expand_dims(some, axis)
    return jnp.where(some, jax.nn.logsumexp(jnp.where(kept, logits, -jnp.inf), axis=axis), 0.0)


def encode_in_parts(
    encode: Callable[[StateT, Any], tuple[StateT, Any]], state: StateT, parts: Any
) -> tuple[Any, StateT]:
    """Returns the vectors of a batch that is encoded part by part, and the state after the last one.

    A loss of vectors can so be over more pairs than can be encoded at once (as GradCache, arXiv 2101.06983):
    only the vectors of all parts are kept; each part is encoded once more when its gradient is taken.

    Args:
        encode: from a state (BatchNorm's statistics) and a part to the next state and its vectors, a tree of
            [B / N, ...]. Gradients flow to what it closes over.
        state: before the first part.
        parts: of `objective.split_rows`, a tree of [N, B / N, ...] whose part i holds rows i, i + N, ...

    Returns:
        The tree of vectors [B, ...], in the order of the batch's rows, and the state.
    """
    num_parts = jax.tree.leaves(parts)[0].shape[0]
    if num_parts == 1:
        # No loop, not even of one step: XLA's CPU convolutions are ten times slower out of one.
        state, vectors = encode(state, jax.tree.map(lambda rows: rows[0], parts))
        return vectors, state
    state, vectors = jax.lax.scan(jax.checkpoint(encode, prevent_cse=False), state, parts)
    return jax.tree.map(lambda v: v.swapaxes(0, 1).reshape(-1, *v.shape[2:]), vectors), state
