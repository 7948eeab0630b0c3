"""Self-attention, with upstream's rotary variant."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from muq_jax.nn.linear import linear, matmul_precision
from muq_jax.nn.positions import apply_rotary
from muq_jax.nn.sharding import constrain_batch


def attention_weights(
    query: Array, key: Array, valid: Array | None = None, *, scale: float | None = None
) -> Array:
    """Returns softmax(scale q k) over the valid keys, float32 [B, H, T, T]; the last axis sums to one.

    Args:
        query, key: [B, T, H, K].
        valid: bool [B, T], True for keys that are real; None if all are. A row without any is averaged over.
        scale: 1 / sqrt(K) by default.
    """
    scores = jnp.einsum(
        "bqhk,bthk->bhqt",
        query,
        key,
        precision=matmul_precision(query.dtype),
        preferred_element_type=jnp.float32,
    )
    scores = scores / math.sqrt(query.shape[-1]) if scale is None else scores * scale
    if valid is not None:
        scores = jnp.where(valid[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def attend(weights: Array, value: Array) -> Array:
    """Returns the weighted sums of `value` [B, T, H, K] by `weights` [B, H, T, T]: [B, T, H, K]."""
    precision = matmul_precision(value.dtype)
    return jnp.einsum("bhqt,bthk->bqhk", weights.astype(value.dtype), value, precision=precision)


class RotarySelfAttention(nn.Module):
    """Multi-head self-attention whose positions turn the *input* of the query and key projections.

    Textbook rotary attention turns queries and keys after their projection; `transformers`'
    Wav2Vec2-Conformer cuts the layer-normed input into head slices, turns those, and projects them. Values
    are projected from the input as it is. The released weights work only with this.

    Parameters: `query`, `key`, `value`, `out`, each `kernel` [D, D] and `bias` [D].
    """

    num_heads: int
    dropout: float = 0.0
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, x: Array, rotary: tuple[Array, Array], valid: Array | None = None, *, train: bool = False
    ) -> Array:
        """Returns [B, T, D].

        Args:
            x: layer-normed input [B, T, D].
            rotary: cosine and sine [T, K], of `rotary_table`.
            valid: bool [B, T], True for real tokens; the others are not attended to.
            train: dropout on the attention weights, from the stream "dropout".
        """
        width = x.shape[-1]
        heads = (*x.shape[:-1], self.num_heads, width // self.num_heads)  # [B, T, H, K]
        turned = apply_rotary(x.reshape(heads), *rotary).reshape(x.shape)

        def project(y: Array, name: str) -> Array:
            # Constrained before the heads are cut: a sharding of D that came from the kernel would otherwise
            # be moved to H and K by an all-to-all.
            return constrain_batch(linear(width, width, self.dtype, name)(y)).reshape(heads)

        query, key, value = project(turned, "query"), project(turned, "key"), project(x, "value")
        weights = attention_weights(query, key, valid)
        weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
        mixed = constrain_batch(attend(weights, value).reshape(x.shape))
        return linear(width, width, self.dtype, "out")(mixed)
