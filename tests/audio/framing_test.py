import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.audio import framing

jit_pad = jax.jit(framing.reflect_pad, static_argnames="pad")


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_shortest_clip_is_one_more_than_the_reflection():
    assert framing.MIN_SAMPLES == 1025


@pytest.mark.parametrize("samples, frames", [(0, 0), (239, 0), (240, 1), (1025, 4), (720_000, 3000)])
def test_one_frame_a_whole_hop(samples, frames):
    assert framing.num_frames(samples) == frames
    assert framing.num_frames(np.array([samples])).tolist() == [frames]


def test_frame_valid_ends_with_each_clip():
    valid = framing.frame_valid(jnp.array([0, 479, 480, 9_999]), 4)
    assert np.asarray(valid).tolist() == [
        [False] * 4,
        [True] + [False] * 3,
        [True] * 2 + [False] * 2,
        [True] * 4,
    ]


@pytest.mark.parametrize("samples", [1025, 1026, 5_000])
def test_reflection_without_lengths_is_numpys(samples):
    wave = noise(2, samples)
    expected = np.pad(wave, ((0, 0), (1024, 1024)), mode="reflect")
    np.testing.assert_array_equal(framing.reflect_pad(wave), expected)


def check_reflection(wave, num_samples, pad):
    padded = np.asarray(jit_pad(wave, np.asarray(num_samples, np.int32), pad=pad))
    assert padded.shape == (len(num_samples), wave.shape[1] + 2 * pad)
    for row, clip, n in zip(padded, wave, num_samples, strict=True):
        end = max(n, pad + 1)
        alone = np.where(np.arange(end) < n, clip[:end], 0)
        np.testing.assert_array_equal(row[: end + 2 * pad], np.pad(alone, pad, mode="reflect"))
        assert not row[end + 2 * pad :].any()


def test_each_clip_is_reflected_at_its_own_end():
    wave = noise(7, 3_003)
    wave[:, 2_999:] = np.nan  # what lies past a clip's end must not matter
    check_reflection(wave, [1025, 1026, 2047, 2048, 2049, 2_998, 2_999], 1024)


def test_a_clip_too_short_to_reflect_counts_as_zero_padded():
    check_reflection(noise(3, 1_500), [0, 1, 1024], 1024)


@pytest.mark.parametrize("pad, length", [(1, 2), (1, 3), (2, 9), (3, 10), (3, 11), (6, 13), (5, 23)])
def test_every_end_in_a_small_wave(pad, length):
    check_reflection(noise(length + 1, length), list(range(length + 1)), pad)


def test_too_few_samples_to_reflect_is_an_error():
    with pytest.raises(ValueError, match="at least 1025, got 1024"):
        framing.reflect_pad(noise(1, 1024))


@pytest.mark.parametrize("n_fft, hop", [(2048, 240), (480, 240), (7, 3)])
def test_hop_frames_are_sliding_windows_rounded_up_to_hops(n_fft, hop):
    rounded = -(-n_fft // hop) * hop
    frames = 11
    wave = noise(2, (frames - 1) * hop + rounded + 1)
    expected = np.stack([wave[:, t * hop : t * hop + rounded] for t in range(frames)], axis=1)
    np.testing.assert_array_equal(framing.hop_frames(jnp.asarray(wave), frames, n_fft, hop), expected)
