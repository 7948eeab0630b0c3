import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from muq_jax.errors import UserError
from muq_jax.train.optim import OptimConfig, learning_rate, make_optimizer, without_gradient

DECAYING = OptimConfig(peak_lr=1.0, schedule="constant", weight_decay=0.25)


def test_schedule_rises_to_the_peak_and_falls_to_zero():
    config = OptimConfig(peak_lr=2.0, warmup_steps=4, total_steps=12)
    rates = [float(learning_rate(config, count, np)) for count in range(13)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_schedule_without_warmup_and_past_the_end():
    config = OptimConfig(peak_lr=2.0, warmup_steps=0, total_steps=4)
    assert [float(learning_rate(config, count, np)) for count in (0, 2, 4, 9)] == [2.0, 1.0, 0.0, 0.0]


def test_constant_schedule():
    config = OptimConfig(peak_lr=1e-4, schedule="constant")
    assert float(learning_rate(config, 0)) == float(learning_rate(config, 10**6)) == pytest.approx(1e-4)


def test_host_and_device_rates_agree():
    config = OptimConfig(peak_lr=5e-4, warmup_steps=100, total_steps=1000)
    counts = np.arange(0, 1100, 7)
    np.testing.assert_allclose(
        learning_rate(config, jnp.asarray(counts)), learning_rate(config, counts, np), rtol=1e-6
    )


def reference_adam(config, param, grads):
    """fairseq's Adam in numpy float64, written from its formulae: clip, decay the parameter, then step."""
    mean, square, param = np.zeros_like(param), np.zeros_like(param), param.astype(np.float64)
    for count, grad in enumerate(grads):
        if config.clip_norm is not None:
            grad = grad * min(1.0, config.clip_norm / np.linalg.norm(grad))
        rate = float(learning_rate(config, count, np))
        param = param - rate * config.weight_decay * param
        mean = config.beta1 * mean + (1 - config.beta1) * grad
        square = config.beta2 * square + (1 - config.beta2) * grad**2
        mean_hat = mean / (1 - config.beta1 ** (count + 1))
        square_hat = square / (1 - config.beta2 ** (count + 1))
        param = param - rate * mean_hat / (np.sqrt(square_hat) + config.eps)
    return param


@pytest.mark.parametrize(
    "config",
    [
        OptimConfig(peak_lr=0.1, warmup_steps=3, total_steps=20, clip_norm=1.0, weight_decay=0.1),
        OptimConfig(
            peak_lr=1e-2, schedule="constant", beta2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=None
        ),
    ],
)
def test_updates_follow_the_formulae(config):
    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal(7), rng.standard_normal((10, 7)) * 3
    optimizer = make_optimizer(config)
    params = jnp.asarray(start, jnp.float32)
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(jnp.asarray(grad, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, reference_adam(config, start, grads), rtol=2e-5, atol=2e-6)


def test_decay_reaches_every_parameter():
    optimizer = make_optimizer(DECAYING)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "scale": jnp.ones(())}
    updates, _ = optimizer.update(
        {k: jnp.zeros_like(v) for k, v in params.items()}, optimizer.init(params), params
    )
    for leaf in updates.values():
        np.testing.assert_allclose(leaf, -0.25)


def test_frozen_groups_move_not_even_by_decay():
    params = {"a": {"kernel": jnp.ones(3)}, "b": {"kernel": jnp.ones(3)}}
    grads = {"a": {"kernel": jnp.zeros(3)}, "b": {"kernel": jnp.asarray([1.0, -2.0, 3.0])}}
    optimizer = make_optimizer(dataclasses.replace(DECAYING, frozen=("a",)))
    state = optimizer.init(params)
    updates, _ = optimizer.update(grads, state, params)
    np.testing.assert_array_equal(updates["a"]["kernel"], 0.0)
    alone = make_optimizer(DECAYING)
    expected, _ = alone.update({"b": grads["b"]}, alone.init({"b": params["b"]}), {"b": params["b"]})
    np.testing.assert_array_equal(updates["b"]["kernel"], expected["b"]["kernel"])
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * 3 + 2  # moments of b; two counters


def test_frozen_groups_have_no_gradient():
    params = {"a": jnp.asarray(2.0), "b": jnp.asarray(3.0)}
    grads = jax.grad(lambda p: (lambda q: q["a"] * q["b"])(without_gradient(p, ("a",))))(params)
    assert {name: float(g) for name, g in grads.items()} == {"a": 0.0, "b": 2.0}


def test_a_frozen_group_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"optim\.frozen names 'c'; there are a, b"):
        without_gradient({"b": jnp.ones(1), "a": jnp.ones(1)}, ("a", "c"))
    with pytest.raises(UserError, match=r"optim\.frozen names 'c'; there are a"):
        make_optimizer(OptimConfig(frozen=("c",))).init({"a": jnp.ones(1)})


def test_a_group_within_a_group_is_frozen():
    params = {"a": {"low": jnp.asarray(2.0), "high": jnp.asarray(5.0)}, "b": jnp.asarray(3.0)}
    frozen = ("a/low",)

    def product(params):
        params = without_gradient(params, frozen)
        return params["a"]["low"] * params["a"]["high"] * params["b"]

    grads = jax.grad(product)(params)
    assert jax.tree.map(float, grads) == {"a": {"low": 0.0, "high": 6.0}, "b": 10.0}
    optimizer = make_optimizer(dataclasses.replace(DECAYING, frozen=frozen))
    state = optimizer.init(params)
    updates, _ = optimizer.update(grads, state, params)
    assert updates["a"]["low"] == 0.0
    assert updates["a"]["high"] != 0.0 and updates["b"] != 0.0
    assert len(jax.tree.leaves(state)) == 2 * 2 + 2
    for path, there in (("a/x", "a/high, a/low"), ("b/x", "a, b")):
        with pytest.raises(UserError, match=rf"optim\.frozen names '{path}'; there are {there}\."):
            without_gradient(params, (path,))


def test_groups_learn_at_their_own_rates():
    params = {"tower": {"layers": {"k": jnp.ones((3, 2))}, "norm": jnp.ones(2)}, "towers": jnp.ones(2)}
    grads = jax.tree.map(lambda p: p + jnp.arange(2), params)
    factors = (("tower/layers", (0.25, 0.5, 1.0)), ("tower", 0.1), ("tower/norm", 7.0))
    plain, scaled = (
        make_optimizer(DECAYING),
        make_optimizer(dataclasses.replace(DECAYING, lr_factors=factors)),
    )
    expected, _ = plain.update(grads, plain.init(params), params)
    updates, _ = scaled.update(grads, scaled.init(params), params)
    by_layer = np.array([[0.25], [0.5], [1.0]])
    np.testing.assert_allclose(updates["tower"]["layers"]["k"], expected["tower"]["layers"]["k"] * by_layer)
    np.testing.assert_allclose(updates["tower"]["norm"], expected["tower"]["norm"] * 0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["towers"], expected["towers"])


@pytest.mark.parametrize(
    "wrong, named",
    [({"schedule": "cosine"}, "cosine"), ({"warmup_steps": 10, "total_steps": 10}, "warmup_steps=10")],
)
def test_wrong_configs_are_named(wrong, named):
    with pytest.raises(UserError, match=named):
        OptimConfig(**wrong)
