"""The Conformer encoder, with the rotary variant of `transformers`' Wav2Vec2-Conformer."""

import dataclasses

from muq_jax.errors import UserError

CONV_IMPLS = ("auto", "shift", "lax")


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
        if self.width % (2 * self.num_heads):
            raise UserError(
                f"conformer.width {self.width} must be a multiple of 2 x num_heads ({self.num_heads}): "
                "rotary positions turn pairs of a head's channels"
            )
        if self.conv_kernel % 2 == 0:
            raise UserError(f"conformer.conv_kernel must be odd, found {self.conv_kernel}")
        if self.conv_impl not in CONV_IMPLS:
            raise UserError(f"conformer.conv_impl must be one of {CONV_IMPLS}, found {self.conv_impl!r}")
