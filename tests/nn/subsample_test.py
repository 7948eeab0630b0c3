import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.nn.subsample import TIME_STRIDES, Conv2dSubsampling, num_tokens

F, C, D = 8, 3, 5


@functools.cache
def make(label_rate=25):
    module = Conv2dSubsampling(C, D, label_rate)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, F)))
    # Means and variances other than 0 and 1, so that a norm in the wrong place shows.
    stats = jax.tree.map(
        lambda a: a + np.random.default_rng(a.size).uniform(0.1, 1, a.shape), variables["batch_stats"]
    )
    return module, {"params": variables["params"], "batch_stats": stats}


def conv_by_hand(x, params, strides):
    """[T, F, I] by the definition: a zero on every side, then each output from its 3 x 3 window."""
    kernel, bias = np.float64(params["kernel"]), np.float64(params["bias"])
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows, columns = (-(-size // stride) for size, stride in zip(x.shape, strides, strict=False))
    y = np.empty((rows, columns, kernel.shape[-1]))
    for t in range(rows):
        for f in range(columns):
            window = padded[t * strides[0] : t * strides[0] + 3, f * strides[1] : f * strides[1] + 3]
            y[t, f] = np.einsum("tfi,tfio->o", window, kernel) + bias
    return y


def norm_by_hand(x, params, stats):
    factor = np.float64(params["scale"]) / np.sqrt(np.float64(stats["var"]) + 1e-5)
    return (x - np.float64(stats["mean"])) * factor + np.float64(params["bias"])


def subsample_by_hand(mel, variables, label_rate):
    """One clip [frames, F] to [T, D] in float64."""
    x = mel[..., None].astype(np.float64)
    params, stats = variables["params"], variables["batch_stats"]
    for block, stride in zip(("block1", "block2"), TIME_STRIDES[label_rate], strict=True):

        def step(y, number, strides, block=block):
            y = conv_by_hand(y, params[block][f"conv{number}"], strides)
            return norm_by_hand(y, params[block][f"norm{number}"], stats[block][f"norm{number}"])

        inner = step(np.maximum(step(x, 1, (stride, 2)), 0), 2, (1, 1))
        x = np.maximum(inner + step(x, 3, (stride, 2)), 0)
    flat = x.transpose(0, 2, 1).reshape(len(x), -1)  # channel slowest
    return flat @ np.float64(params["linear"]["kernel"]) + np.float64(params["linear"]["bias"])


@pytest.mark.parametrize("label_rate, frames", [(25, 12), (25, 7), (25, 1), (50, 7)])
def test_it_is_the_original_by_definition(label_rate, frames):
    module, variables = make(label_rate)
    mel = np.random.default_rng(0).standard_normal((2, frames, F)).astype(np.float32)
    tokens, num_valid = jax.jit(module.apply)(variables, mel)
    assert num_valid is None
    for row in range(2):
        np.testing.assert_allclose(tokens[row], subsample_by_hand(mel[row], variables, label_rate), atol=2e-6)


@pytest.mark.parametrize("label_rate", [25, 50])
def test_each_clip_of_a_padded_batch_is_what_it_is_alone(label_rate):
    module, variables = make(label_rate)
    lengths = np.array([11, 6, 1, 9, 0])
    mel = np.random.default_rng(0).standard_normal((5, 11, F)).astype(np.float32)
    tokens, num_valid = jax.jit(module.apply)(variables, mel, lengths)
    assert num_valid.tolist() == [num_tokens(int(n), label_rate) for n in lengths]
    for row, length in enumerate(lengths):
        alone = subsample_by_hand(mel[row, :length], variables, label_rate) if length else np.zeros((0, D))
        np.testing.assert_allclose(tokens[row, : len(alone)], alone, atol=2e-6)
        assert (np.asarray(tokens[row, len(alone) :]) == 0).all()


def test_training_statistics_see_valid_frames_only():
    module, variables = make()
    mel = np.random.default_rng(0).standard_normal((2, 8, F)).astype(np.float32)
    lengths = np.array([8, 8])
    longer = np.concatenate([mel, np.full((2, 5, F), 7, np.float32)], axis=1)
    apply = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
    (short, _), short_state = apply(variables, mel, lengths)
    (long, _), long_state = apply(variables, longer, lengths)
    np.testing.assert_allclose(long[:, :2], short, atol=1e-5)
    for a, b in zip(jax.tree.leaves(short_state), jax.tree.leaves(long_state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("label_rate, expected", [(25, [0, 1, 1, 1, 1, 2, 25]), (50, [0, 1, 1, 2, 2, 3, 50])])
def test_a_part_of_a_token_is_a_token(label_rate, expected):
    frames = [0, 1, 2, 3, 4, 5, 100]
    assert [num_tokens(n, label_rate) for n in frames] == expected
    np.testing.assert_array_equal(num_tokens(jnp.array(frames), label_rate), expected)
