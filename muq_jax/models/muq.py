"""MuQ (arXiv 2501.01108): log-mel, subsampling convolutions, Conformer, a head of predictions a codebook."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from muq_jax.audio.framing import MIN_SAMPLES, num_frames
from muq_jax.audio.mel import MelConfig, log_mel, normalize
from muq_jax.models.config import MuQConfig
from muq_jax.nn.conformer import ConformerEncoder
from muq_jax.nn.linear import linear
from muq_jax.nn.sharding import constrain_batch
from muq_jax.nn.subsample import Conv2dSubsampling
from muq_jax.nn.valid import first_valid


class MuQOutput(NamedTuple):
    """What a MuQ makes of a batch. Under `jit` a part that is not read is not computed.

    Attributes:
        hidden_states: [L + 1, B, T, D]: 0 is the encoder's input, l the output of layer l, L the final
            LayerNorm of layer L. Zero at padded tokens.
        logits: [B, T, Q, V], float32.
        num_valid: int32 [B], valid tokens.
        predicted_mel: the mel-reconstruction head's normalised log-mel of each token's frames, frame slowest,
            [B, T, F 100 / label_rate], float32; None where the model has no such head.
    """

    hidden_states: Array
    logits: Array
    num_valid: Array
    predicted_mel: Array | None


class MuQModel(nn.Module):
    """The network of `config`, computing in `dtype` ("float32" or "bfloat16"); parameters are float32.

    Collections: `params` (`subsample`, `conformer`, `head`, `mel_head`) and `batch_stats`. The streams of
    keys are "params" and, in training, "dropout".
    """

    config: MuQConfig
    dtype: DTypeLike = "float32"

    def __call__(self, wave: Array, num_samples: Array | None = None, *, train: bool = False) -> MuQOutput:
        """Returns `MuQOutput` for waveforms, each clip as it would be alone.

        Args:
            wave: [B, S] at 24 kHz.
            num_samples: int [B], valid samples; None if all are. Clips of 1 to 1,024 samples count as
                zero-padded to 1,025, a clip of none has no valid token.
            train: dropout and batch statistics; `batch_stats` must then be mutable.
        """
        return self.encode(*normalized_mel(wave, num_samples, self.config.mel), train=train)

    @nn.compact
    def encode(self, mel: Array, num_frames: Array | None = None, *, train: bool = False) -> MuQOutput:
        """Returns `MuQOutput` from a normalised log-mel [B, frames, F], `num_frames` [B] of it valid."""
        config, conformer = self.config, self.config.conformer
        subsample = Conv2dSubsampling(
            config.conv_channels,
            conformer.width,
            config.label_rate,
            conformer.batch_norm_groups,
            self.dtype,
            name="subsample",
        )
        x, num_valid = subsample(mel, num_frames, train=train)
        batch, tokens, width = x.shape
        if num_valid is None:
            num_valid, valid = jnp.full((batch,), tokens, jnp.int32), None
        else:
            valid = first_valid(num_valid, tokens)
        hidden_states = ConformerEncoder(conformer, self.dtype, name="conformer")(x, valid, train=train)
        last = hidden_states[-1]
        # Constrained, or the compiler splits the classes like the kernel and gathers the hidden states.
        logits = constrain_batch(linear(width, config.num_books * config.num_codes, self.dtype, "head")(last))
        logits = logits.astype(jnp.float32).reshape(batch, tokens, config.num_books, config.num_codes)
        predicted_mel = None
        if config.mel_reconstruction:
            features = config.mel.num_mels * config.frames_per_token
            predicted_mel = linear(width, features, self.dtype, "mel_head")(last).astype(jnp.float32)
        return MuQOutput(hidden_states, logits, num_valid, predicted_mel)


def normalized_mel(
    wave: Array, num_samples: Array | None = None, config: MelConfig | None = None
) -> tuple[Array, Array | None]:
    """Returns the normalised log-mel [B, frames, F] and the valid frames [B], which `MuQModel.encode` takes.

    Args:
        wave: [B, S] at 24 kHz.
        num_samples: int [B], valid samples; None if all are. Clips of 1 to 1,024 samples count as zero-padded
            to 1,025, a clip of none has no valid frame. More than S count as S.
        config: the front end's constants.
    """
    config = config or MelConfig()
    if wave.shape[1] < MIN_SAMPLES:
        wave = jnp.pad(wave, ((0, 0), (0, MIN_SAMPLES - wave.shape[1])))
    wave = constrain_batch(wave)
    if num_samples is None:
        return constrain_batch(normalize(log_mel(wave, config=config), config)), None
    length = wave.shape[1]
    # Here, since a short clip's padding is heard up to MIN_SAMPLES and must be the zeros that it counts as.
    wave = jnp.where(first_valid(num_samples, length), wave, 0)
    num_samples = jnp.where(num_samples > 0, jnp.clip(num_samples, MIN_SAMPLES, length), 0)
    mel_db = log_mel(wave, num_samples, config=config)
    return constrain_batch(normalize(mel_db, config)), num_frames(num_samples, config.hop_length)
