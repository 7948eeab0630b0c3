import jax
import numpy as np
import pytest

from muq_jax.nn.linear import conv3x3, linear, matmul_precision


def test_a_linear_map_starts_as_pytorch_leaves_it():
    module = linear(64, 5000, "float32", "map")
    params = module.init(jax.random.key(0), np.ones((1, 64), np.float32))["params"]
    for name in ("kernel", "bias"):
        values = np.asarray(params[name])
        assert 0.124 < np.abs(values).max() <= 0.125
        assert values.std() == pytest.approx(0.125 / np.sqrt(3), rel=0.05)


def test_a_convolution_starts_as_pytorch_leaves_it():
    module = conv3x3(7, 500, (1, 1), "float32", "conv")
    params = module.init(jax.random.key(0), np.ones((1, 3, 3, 7), np.float32))["params"]
    bound = 1 / np.sqrt(63)
    for name in ("kernel", "bias"):
        assert 0.98 * bound < np.abs(np.asarray(params[name])).max() <= bound


def test_float32_means_float32_on_every_device():
    assert matmul_precision("float32") == jax.lax.Precision.HIGHEST
    assert matmul_precision("bfloat16") == jax.lax.Precision.DEFAULT
