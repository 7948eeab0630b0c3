import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muq_jax.data.transforms import Augment, CentreCrop, RandomCrop
from muq_jax.errors import UserError


def ramp(num_samples):
    return {"id": "ramp", "wave": np.arange(1, num_samples + 1, dtype=np.float32)}


@given(st.integers(0, 40), st.integers(1, 20), st.integers(0, 99))
def test_a_crop_is_a_stretch_of_the_clip_then_zeros(num_samples, crop_samples, seed):
    rng = np.random.default_rng(seed)
    for crop in (
        RandomCrop(crop_samples).random_map(ramp(num_samples), rng),
        CentreCrop(crop_samples).map(ramp(num_samples)),
    ):
        wave, n = crop["wave"], crop["num_samples"]
        assert wave.shape == (crop_samples,) and wave.dtype == np.float32
        assert n == min(num_samples, crop_samples)
        assert (wave[n:] == 0).all()
        assert (np.diff(wave[:n]) == 1).all() and (n == 0 or 1 <= wave[0] <= num_samples - n + 1)


def test_every_place_is_drawn_and_the_centre_is_the_centre():
    rng = np.random.default_rng(0)
    starts = [RandomCrop(4).random_map(ramp(10), rng)["wave"][0] for _ in range(300)]
    assert set(starts) == set(range(1, 8))
    assert CentreCrop(4).map(ramp(10))["wave"][0] == 4


def test_gain_is_uniform_in_decibels_and_leaves_the_source_alone():
    rng = np.random.default_rng(0)
    example = {"id": "a", "wave": np.ones(8, np.float32)}
    crop = RandomCrop(8, Augment(gain_db=(-12.0, 6.0)))
    decibels = 20 * np.log10([crop.random_map(example, rng)["wave"][0] for _ in range(500)])
    assert -12 <= decibels.min() < -11 and 5 < decibels.max() <= 6
    np.testing.assert_allclose(decibels.mean(), -3, atol=0.7)
    assert (example["wave"] == 1).all()


@pytest.mark.parametrize("gain_db", [(6.0, -6.0), (3.0,), (), 3.0, "ab", (0.0, float("nan")), (0, None)])
def test_a_gain_is_two_numbers_in_order(gain_db):
    with pytest.raises(UserError, match=r"gain_db=.*expected the lowest and the highest"):
        Augment(gain_db=gain_db)


def test_the_same_rng_gives_the_same_place_with_and_without_gain():
    plain = RandomCrop(4).random_map(ramp(100), np.random.default_rng(7))
    loud = RandomCrop(4, Augment(gain_db=(6.0, 6.0))).random_map(ramp(100), np.random.default_rng(7))
    np.testing.assert_allclose(loud["wave"], plain["wave"] * 10 ** (6 / 20), rtol=1e-6)


def test_channels_are_averaged_or_one_is_drawn():
    example = {"id": "a", "wave": np.stack([np.full(9, 1, np.float32), np.full(9, 3, np.float32)])}
    rng = np.random.default_rng(0)

    def values(transform):
        return {float(v) for _ in range(50) for v in transform.random_map(example, rng)["wave"]}

    assert values(RandomCrop(4)) == {2.0}
    assert values(RandomCrop(4, Augment(random_channel=True))) == {1.0, 3.0}
    assert set(CentreCrop(4).map(example)["wave"]) == {2.0}
    mono = {"id": "a", "wave": np.ones(9, np.float32)}
    assert set(RandomCrop(4, Augment(random_channel=True)).random_map(mono, rng)["wave"]) == {1.0}
