"""The log-mel spectrogram in numpy: for the data room, which imports no JAX, and as the tests' reference."""

import numpy as np

from muq_jax.audio.filters import hann_window, mel_filterbank

FRAMES_AT_ONCE = 512  # bounds the memory for a long track to a few MB


def log_mel_numpy(
    wave: np.ndarray,
    *,
    sample_rate_hz: int = 24_000,
    n_fft: int = 2048,
    hop_length: int = 240,
    num_mels: int = 128,
) -> np.ndarray:
    """The mel spectrogram of one clip in dB, as `mel.log_mel` defines it, computed in float64.

    Args:
        wave: [S], at least n_fft // 2 + 1 samples.
        sample_rate_hz: of `wave`; its half is the upper end of the last band.
        n_fft: samples of a frame.
        hop_length: samples from one frame's start to the next one's.
        num_mels: F, bands.

    Returns:
        [S // hop_length, F] float32

    Raises:
        ValueError: not one-dimensional, or too short to reflect.
    """
    wave = np.asarray(wave, np.float64)
    pad = n_fft // 2
    if wave.ndim != 1 or wave.size <= pad:
        raise ValueError(
            f"expected one clip of {pad + 1} samples or more, got shape {wave.shape}; zero-pad it"
        )
    padded = np.pad(wave, pad, mode="reflect")
    frames = wave.size // hop_length
    framed = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length][:frames]
    window, bank = hann_window(n_fft), mel_filterbank(sample_rate_hz, n_fft, num_mels)
    mel = np.empty((frames, num_mels))
    for start in range(0, frames, FRAMES_AT_ONCE):
        rows = slice(start, start + FRAMES_AT_ONCE)
        spectrum = np.fft.rfft(framed[rows] * window)
        mel[rows] = (spectrum.real**2 + spectrum.imag**2) @ bank
    return (10 * np.log10(np.maximum(mel, 1e-10))).astype(np.float32)
