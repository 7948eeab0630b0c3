import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muq_jax.errors import UserError
from muq_jax.inference.windows import MIN_TOKENS, plan, stream, window_tokens
from muq_jax.nn.subsample import num_tokens


@given(st.integers(1_025, 400_000), st.integers(MIN_TOKENS, 200), st.sampled_from([25, 50]))
def test_windows_tile_the_clip_and_keep_centres(num_samples, size, rate):
    per_token = 24_000 // rate
    tokens = num_tokens(num_samples // 240, rate)
    windows = plan(num_samples, tokens, size, per_token)

    kept = [token for window in windows for token in range(window.first, window.last)]
    assert kept == list(range(tokens))
    for window in windows:
        assert window.start % per_token == 0
        assert 1_025 <= window.stop - window.start <= size * per_token
        heard = num_tokens((window.stop - window.start) // 240, rate)
        assert window.skip == window.first - window.start // per_token
        assert 0 <= window.skip and window.skip + window.last - window.first <= heard
        if window.start:
            assert window.skip >= size // 4
        if window.stop < num_samples:
            assert heard - (window.skip + window.last - window.first) >= size // 4
    assert windows[0].start == 0 and windows[-1].stop == num_samples


def test_a_clip_that_fits_is_one_window():
    assert plan(48_000, 50, 50, 960) == [(0, 48_000, 0, 50, 0)]


@pytest.mark.parametrize("bad", [0, -1, 0.3, "10", True, float("nan"), np.bool_(True), np.float32("inf")])
def test_windows_that_cannot_be(bad):
    with pytest.raises(UserError, match="window_seconds"):
        window_tokens(bad, 25)


def test_window_length_in_tokens():
    assert window_tokens(10, 25) == 250
    assert window_tokens(0.33, 25) == 8


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, np.int64])
def test_numpy_numbers_are_numbers(kind):
    assert window_tokens(kind(10), 25) == 250


@given(
    num_samples=st.integers(1, 3000),
    size=st.integers(MIN_TOKENS, 40),
    samples_per_token=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
)
def test_a_stream_has_the_windows_of_the_plan(num_samples, size, samples_per_token, cuts):
    """However the clip comes in pieces, empty ones among them."""
    wave = np.arange(num_samples, dtype=np.float32)
    blocks = np.split(wave, sorted(min(cut, num_samples) for cut in cuts))

    def num_tokens(samples):
        return samples // samples_per_token

    found = list(stream(blocks, size, samples_per_token, num_tokens))
    assert [window for _, window in found] == plan(
        num_samples, num_tokens(num_samples), size, samples_per_token
    )
    for heard, window in found:
        np.testing.assert_array_equal(heard, wave[window.start : window.stop])
