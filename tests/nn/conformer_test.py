import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.nn.conformer import ConformerBlock, ConformerConfig, ConformerEncoder, ConvolutionModule
from muq_jax.nn.normalization import layer_norm
from muq_jax.nn.positions import rotary_table

SMALL = ConformerConfig(width=16, num_layers=3, num_heads=2, ffn_width=24, conv_kernel=5)
NO_DROPOUT = dataclasses.replace(
    SMALL, hidden_dropout=0, attention_dropout=0, activation_dropout=0, conv_dropout=0
)
B, T = 3, 11


@functools.cache
def example():
    x = np.random.default_rng(0).standard_normal((B, T, SMALL.width)).astype(np.float32)
    variables = jax.jit(ConformerEncoder(SMALL).init)(jax.random.key(1), x[:1])
    # Initial norms scale by one and shift by nothing, which would hide one that is missing.
    spread = lambda a: a + 0.2 * np.random.default_rng(a.size).uniform(size=a.shape).astype(np.float32)  # noqa: E731
    return x, jax.tree.map(spread, variables)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(config, variables, x, valid=None):
    return ConformerEncoder(config).apply(variables, x, valid)


@functools.partial(jax.jit, static_argnums=0)
def train(config, variables, x, valid=None, key=None):
    """Hidden states and new statistics."""
    rngs = None if key is None else {"dropout": key}
    return ConformerEncoder(config).apply(variables, x, valid, train=True, mutable=["batch_stats"], rngs=rngs)


def layer(variables, number):
    return {
        name: jax.tree.map(lambda a: a[number], variables[name]["layers"])
        for name in ("params", "batch_stats")
    }


def test_the_convolution_module_by_hand():
    config, (x, variables) = SMALL, example()
    found_in = layer(variables, 0)
    params, stats = found_in["params"]["conv"], found_in["batch_stats"]["conv"]["batch_norm"]
    apply = jax.jit(functools.partial(ConvolutionModule(config).apply, train=False))
    y = apply({"params": params, "batch_stats": {"batch_norm": stats}}, x, None)
    h = np.asarray(layer_norm(x, params["norm"]["scale"], params["norm"]["bias"], 1e-5))
    h = h @ params["expand"]["kernel"]
    h = h[..., : config.width] / (1 + np.exp(-h[..., config.width :]))  # value first, gate second
    padded = np.pad(h, ((0, 0), (2, 2), (0, 0)))
    h = sum(padded[:, k : k + T] * params["depthwise"]["kernel"][k] for k in range(5))
    norm = params["batch_norm"]
    h = (h - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
    h = h / (1 + np.exp(-h))
    np.testing.assert_allclose(y, h @ params["project"]["kernel"], atol=2e-5)


@pytest.mark.parametrize("remat", [True, False])
def test_the_scan_is_its_layers_one_after_the_other(remat):
    config = dataclasses.replace(NO_DROPOUT, remat=remat)
    x, variables = example()
    valid = np.arange(T) < np.array([11, 6, 1])[:, None]
    states, updated = train(config, variables, x, valid)
    block = jax.jit(functools.partial(ConformerBlock(config, train=True).apply, mutable=["batch_stats"]))
    rotary = rotary_table(T, config.width // config.num_heads)
    h = np.where(valid[..., None], x, 0)
    np.testing.assert_array_equal(states[0], h)
    for number in range(config.num_layers):
        (h, _), state = block(layer(variables, number), h, valid, rotary)
        if number < config.num_layers - 1:
            np.testing.assert_allclose(states[number + 1], h, atol=1e-5)
        stacked = layer({"params": variables["params"]} | updated, number)["batch_stats"]
        for a, b in zip(jax.tree.leaves(state["batch_stats"]), jax.tree.leaves(stacked), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    norm = variables["params"]["final_norm"]
    last = layer_norm(h, norm["scale"], norm["bias"], config.layer_norm_eps)
    np.testing.assert_allclose(states[-1], np.where(valid[..., None], last, 0), atol=1e-5)


@pytest.mark.slow
def test_rematerialisation_and_convolution_change_no_gradient():
    x, variables = example()

    def loss(params, config):
        return jnp.sum(jnp.sin(train(config, variables | {"params": params}, x)[0]))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    expected = gradient(variables["params"], dataclasses.replace(NO_DROPOUT, remat=False, conv_impl="lax"))
    found = gradient(variables["params"], dataclasses.replace(NO_DROPOUT, remat=True, conv_impl="shift"))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True
    ):
        np.testing.assert_allclose(b, a, atol=2e-4, rtol=1e-3, err_msg=jax.tree_util.keystr(path))


def test_padding_changes_nothing():
    x, variables = example()
    states = evaluate(SMALL, variables, x, np.arange(T) < np.array([11, 6, 1])[:, None])
    alone = evaluate(SMALL, variables, x[1:2, :6])
    np.testing.assert_allclose(states[:, 1, :6], alone[:, 0], atol=1e-5)
    for row, length in enumerate([11, 6, 1]):
        assert (np.asarray(states[:, row, length:]) == 0).all()


def test_dropout_repeats_with_its_key_and_only_then():
    x, variables = example()
    first, _ = train(SMALL, variables, x, key=jax.random.key(0))
    np.testing.assert_array_equal(train(SMALL, variables, x, key=jax.random.key(0))[0], first)
    other, _ = train(SMALL, variables, x, key=jax.random.key(1))
    assert (other[0] != first[0]).any() and (other[1] != first[1]).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["hidden_dropout", "attention_dropout", "activation_dropout", "conv_dropout"]
)
def test_every_dropout_rate_is_used(name):
    x, variables = example()
    expected, _ = train(NO_DROPOUT, variables, x)
    states, _ = train(dataclasses.replace(NO_DROPOUT, **{name: 0.5}), variables, x, key=jax.random.key(0))
    assert np.abs(states - expected).max() > 1e-2


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"width": 36, "num_heads": 4}, "width 36 must be a multiple of 2 x num_heads"),
        ({"conv_kernel": 4}, "conv_kernel must be odd, found 4"),
        ({"num_heads": 0}, "conformer.num_heads must be at least 1, found 0"),
        ({"num_layers": 0}, "conformer.num_layers must be at least 1, found 0"),
        ({"hidden_dropout": 1.0}, r"conformer.hidden_dropout must be at least 0 and below 1, found 1\.0"),
        ({"conv_dropout": -0.1}, r"conformer.conv_dropout must be at least 0 and below 1, found -0\.1"),
        ({"rotary_base": 0.0}, r"conformer.rotary_base must be above 0, found 0\.0"),
        ({"conv_impl": "fft"}, "conv_impl must be one of"),
    ],
)
def test_impossible_sizes_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        ConformerConfig(**fields)
