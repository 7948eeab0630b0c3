import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.nn.depthwise import depthwise_conv


def inputs(length, taps):
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((2, length, 3)).astype(np.float32),
        rng.standard_normal((taps, 3)).astype(np.float32),
    )


@pytest.mark.parametrize("impl", ["auto", "shift", "lax"])
@pytest.mark.parametrize("length, taps", [(9, 5), (4, 31), (1, 3), (6, 1)])
def test_each_channel_is_correlated_with_its_own_kernel(impl, length, taps):
    x, kernel = inputs(length, taps)
    expected = np.empty_like(x)
    for row in range(2):
        for channel in range(3):
            # np.convolve flips its second argument; "same" keeps the longer one's length.
            full = np.convolve(x[row, :, channel], kernel[::-1, channel])
            expected[row, :, channel] = full[taps // 2 : taps // 2 + length]
    np.testing.assert_allclose(depthwise_conv(x, kernel, impl), expected, atol=2e-6)


@pytest.mark.parametrize("impl", ["auto", "shift"])
@pytest.mark.parametrize("length, taps", [(9, 5), (4, 31)])
def test_gradients_are_those_of_the_grouped_convolution(impl, length, taps):
    x, kernel = inputs(length, taps)
    target = jnp.cos(jnp.arange(x.size).reshape(x.shape))

    def loss(x, kernel, impl):
        return jnp.sum(target * depthwise_conv(x, kernel, impl) ** 2)

    found = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)(x, kernel, impl)
    expected = jax.grad(loss, argnums=(0, 1))(x, kernel, "lax")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-5)


def test_bfloat16_is_summed_in_float32():
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in inputs(40, 31))
    exact = depthwise_conv(x.astype(jnp.float32), kernel.astype(jnp.float32), "shift")
    found = depthwise_conv(x, kernel, "shift")
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))
