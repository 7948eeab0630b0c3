"""The Conformer encoder, with the rotary variant of `transformers`' Wav2Vec2-Conformer."""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from muq_jax.errors import UserError
from muq_jax.nn.attention import RotarySelfAttention
from muq_jax.nn.depthwise import CONV_IMPLS, DepthwiseConv
from muq_jax.nn.linear import linear
from muq_jax.nn.normalization import BatchNorm, LayerNorm
from muq_jax.nn.positions import rotary_table
from muq_jax.nn.sharding import constrain_batch
from muq_jax.nn.valid import zero_invalid


@dataclasses.dataclass(frozen=True)
class ConformerConfig:
    """Sizes and rates of a Conformer encoder.

    Attributes:
        width: D, the width of every hidden state.
        num_layers: L.
        num_heads: H; the head size K = D / H must be even, since rotary positions turn pairs.
        ffn_width: inner width of the two feed-forward modules of a layer.
        conv_kernel: taps of the depthwise convolution, odd.
        hidden_dropout: after the encoder's input and after each feed-forward module.
        attention_dropout: on the attention probabilities and on the attention module's output.
        activation_dropout: inside the feed-forward modules.
        conv_dropout: after the convolution module.
        layer_norm_eps: of the encoder's final LayerNorm only; those inside the layers always use 1e-5, as
            upstream does.
        rotary_base: wavelengths of the rotary positions run up to 2 pi times this.
        remat: recompute a layer's activations in the backward pass instead of keeping them.
        conv_impl: how the depthwise convolution is computed: "shift", "lax", or "auto" for the one that is
            faster on the backend in use.
        batch_norm_groups: the batch is cut into so many equal groups of consecutive rows, each normalised by
            its own statistics; 1 means statistics over the global batch.
    """

    width: int = 1024
    num_layers: int = 12
    num_heads: int = 16
    ffn_width: int = 4096
    conv_kernel: int = 31
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    conv_dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    rotary_base: float = 10_000.0
    remat: bool = True
    conv_impl: str = "auto"
    batch_norm_groups: int = 1

    def __post_init__(self):
        for name in ("width", "num_layers", "num_heads", "ffn_width", "conv_kernel", "batch_norm_groups"):
            if getattr(self, name) < 1:
                raise UserError(f"conformer.{name} must be at least 1, found {getattr(self, name)}")
        for name in ("hidden_dropout", "attention_dropout", "activation_dropout", "conv_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"conformer.{name} must be at least 0 and below 1, found {getattr(self, name)}"
                )
        for name in ("layer_norm_eps", "rotary_base"):
            if not getattr(self, name) > 0:
                raise UserError(f"conformer.{name} must be above 0, found {getattr(self, name)}")
        if self.width % (2 * self.num_heads):
            raise UserError(
                f"conformer.width {self.width} must be a multiple of 2 x num_heads ({self.num_heads}): "
                "rotary positions turn pairs of a head's channels"
            )
        if self.conv_kernel % 2 == 0:
            raise UserError(f"conformer.conv_kernel must be odd, found {self.conv_kernel}")
        if self.conv_impl not in CONV_IMPLS:
            raise UserError(f"conformer.conv_impl must be one of {CONV_IMPLS}, found {self.conv_impl!r}")


class FeedForward(nn.Module):
    """Linear, swish, linear. Parameters `expand` and `project`."""

    config: ConformerConfig
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        config = self.config
        h = nn.swish(constrain_batch(linear(config.width, config.ffn_width, self.dtype, "expand")(x)))
        h = nn.Dropout(config.activation_dropout, deterministic=not train)(h)
        y = constrain_batch(linear(config.ffn_width, config.width, self.dtype, "project")(h))
        return nn.Dropout(config.hidden_dropout, deterministic=not train)(y)


class ConvolutionModule(nn.Module):
    """Gated pointwise map, depthwise convolution over time, BatchNorm, swish, pointwise map; no biases.

    Parameters `norm`, `expand`, `depthwise` (`kernel` [kernel, D]), `batch_norm`, `project`.
    """

    config: ConformerConfig
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, valid: Array | None, *, train: bool) -> Array:
        config = self.config
        x = LayerNorm(dtype=self.dtype, name="norm")(x)
        x = constrain_batch(linear(config.width, 2 * config.width, self.dtype, "expand", use_bias=False)(x))
        x = constrain_batch(zero_invalid(nn.glu(x, axis=-1), valid))  # value half first, gate second
        x = DepthwiseConv(config.conv_kernel, config.conv_impl, self.dtype, name="depthwise")(x)
        x = constrain_batch(x)
        norm = BatchNorm(groups=config.batch_norm_groups, dtype=self.dtype, name="batch_norm")
        x = norm(x, valid, train=train)
        x = linear(config.width, config.width, self.dtype, "project", use_bias=False)(nn.swish(x))
        return nn.Dropout(config.conv_dropout, deterministic=not train)(x)


class ConformerBlock(nn.Module):
    """One layer: half a feed-forward, attention, convolution, half a feed-forward, LayerNorm.

    A step of `nn.scan`: returns its hidden states twice, as the next layer's input and as an output.
    """

    config: ConformerConfig
    dtype: DTypeLike = "float32"
    train: bool = False

    @nn.compact
    def __call__(self, x: Array, valid: Array | None, rotary: tuple[Array, Array]) -> tuple[Array, Array]:
        config, dtype, train = self.config, self.dtype, self.train
        norm = functools.partial(LayerNorm, dtype=dtype)
        x = constrain_batch(x)
        x = x + 0.5 * FeedForward(config, dtype, name="ffn1")(norm(name="ffn1_norm")(x), train=train)
        attention = RotarySelfAttention(config.num_heads, config.attention_dropout, dtype, name="attention")
        h = attention(norm(name="attention_norm")(x), rotary, valid, train=train)
        x = x + nn.Dropout(config.attention_dropout, deterministic=not train)(h)
        x = x + constrain_batch(ConvolutionModule(config, dtype, name="conv")(x, valid, train=train))
        x = x + 0.5 * FeedForward(config, dtype, name="ffn2")(norm(name="ffn2_norm")(x), train=train)
        x = zero_invalid(norm(name="final_norm")(x), valid)
        return x, x


class ConformerEncoder(nn.Module):
    """L Conformer layers and a final LayerNorm.

    Parameters: `layers/...`, stacked [L, ...], and `final_norm`; variables `batch_stats` likewise.
    """

    config: ConformerConfig
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, valid: Array | None = None, *, train: bool = False) -> Array:
        """Returns every hidden state, stacked [L + 1, B, T, D].

        [0] is the input (after dropout), [1] to [L - 1] what those layers return, [L] the final LayerNorm of
        layer L; layer L's own output is not among them, as upstream. Padded tokens are zero in all of them.

        Args:
            x: [B, T, D].
            valid: bool [B, T], True for real tokens; None if all are.
            train: dropout (stream "dropout") and statistics of the batch.
        """
        config = self.config
        x = nn.Dropout(config.hidden_dropout, deterministic=not train)(x)
        x = zero_invalid(constrain_batch(x), valid)
        rotary = rotary_table(x.shape[1], config.width // config.num_heads, config.rotary_base)
        # prevent_cse is for code outside of a scan, and slows the code inside of one.
        block = nn.remat(ConformerBlock, prevent_cse=False) if config.remat else ConformerBlock
        layers = nn.scan(
            block,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        last, outputs = layers(config, self.dtype, train, name="layers")(x, valid, rotary)
        last = zero_invalid(LayerNorm(config.layer_norm_eps, self.dtype, name="final_norm")(last), valid)
        return jnp.concatenate([x[None], outputs[:-1], last[None]])
