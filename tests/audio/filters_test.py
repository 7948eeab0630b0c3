import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal

from muq_jax.audio import filters
from muq_jax.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("n_fft", [16, 512, 2048])
def test_hann_window_is_scipys_periodic_one(n_fft):
    expected = scipy.signal.get_window("hann", n_fft, fftbins=True)
    np.testing.assert_allclose(filters.hann_window(n_fft), expected, atol=1e-15)


@pytest.mark.parametrize(
    "rate, n_fft, num_mels", [(24_000, 2048, 128), (16_000, 400, 40), (44_100, 1024, 64)]
)
def test_mel_filterbank_is_librosas(rate, n_fft, num_mels):
    expected = librosa.filters.mel(
        sr=rate, n_fft=n_fft, n_mels=num_mels, htk=True, norm=None, dtype=np.float64
    )
    bank = filters.mel_filterbank(rate, n_fft, num_mels)
    assert bank.dtype == np.float64
    np.testing.assert_allclose(bank, expected.T, atol=1e-12)


def test_muqs_filterbank_hears_every_bin_between_its_ends():
    bank = filters.mel_filterbank(24_000, 2048, 128)
    assert (bank.max(axis=0) > 0).all()
    assert (bank[1:-1].sum(axis=1) > 0).all()


def test_empty_mel_bands_are_refused():
    with pytest.raises(UserError, match=r"mel\.num_mels=128 is too many for mel\.n_fft=256"):
        filters.mel_filterbank(24_000, 256, 128)


@pytest.mark.parametrize("n_fft, hop, rows", [(2048, 240, 2160), (480, 240, 480), (100, 32, 128)])
def test_windowed_dft_is_the_fourier_transform_of_a_windowed_frame(n_fft, hop, rows):
    cosine, sine = filters.windowed_dft(n_fft, hop)
    assert cosine.shape == sine.shape == (rows, n_fft // 2 + 1)
    # Samples past the window lie in the last hop; the zero rows must silence them.
    frame = np.random.default_rng(0).standard_normal(rows)
    expected = np.fft.rfft(frame[:n_fft] * filters.hann_window(n_fft))
    np.testing.assert_allclose(frame @ cosine + 1j * (frame @ sine), expected, atol=1e-9)


def test_cached_constants_cannot_be_written_to():
    for constant in (
        filters.hann_window(16),
        filters.mel_filterbank(8_000, 512, 20),
        *filters.windowed_dft(16, 4),
    ):
        with pytest.raises(ValueError, match="read-only"):
            constant[0] = 1


def test_the_numpy_side_of_audio_imports_neither_jax_nor_librosa():
    code = (
        "import sys, muq_jax.audio.decode, muq_jax.audio.filters, muq_jax.audio.mel_numpy as m, numpy as np;"
        "m.log_mel_numpy(np.zeros(1025));"
        "print([p for p in ('jax', 'librosa', 'numba', 'scipy', 'av') if p in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
