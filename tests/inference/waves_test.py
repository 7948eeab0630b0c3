import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muq_jax.errors import UserError
from muq_jax.inference.waves import as_clips, bucket, pad_batch


def wave(n):
    return np.sin(np.arange(n) / 9).astype(np.float32)


def test_an_array_and_a_list_of_its_rows_are_the_same():
    batch = np.stack([wave(3000), wave(3000)[::-1]])
    for a, b in zip(as_clips(batch, [3000, 2000], 24_000, 24_000), [batch[0], batch[1, :2000]], strict=True):
        np.testing.assert_array_equal(a, b)
    listed = as_clips([batch[0], batch[1, :2000]], None, 24_000, 24_000)
    assert [len(clip) for clip in listed] == [3000, 2000]


def test_short_clips_are_padded_and_float64_is_cast():
    (clip,) = as_clips([wave(7).astype(np.float64)], None, 24_000, 24_000)
    assert clip.dtype == np.float32 and clip.shape == (1_025,)
    np.testing.assert_array_equal(clip[:7], wave(7))
    assert not clip[7:].any()


def test_other_rates_are_resampled_clip_by_clip():
    time = np.arange(44_100) / 44_100
    tone = np.sin(2 * np.pi * 1000 * time)
    alone = as_clips([tone], None, 44_100, 24_000)[0]
    padded = np.stack([np.pad(tone, (0, 500)), np.ones(44_600)])
    in_batch = as_clips(padded, [44_100, 44_600], 44_100, 24_000)[0]
    np.testing.assert_array_equal(alone, in_batch)
    assert len(alone) == 24_000
    middle = slice(2_000, 22_000)
    np.testing.assert_allclose(
        alone[middle], np.sin(2 * np.pi * 1000 * np.arange(24_000) / 24_000)[middle], atol=1e-4
    )


def test_nan_in_padding_is_not_heard():
    batch = np.full((1, 3000), np.nan)
    batch[0, :2000] = 0.1
    assert np.isfinite(as_clips(batch, [2000], 24_000, 24_000)[0]).all()


@pytest.mark.parametrize(
    "wavs, num_samples, rate, says",
    [
        ([], None, 24_000, "empty"),
        (np.zeros((0, 5000)), None, 24_000, "empty"),
        ([wave(2000), np.zeros(0)], None, 24_000, "clip 1 has no samples"),
        (np.zeros((1, 2000)), [0], 24_000, "clip 0 has no samples"),
        ([np.array([0.0, np.nan])], None, 24_000, "clip 0 holds nan at sample 1"),
        ([wave(9), np.array([np.inf])], None, 24_000, "clip 1 holds inf at sample 0"),
        (wave(2000), None, 24_000, r"shape \(2000,\)"),
        ([np.zeros((2, 2000))], None, 24_000, r"clip 0 has shape \(2, 2000\)"),
        (np.zeros((1, 2000), np.int16), None, 24_000, "int16"),
        (np.zeros((1, 2000)), [2001], 24_000, r"num_samples\[0\] is 2001"),
        (np.zeros((1, 2000)), [2.0], 24_000, "num_samples is float64"),
        (np.zeros((1, 2000)), [1, 2], 24_000, "expected 1 integers"),
        ([wave(2000)], None, 0, "sampling_rate is 0"),
        ([wave(2000)], None, 44, "sampling_rate is 44; .*24000, not 24 for kHz"),
        ([wave(2000)], None, 44.1, "sampling_rate is 44.1; .*24000, not 24 for kHz"),
        ([wave(2000)], None, None, "sampling_rate is None"),
        ([wave(2000)], None, 10**30, "a whole number from 1000 to 768000"),
        ([np.full(2000, 1e38, np.float32)], None, 24_000, r"clip 0 holds 9\.99.*e\+37"),
        ([np.full(2000, 1e300)], None, 24_000, "clip 0 holds inf"),
        ([wave(2000), [1.0, [2.0]]], None, 24_000, "clip 1 is no array of samples"),
        ([wave(2000)], None, 24_000.0, "sampling_rate is 24000.0"),
    ],
)
def test_what_cannot_be_heard_is_named(wavs, num_samples, rate, says):
    with pytest.raises(UserError, match=says):
        as_clips(wavs, num_samples, rate, 24_000)


def test_batches_are_zero_padded():
    batch, lengths = pad_batch([wave(5), wave(3)], 8)
    assert batch.shape == (2, 8) and lengths.tolist() == [5, 3]
    np.testing.assert_array_equal(batch[1], np.pad(wave(3), (0, 5)))


@given(st.integers(1_025, 10**8))
def test_buckets_hold_the_clip_and_waste_little(num_samples):
    size = bucket(num_samples, 24_000)
    assert num_samples <= size <= max(num_samples * 1.125, num_samples + 1_500) + 1


def test_buckets_are_few_and_hold_the_usual_lengths():
    assert len({bucket(n, 24_000) for n in range(24_000, 48_000, 7)}) <= 9
    for seconds in (1, 2, 5, 10, 15, 30, 60):
        assert bucket(24_000 * seconds, 24_000) == 24_000 * seconds
