import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax import parallel
from muq_jax.errors import UserError
from muq_jax.objectives.masking import MaskingConfig, mask_blocks, mask_tokens, mask_wave

KEY = jax.random.key(0)
CONFIG = MaskingConfig()


def blocks_of(rows, length=100_000, num_samples=None, config=CONFIG):
    rows = jnp.asarray(rows, jnp.int32)
    num_samples = jnp.full(rows.shape, length) if num_samples is None else jnp.asarray(num_samples)
    return mask_blocks(KEY, rows, num_samples, length, config)


def test_a_rows_mask_and_noise_do_not_depend_on_its_batch():
    wave = jax.random.normal(jax.random.key(1), (8, 30_000))
    every = blocks_of(range(8), 30_000)
    heard = mask_wave(KEY, jnp.arange(8), wave, every, CONFIG)
    for rows in ([5], [2, 3], [7, 0, 4]):
        some = blocks_of(rows, 30_000)
        np.testing.assert_array_equal(some, every[jnp.array(rows)])
        alone = mask_wave(KEY, jnp.array(rows), wave[jnp.array(rows)], some, CONFIG)
        np.testing.assert_array_equal(alone, heard[jnp.array(rows)])
    assert len({tuple(row.tolist()) for row in blocks_of(range(8), 300_000)}) == 8


def test_eight_devices_mask_as_one_does():
    mesh = parallel.make_mesh()
    rows, wave = jnp.arange(8), jax.random.normal(jax.random.key(1), (8, 20_000))

    @jax.jit
    def masked(rows, wave):
        blocks = blocks_of(rows, 20_000)
        return blocks, mask_wave(KEY, rows, wave, blocks, CONFIG)

    sharding = parallel.batch_sharding(mesh)
    jax.tree.map(
        np.testing.assert_array_equal,
        masked(rows, wave),
        masked(jax.device_put(rows, sharding), jax.device_put(wave, sharding)),
    )


def test_share_of_masked_blocks_and_their_independence():
    blocks = np.asarray(blocks_of(range(400), 9_600 * 50))
    assert blocks.shape == (400, 50)
    # 20,000 draws: three standard deviations are 0.0104.
    assert abs(blocks.mean() - 0.6) < 0.0104
    assert abs((blocks[:, 1:] & blocks[:, :-1]).mean() - 0.36) < 0.02
    assert abs((blocks[1:] & blocks[:-1]).mean() - 0.36) < 0.02


def test_only_whole_valid_blocks_are_masked():
    config = MaskingConfig(prob=1.0)
    blocks = blocks_of(range(4), 40_000, [40_000, 28_800, 28_799, 0], config)
    np.testing.assert_array_equal(blocks.sum(1), [4, 3, 2, 0])
    np.testing.assert_array_equal(blocks, np.sort(blocks, axis=1)[:, ::-1])


def test_noise_lies_exactly_in_the_blocks():
    wave = jnp.ones((3, 9_600 * 3 + 77))
    blocks = jnp.array([[True, False, True], [False, False, False], [False, True, False]])
    heard = np.asarray(mask_wave(KEY, jnp.arange(3), wave, blocks, CONFIG))
    untouched = np.repeat(~np.asarray(blocks), 9_600, axis=1)
    np.testing.assert_array_equal(heard[:, : 9_600 * 3][untouched], 1)
    np.testing.assert_array_equal(heard[:, 9_600 * 3 :], 1)
    noise = heard[:, : 9_600 * 3][~untouched]
    assert abs(noise.mean()) < 0.003 and abs(noise.std() - 0.1) < 0.003
    assert not np.any(noise == 1)


@pytest.mark.parametrize(("label_rate", "size"), [(25, 10), (50, 20)])
def test_tokens_of_a_block_lie_under_its_samples(label_rate, size):
    config = MaskingConfig(label_rate=label_rate)
    blocks = blocks_of(range(6), 9_600 * 4 + 4_000)
    tokens = np.asarray(mask_tokens(blocks, 4 * size + size // 4, config))
    samples_per_token = 24_000 // label_rate
    for token in range(tokens.shape[1]):
        start, end = token * samples_per_token, (token + 1) * samples_per_token
        heard = mask_wave(KEY, jnp.arange(6), jnp.full((6, 9_600 * 4 + 4_000), 7.0), blocks, config)
        np.testing.assert_array_equal(tokens[:, token], (np.asarray(heard)[:, start:end] != 7).all(1))


@pytest.mark.parametrize("seconds", [0.41, 0.0, -0.4])
def test_a_block_of_broken_or_no_tokens_is_refused(seconds):
    with pytest.raises(UserError, match=f"mask_seconds is {seconds}"):
        MaskingConfig(seconds=seconds)
