"""MuQ-MuLan's own transformer: pre-norm, normalised queries and keys, gated feed-forward."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from muq_jax.errors import UserError
from muq_jax.nn.attention import attend, attention_weights
from muq_jax.nn.linear import linear
from muq_jax.nn.normalization import layer_norm
from muq_jax.nn.sharding import constrain_batch

_LOGIT_SCALE = 8.0  # cosines of queries and keys are multiplied by this


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer of MuQ-MuLan.

    Attributes:
        width: D.
        num_layers: L; 0 hands the input on.
        num_heads: H.
        head_size: K; H K need not be D.
        ffn_multiple: the gated feed-forward's inner width is two thirds of this times D.
        attention_dropout, ffn_dropout: on the attention's weights; inside the feed-forward.
    """

    width: int = 768
    num_layers: int = 8
    num_heads: int = 8
    head_size: int = 64
    ffn_multiple: int = 4
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("width", "num_heads", "head_size", "ffn_multiple"):
            if getattr(self, name) < 1:
                raise UserError(f"transformer.{name} must be at least 1, found {getattr(self, name)}")
        if self.num_layers < 0:
            raise UserError(f"transformer.num_layers must be at least 0, found {self.num_layers}")
        for name in ("attention_dropout", "ffn_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"transformer.{name} must be at least 0 and below 1, found {getattr(self, name)}"
                )

    @property
    def ffn_width(self) -> int:
        return int(self.width * self.ffn_multiple * 2 / 3)


class GainNorm(nn.Module):
    """LayerNorm with a learnt gain and no bias. Parameter `scale` [D]."""

    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return layer_norm(x, scale, jnp.zeros(()), 1e-5).astype(self.dtype)


class QKNormAttention(nn.Module):
    """Self-attention of unit queries and keys, each with a learnt gain for every channel of a head.

    Parameters `query` [D, H K], `key_value` [D, 2 H K] and `out` [H K, D] without biases, `query_scale` and
    `key_scale` [K].
    """

    config: TransformerConfig
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, valid: Array | None, *, train: bool) -> Array:
        config = self.config
        inner = config.num_heads * config.head_size
        heads = (*x.shape[:-1], config.num_heads, config.head_size)  # [B, T, H, K]

        def unit(y: Array, name: str) -> Array:
            scale = self.param(name, nn.initializers.ones, (config.head_size,))
            y = y.astype(jnp.float32)
            norm = jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(y), axis=-1, keepdims=True)), 1e-12)
            return (y / norm * scale).astype(self.dtype)

        def project(features: int, name: str) -> Array:
            return constrain_batch(linear(config.width, features, self.dtype, name, use_bias=False)(x))

        key, value = jnp.split(project(2 * inner, "key_value"), 2, axis=-1)
        query = unit(project(inner, "query").reshape(heads), "query_scale")
        key = unit(key.reshape(heads), "key_scale")
        weights = attention_weights(query, key, valid, scale=_LOGIT_SCALE)
        weights = nn.Dropout(config.attention_dropout, deterministic=not train)(weights)
        mixed = attend(weights, value.reshape(heads)).reshape(*x.shape[:-1], inner)
        return linear(inner, config.width, self.dtype, "out", use_bias=False)(constrain_batch(mixed))


class GatedFeedForward(nn.Module):
    """Linear, GEGLU, linear, no biases. Parameters `expand` (value half, then gate half) and `project`."""

    config: TransformerConfig
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        config = self.config
        h = linear(config.width, 2 * config.ffn_width, self.dtype, "expand", use_bias=False)(x)
        value, gate = jnp.split(h, 2, axis=-1)
        h = value * nn.gelu(gate, approximate=False)
        h = nn.Dropout(config.ffn_dropout, deterministic=not train)(h)
        return linear(config.ffn_width, config.width, self.dtype, "project", use_bias=False)(h)


class TransformerBlock(nn.Module):
    """One layer, a step of `nn.scan`; sows `hidden`, what it returns, into "intermediates"."""

    config: TransformerConfig
    dtype: DTypeLike = "float32"
    train: bool = False

    @nn.compact
    def __call__(self, x: Array, valid: Array | None) -> tuple[Array, None]:
        config, dtype, train = self.config, self.dtype, self.train
        x = constrain_batch(x)
        attention = QKNormAttention(config, dtype, name="attention")
        x = x + attention(GainNorm(dtype, name="attention_norm")(x), valid, train=train)
        ffn = GatedFeedForward(config, dtype, name="ffn")
        x = x + constrain_batch(ffn(GainNorm(dtype, name="ffn_norm")(x), train=train))
        self.sow("intermediates", "hidden", x)
        return x, None


class Transformer(nn.Module):
    """L layers; there is no norm at the end. Parameters `layers/...`, stacked [L, ...]."""

    config: TransformerConfig
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, valid: Array | None = None, *, train: bool = False) -> Array:
        """Returns [B, T, D].

        Args:
            x: [B, T, D].
            valid: bool [B, T], True for positions that are real; the others are not attended to. None: all.
            train: dropout, from the stream "dropout".
        """
        if not self.config.num_layers:
            return x
        layers = nn.scan(
            nn.remat(TransformerBlock, prevent_cse=False),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return layers(self.config, self.dtype, train, name="layers")(x, valid)[0]
