"""The front end's constants in numpy float64: window, mel filterbank, windowed Fourier basis.

Built here rather than by librosa, whose `filters` module takes up to half a minute to import (numba); the
tests hold them equal to librosa's.
"""

import functools

import numpy as np

from muq_jax.errors import UserError


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False  # cached and shared: nobody may write into it
    return array


@functools.cache
def hann_window(n_fft: int) -> np.ndarray:
    """Periodic Hann window, [n_fft] float64; `numpy.hanning` is the symmetric one."""
    return _frozen(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft))


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """HTK mel of a frequency in Hz."""
    return 2595 * np.log10(1 + np.asarray(hz) / 700)


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    """Frequency in Hz of an HTK mel."""
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)


@functools.cache
def mel_filterbank(sample_rate_hz: int, n_fft: int, num_mels: int) -> np.ndarray:
    """Triangular filters with peak 1, equally spaced on the HTK mel scale from 0 Hz to half the sample rate.

    Equal to torchaudio's `melscale_fbanks` defaults and to librosa's `mel(htk=True, norm=None)`.

    Returns:
        [n_fft // 2 + 1, F] float64: a power spectrum times this is a mel spectrum.

    Raises:
        UserError: a band is so narrow that no FFT bin falls into it.
    """
    nyquist_hz = sample_rate_hz / 2
    bins_hz = np.linspace(0, nyquist_hz, n_fft // 2 + 1)[:, None]
    edges_hz = mel_to_hz(np.linspace(0, hz_to_mel(nyquist_hz), num_mels + 2))
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    bank = np.maximum(0, np.minimum(rising, falling))
    empty = np.flatnonzero(bank.max(axis=0) == 0)
    if empty.size:
        raise UserError(
            f"mel.num_mels={num_mels} is too many for mel.n_fft={n_fft}: {empty.size} bands are empty, the "
            f"first of them number {empty[0]}; take fewer bands or a longer n_fft"
        )
    return _frozen(bank)


@functools.cache
def windowed_dft(n_fft: int, hop_length: int) -> tuple[np.ndarray, np.ndarray]:
    """The real Fourier transform of a Hann-windowed frame, as two matrices.

    Zero rows are appended up to the next multiple of `hop_length` (2048 to 2160 = 9 x 240), so that frames
    can be cut as whole hops: on TPU, framing by sample costs more than the transform.

    Returns:
        Cosine and (negative) sine basis, float64, each [n_fft rounded up to whole hops, n_fft // 2 + 1]: a
        frame times the first is the spectrum's real part, times the second its imaginary part.
    """
    num_rows = -(-n_fft // hop_length) * hop_length
    # The product is reduced modulo n_fft as integers: cos of a large angle would lose digits.
    angle = 2 * np.pi / n_fft * (np.outer(np.arange(n_fft), np.arange(n_fft // 2 + 1)) % n_fft)
    window = hann_window(n_fft)[:, None]
    pad = ((0, num_rows - n_fft), (0, 0))
    return _frozen(np.pad(window * np.cos(angle), pad)), _frozen(np.pad(window * -np.sin(angle), pad))
