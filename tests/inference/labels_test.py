"""Labels of whole clips are what the objective computes for the same windows."""

import jax
import numpy as np
import pytest

from muq_jax import parallel
from muq_jax.inference.labels import label_clips, make_encode
from muq_jax.objectives.targets import HiddenRVQTargets
from tests.models.hidden_rvq_test import CONFIG, make_noise, make_variables

WINDOW = 9_600


@pytest.fixture(scope="module")
def variables():
    return make_variables(CONFIG)


def clips():
    lengths = [3 * WINDOW, WINDOW + 5_000, 700, 2_000, 0, 2 * WINDOW + 960, WINDOW]
    return [make_noise((1, length), seed)[0] for seed, length in enumerate(lengths)]


def test_windows_follow_each_other_and_clips_come_in_order():
    """A stand-in that answers with each token's first sample and its window's length."""
    batches = []

    def encode(wave, num_samples):
        batches.append(num_samples.tolist())
        tokens = wave[:, ::960]
        return np.stack([tokens, np.broadcast_to(num_samples[:, None], tokens.shape)], axis=-1)

    waves = clips()
    options = dict(batch_size=3, window_samples=WINDOW + 100, token_samples=960)
    found = list(label_clips(iter(waves), encode, **options))
    assert batches == [[9600] * 3, [9600, 4800, 0], [1920, 0, 9600], [9600, 960, 9600]]
    for wave, codes in zip(waves, found, strict=True):
        tokens = len(wave) // 960
        np.testing.assert_array_equal(codes[:, 0], wave[: tokens * 960 : 960])
        assert codes.shape == (tokens, 2)
    assert found[1][:, 1].tolist() == [9600] * 10 + [4800] * 5


def test_clips_are_given_as_soon_as_they_are_known():
    read = []

    def waves():
        for number in range(100):
            read.append(number)
            yield np.zeros(WINDOW, np.float32)

    def encode(wave, num_samples):
        return np.zeros((len(wave), 10, 1))

    labels = label_clips(waves(), encode, batch_size=4, window_samples=WINDOW, token_samples=960)
    next(labels)
    assert len(read) == 4


@pytest.mark.parametrize("data, fsdp", [(8, 1), (2, 4)])
def test_stored_codes_are_the_computed_ones_on_any_mesh(variables, data, fsdp, monkeypatch):
    """For every window of the grid, whatever it shares a batch with, the last and shorter one too."""
    # The teacher is small: with the usual bound nothing of it would be split.
    monkeypatch.setattr(parallel.state_shardings, "__kwdefaults__", {"rules": (), "min_size": 64})
    shardings = parallel.state_shardings(variables, parallel.make_mesh(data, fsdp))
    assert any(not one.is_fully_replicated for one in jax.tree.leaves(shardings)) == (fsdp > 1)
    encode = make_encode(CONFIG, jax.device_get(variables), parallel.make_mesh(data, fsdp))
    waves = clips()
    stored = list(label_clips(waves, encode, batch_size=8, window_samples=WINDOW, token_samples=960))
    assert len(np.unique(np.concatenate(stored)[:, 0])) > 10
    targets = jax.jit(HiddenRVQTargets(CONFIG))
    for wave, codes in zip(waves, stored, strict=True):
        for start in range(0, len(wave), WINDOW):
            crop = np.zeros((1, WINDOW), np.float32)
            part = wave[start : start + WINDOW]
            crop[0, : len(part)] = part
            computed, valid = targets(variables, crop, np.array([len(part)]))
            first = start // 960
            np.testing.assert_array_equal(codes[first : first + valid.sum()], computed[0][valid[0]])
            assert valid.sum() == min(len(codes) - first, 10)
