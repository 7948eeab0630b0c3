"""The log-mel spectrogram that every model here hears, in float32 whatever the models compute in.

Equal to torchaudio's `MelSpectrogram` + `AmplitudeToDB` as the PyTorch MuQ calls them: Hann window of 2048
samples, hop 240, centred with reflection, power spectrum, 128 HTK bands without area norm, 10 log10 without
`top_db`, last frame dropped.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from muq_jax.audio.filters import hann_window, mel_filterbank, windowed_dft
from muq_jax.audio.framing import frame_valid, hop_frames, num_frames, reflect_pad
from muq_jax.errors import UserError

STFTS = ("auto", "rfft", "matmul")
FLOOR_POWER = 1e-10
"""Silence is 10 log10 of this, -100 dB."""


@dataclasses.dataclass(frozen=True)
class MelConfig:
    """The front end's constants.

    Attributes:
        mean, std: of the dB mel over the training data; the defaults are those of the released MuQ (MSD).
        stft: "rfft", "matmul" or "auto", which is rfft where the program is compiled for a CPU, else matmul.
            Under jit, rfft gathers a sharded batch on every device and is slow on a TPU; matmul takes five
            times as long on a CPU.
    """

    sample_rate_hz: int = 24_000
    n_fft: int = 2048
    hop_length: int = 240
    num_mels: int = 128
    mean: float = 6.768444971712967
    std: float = 18.417922652295623
    stft: str = "auto"

    def __post_init__(self) -> None:
        if self.stft not in STFTS:
            raise UserError(f"mel.stft is {self.stft!r}; expected one of {', '.join(STFTS)}")
        for name in ("sample_rate_hz", "n_fft", "hop_length", "num_mels"):
            if getattr(self, name) < 1:
                raise UserError(f"mel.{name} must be at least 1, found {getattr(self, name)}")
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise UserError(f"mel.mean {self.mean} and mel.std {self.std} must be finite, the latter above 0")
        mel_filterbank(self.sample_rate_hz, self.n_fft, self.num_mels)  # refuses bands without a bin

    @property
    def frame_rate_hz(self) -> float:
        """Mel frames a second."""
        return self.sample_rate_hz / self.hop_length


@functools.partial(jax.jit, static_argnames="config")
def log_mel(wave: Array, num_samples: Array | None = None, *, config: MelConfig | None = None) -> Array:
    """The mel spectrogram in dB, not normalised.

    Args:
        wave: [B, S] at `config.sample_rate_hz`, any float type: it is cast to float32 first, and no step uses
            fewer bits, whatever the default matmul precision.
        num_samples: int [B], the valid samples of each clip, or None if all S are. Each clip comes out as it
            would alone: reflected at its own end, its frames past `num_samples // hop_length` set to 0.0 (not
            to silence, which is -100 dB: a reader has to mask them).
        config: default `MelConfig()`.

    Returns:
        [B, S // hop_length, F] float32

    Raises:
        ValueError: S is under n_fft // 2 + 1. Zero-pad such clips to that (`framing.MIN_SAMPLES`), and count
            the zeros in `num_samples`.
    """
    config = config or MelConfig()
    frames = num_frames(wave.shape[-1], config.hop_length)
    padded = reflect_pad(wave.astype(jnp.float32), num_samples, config.n_fft // 2)
    framed = hop_frames(padded, frames, config.n_fft, config.hop_length)
    match config.stft:
        case "rfft":
            power = _power_rfft(framed, config)
        case "matmul":
            power = _power_matmul(framed, config)
        case _:
            # Resolved when the program is lowered: compiling for a TPU on a CPU host takes the TPU's branch.
            power = jax.lax.platform_dependent(
                framed,
                cpu=lambda x: _power_rfft(x, config),
                default=lambda x: _power_matmul(x, config),
            )
    bank = jnp.asarray(mel_filterbank(config.sample_rate_hz, config.n_fft, config.num_mels), jnp.float32)
    mel = jnp.matmul(power, bank, precision="highest")  # [B, frames, F]
    mel_db = 10 * jnp.log10(jnp.maximum(mel, FLOOR_POWER))
    if num_samples is None:
        return mel_db
    return jnp.where(frame_valid(num_samples, frames, config.hop_length)[..., None], mel_db, 0)


def normalize(mel_db: Array, config: MelConfig | None = None) -> Array:
    """(dB - mean) / std: about zero mean and unit deviation over the training data."""
    config = config or MelConfig()
    return (mel_db - config.mean) / config.std


def denormalize(normalized: Array, config: MelConfig | None = None) -> Array:
    """The inverse of `normalize`: dB."""
    config = config or MelConfig()
    return normalized * config.std + config.mean


def _power_rfft(framed: Array, config: MelConfig) -> Array:
    """[B, frames, n_fft // 2 + 1] from [B, frames, at least n_fft]."""
    window = jnp.asarray(hann_window(config.n_fft), jnp.float32)
    spectrum = jnp.fft.rfft(framed[..., : config.n_fft] * window)
    return spectrum.real**2 + spectrum.imag**2


def _power_matmul(framed: Array, config: MelConfig) -> Array:
    """The same by two matrix products; a single bfloat16 pass would be wrong by up to 20 dB."""
    cosine, sine = _windowed_dft_float32(config.n_fft, config.hop_length)
    real = jnp.matmul(framed, cosine, precision="highest")
    imaginary = jnp.matmul(framed, sine, precision="highest")
    return real**2 + imaginary**2


@functools.cache
def _windowed_dft_float32(n_fft: int, hop_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Always the same two arrays, of 9 MB each: a program that calls `log_mel` twice then holds them once."""
    cosine, sine = windowed_dft(n_fft, hop_length)
    return cosine.astype(np.float32), sine.astype(np.float32)
