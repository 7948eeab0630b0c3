"""MuQ-MuLan (arXiv 2501.01108): a MuQ and an XLM-RoBERTa whose vectors of a clip and of its text agree.

Its text encoder may also be a small one, of the same kind, that was trained with it from scratch and reads
pieces of words of its own corpus; the PyTorch package knows none.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from muq_jax.errors import UserError
from muq_jax.models.config import MuQConfig
from muq_jax.models.muq import MuQModel
from muq_jax.models.roberta import Roberta, RobertaConfig
from muq_jax.nn.linear import linear
from muq_jax.nn.transformer import Transformer, TransformerConfig
from muq_jax.nn.valid import first_valid, zero_invalid

XLM_ROBERTA, SMALL = "xlm-roberta-base", "small"
TEXT_MODELS = (XLM_ROBERTA, SMALL)


@dataclasses.dataclass(frozen=True)
class MuLanConfig:
    """Two towers and the space that they share; the defaults are MuQ-MuLan-large.

    Attributes:
        muq: the audio tower's encoder.
        roberta: the text tower's.
        text_model: which encoder that is: one of `TEXT_MODELS`. A small one has a tokenizer of its own.
        audio_layer: which hidden state of the MuQ is projected; negative ones count from the end.
        audio_transformer, text_transformer: what follows each encoder; their widths are the towers'. The text
            tower has no projection before it, so its width is the XLM-RoBERTa's.
        latent_size: E, of the shared space.
        clip_seconds: length of the clips that a track is cut into.
        decoupled_loss: whether a pair is left out of its own denominator in training.
    """

    muq: MuQConfig = dataclasses.field(default_factory=MuQConfig)
    roberta: RobertaConfig = dataclasses.field(default_factory=RobertaConfig)
    text_model: str = XLM_ROBERTA
    audio_layer: int = -1
    audio_transformer: TransformerConfig = dataclasses.field(
        default_factory=lambda: TransformerConfig(num_layers=0)
    )
    text_transformer: TransformerConfig = dataclasses.field(default_factory=TransformerConfig)
    latent_size: int = 512
    clip_seconds: int = 10
    decoupled_loss: bool = True

    def __post_init__(self) -> None:
        for name in ("latent_size", "clip_seconds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.text_model not in TEXT_MODELS:
            raise UserError(f"text_model is {self.text_model!r}; expected one of {', '.join(TEXT_MODELS)}")
        layers = self.muq.conformer.num_layers
        if not -layers - 1 <= self.audio_layer <= layers:
            raise UserError(f"audio_layer is {self.audio_layer}; the MuQ's layers are numbered 0 to {layers}")
        if self.text_transformer.width != self.roberta.width:
            raise UserError(
                f"text_transformer.width is {self.text_transformer.width}, roberta.width "
                f"{self.roberta.width}; they must be equal, since nothing lies between the two"
            )


class AudioTower(nn.Module):
    """Waveforms to unit vectors. Parameters `muq`, `proj`, `transformer` and `to_latents`; `batch_stats`.

    Sows `pooled` [L, B, D], the mean over time of each of the MuQ's layers, into "intermediates".
    """

    config: MuLanConfig
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, wave: Array, num_samples: Array | None = None, *, train: bool = False) -> Array:
        """Returns [B, E], float32, of length 1.

        Args:
            wave: [B, S] at 24 kHz, one clip a row.
            num_samples: int [B], valid samples; None if all are.
            train: dropout and the statistics of the batch.
        """
        config = self.config
        out = MuQModel(config.muq, self.dtype, name="muq")(wave, num_samples, train=train)
        width = config.audio_transformer.width
        x = out.hidden_states[config.audio_layer]
        valid = None if num_samples is None else first_valid(out.num_valid, x.shape[1])
        self.sow(
            "intermediates", "pooled", jax.vmap(lambda layer: _mean(layer, valid))(out.hidden_states[1:])
        )
        x = linear(config.muq.conformer.width, width, self.dtype, "proj")(x)
        x = Transformer(config.audio_transformer, self.dtype, name="transformer")(x, valid, train=train)
        return _unit_latents(_mean(x, valid), config.latent_size, self.dtype)


class TextTower(nn.Module):
    """Token ids to unit vectors. Parameters `roberta`, `transformer` and `to_latents`.

    Its transformer sows `hidden` [L, B, T, D] of its layers, whose first token is the mark of the beginning.
    """

    config: MuLanConfig
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, ids: Array, *, over_padding: bool = False, train: bool = False) -> Array:
        """Returns [B, E], float32, of length 1.

        Args:
            ids: int [B, T], `config.roberta.pad_id` past a text's own end.
            over_padding: attend to padding above the XLM-RoBERTa and average over it, as upstream; a text's
                vector then depends on how long the batch is.
            train: dropout above the XLM-RoBERTa, which has none.
        """
        config = self.config
        x = Roberta(config.roberta, self.dtype, name="roberta")(ids)
        valid = None if over_padding else ids != config.roberta.pad_id
        x = Transformer(config.text_transformer, self.dtype, name="transformer")(x, valid, train=train)
        return _unit_latents(_mean(x, valid), config.latent_size, self.dtype)


def _mean(x: Array, valid: Array | None) -> Array:
    """The mean over valid positions, [B, D] of [B, T, D]."""
    if valid is None:
        return jnp.mean(x.astype(jnp.float32), axis=1)
    count = jnp.maximum(jnp.sum(valid, axis=1, keepdims=True), 1)
    return jnp.sum(zero_invalid(x.astype(jnp.float32), valid), axis=1) / count


def _unit_latents(x: Array, size: int, dtype: DTypeLike) -> Array:
    """Projects to the shared space and to length 1. To be called inside a compact method."""
    x = linear(x.shape[-1], size, dtype, "to_latents")(x).astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
