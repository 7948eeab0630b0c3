import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.nn.normalization import BatchNorm, LayerNorm, channel_moments, layer_norm


def random_input(shape, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype(np.float32)


def test_layer_norm_is_the_formula():
    x = random_input((2, 5, 12))
    scale, bias = random_input((12,), 1), random_input((12,), 2)
    exact = x.astype(np.float64)
    mean, var = exact.mean(-1, keepdims=True), exact.var(-1, keepdims=True)
    expected = (exact - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(layer_norm(x, scale, bias, 1e-5), expected, atol=2e-6, rtol=1e-5)


def test_layer_norm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(random_input((2, 3, 64)) + 100.0, jnp.bfloat16)
    module = LayerNorm(dtype="bfloat16")
    y = module.apply(module.init(jax.random.key(0), x), x)
    expected = layer_norm(x.astype(jnp.float32), jnp.ones(64), jnp.zeros(64), 1e-5)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))


@pytest.mark.parametrize("shape", [(3, 7, 5), (3, 7, 4, 5)])
def test_training_normalises_by_the_biased_and_keeps_the_unbiased_variance(shape):
    x = random_input(shape)
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x)
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = x.astype(np.float64).reshape(-1, shape[-1])
    mean = flat.mean(0)
    np.testing.assert_allclose(
        y, ((flat - mean) / np.sqrt(flat.var(0) + 1e-5)).reshape(shape), atol=2e-6, rtol=1e-5
    )
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_evaluation_uses_the_running_statistics():
    x = random_input((2, 3, 4))
    mean, var = random_input((4,), 1), np.abs(random_input((4,), 2))
    scale, bias = random_input((4,), 3), random_input((4,), 4)
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(BatchNorm().apply(variables, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 7, 5), (3, 7, 4, 5)])
def test_only_valid_positions_count(shape):
    x = random_input(shape)
    lengths = [7, 2, 4]
    valid = np.arange(7) < np.array(lengths)[:, None]
    kept = np.concatenate([row[:n].reshape(-1, shape[-1]) for row, n in zip(x, lengths, strict=True)])
    x[~valid] = np.nan
    moments = channel_moments(jnp.asarray(x), jnp.asarray(valid))
    np.testing.assert_allclose(moments.mean[0], kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.var[0], kept.var(0), rtol=1e-5)
    assert moments.size[0] == len(kept)


def test_groups_are_what_each_device_would_see_alone():
    x = random_input((6, 5, 3))
    valid = np.arange(5) < np.array([5, 2, 3, 4, 1, 5])[:, None]
    module = BatchNorm(groups=3)
    variables = module.init(jax.random.key(0), x)
    y, updated = module.apply(variables, x, valid, train=True, mutable=["batch_stats"])
    alone = [
        BatchNorm().apply(variables, x[i : i + 2], valid[i : i + 2], train=True, mutable=["batch_stats"])
        for i in (0, 2, 4)
    ]
    np.testing.assert_allclose(y, np.concatenate([out for out, _ in alone]), atol=1e-6)
    for name in ("mean", "var"):
        expected = np.mean([state["batch_stats"][name] for _, state in alone], axis=0)
        np.testing.assert_allclose(updated["batch_stats"][name], expected, rtol=1e-6)


def test_groups_that_do_not_divide_the_batch_are_an_error():
    with pytest.raises(ValueError, match="5 rows cannot be cut into 2"):
        channel_moments(jnp.zeros((5, 2, 3)), groups=2)


def test_a_batch_without_any_valid_position_stays_finite():
    module, x = BatchNorm(), jnp.ones((2, 3, 4))
    variables = module.init(jax.random.key(0), x)
    y, updated = module.apply(variables, x, jnp.zeros((2, 3), bool), train=True, mutable=["batch_stats"])
    assert np.isfinite(y).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updated))
