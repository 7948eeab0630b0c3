"""Mel-RVQ, the tokenizer that makes MuQ's targets: waveform to codes [B, T, Q] and codes to log-mel in dB.

The mel frames of one token (four at 25 Hz) are stacked into a vector, frame slowest, and quantised by a
residual quantiser. `variables` here are those of `ResidualVQ(config.rvq)`: a Mel-RVQ has no parameters of
its own.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from muq_jax.audio.framing import num_frames
from muq_jax.audio.mel import MelConfig, denormalize, log_mel, normalize
from muq_jax.models.config import MelRVQConfig
from muq_jax.nn.sharding import constrain_batch
from muq_jax.nn.valid import first_valid
from muq_jax.quantize.rvq import ResidualVQ, dequantize, quantize


def num_tokens(num_samples, config: MelRVQConfig):
    """Returns how many tokens `num_samples` samples (int or int array) have: whole stacks of frames only.

    The encoder of MuQ rounds its count up instead: a clip that is no multiple of a token's samples has one
    token more there than here. Upstream trims its training clips to a multiple (960 samples at 25 Hz).
    """
    return num_frames(num_samples, config.mel.hop_length) // config.frames_per_token


def stack_frames(mel: jax.Array, frames_per_token: int) -> jax.Array:
    """Returns mel [B, N, F] as [B, N // frames_per_token, frames_per_token * F]; the rest is dropped."""
    batch, frames, bands = mel.shape
    tokens = frames // frames_per_token
    return mel[:, : tokens * frames_per_token].reshape(batch, tokens, frames_per_token * bands)


def unstack_frames(stacked: jax.Array, frames_per_token: int) -> jax.Array:
    """Returns [B, T, frames_per_token * F] as mel [B, T * frames_per_token, F]: `stack_frames` undone."""
    batch, tokens, width = stacked.shape
    return stacked.reshape(batch, tokens * frames_per_token, width // frames_per_token)


def stacked_mel(
    wave: jax.Array, num_samples: jax.Array | None = None, *, mel: MelConfig, frames_per_token: int
) -> tuple[jax.Array, jax.Array]:
    """Returns what the quantiser sees of a waveform.

    Args:
        wave: float [B, S] at `mel.sample_rate_hz`.
        num_samples: int [B], valid samples; None means all.
        mel: the front end's constants.
        frames_per_token: frames stacked into one vector.

    Returns:
        The normalised log-mel float32 [B, T, frames_per_token * F] and `valid` bool [B, T].
    """
    mel_db = constrain_batch(log_mel(constrain_batch(wave), num_samples, config=mel))
    stacked = constrain_batch(stack_frames(normalize(mel_db, mel), frames_per_token))
    batch, tokens, _ = stacked.shape
    if num_samples is None:
        return stacked, jnp.ones((batch, tokens), bool)
    return stacked, first_valid(num_frames(num_samples, mel.hop_length) // frames_per_token, tokens)


def init(key: jax.Array, config: MelRVQConfig) -> dict[str, Any]:
    """Returns fresh variables: `params` and `codebook_state`."""
    return dict(ResidualVQ(config.rvq).init(key, jnp.zeros((1, 1, config.rvq.input_dim))))


def encode(
    variables: Mapping[str, Any],
    wave: jax.Array,
    num_samples: jax.Array | None = None,
    *,
    config: MelRVQConfig,
) -> jax.Array:
    """Returns codes int32 [B, T, Q] of wave [B, S]; they mean nothing from `num_tokens(num_samples)` on."""
    stacked, _ = stacked_mel(wave, num_samples, mel=config.mel, frames_per_token=config.frames_per_token)
    return quantize(variables["params"], stacked, None, config.rvq).codes


def decode(
    variables: Mapping[str, Any], codes: jax.Array, *, config: MelRVQConfig, num_books: int | None = None
) -> jax.Array:
    """Returns the log-mel in dB [B, T * frames_per_token, F] that codes [B, T, Q] stand for.

    With `num_books` only that many first books are summed, a coarser picture.
    """
    stacked = dequantize(variables["params"], codes[..., :num_books], config.rvq)
    return denormalize(unstack_frames(stacked, config.frames_per_token), config.mel)
