"""Linear maps and 2-D convolutions with PyTorch's default initialisation.

The original builds its Conformer outside of any `PreTrainedModel`, so `transformers`' own initialisation
never runs and every weight and bias starts as PyTorch's layers leave it: uniform within 1 / sqrt(fan_in).
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
from jax import Array
from jax.typing import DTypeLike


def matmul_precision(dtype: DTypeLike) -> jax.lax.Precision:
    """Returns the precision that makes `dtype` mean what it says.

    The default multiplies float32 in one bfloat16 pass on TPU and in TF32 on GPU.
    """
    exact = jax.numpy.dtype(dtype) == jax.numpy.float32
    return jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT


def uniform_init(fan_in: int) -> Callable[..., Array]:
    """Returns an initialiser uniform in [-1, 1] / sqrt(fan_in): PyTorch's for weight and bias alike."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = "float32") -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear(fan_in: int, features: int, dtype: DTypeLike, name: str, *, use_bias: bool = True) -> nn.Dense:
    """Returns a linear map of the last axis, `fan_in` to `features`; parameters float32."""
    init = uniform_init(fan_in)
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        precision=matmul_precision(dtype),
        kernel_init=init,
        bias_init=init,
        name=name,
    )


def conv3x3(
    channels_in: int, channels: int, strides: tuple[int, int], dtype: DTypeLike, name: str
) -> nn.Conv:
    """Returns a 3 x 3 convolution over [B, height, width, channels_in], padded by one zero on every side.

    Not "SAME": with a stride of 2 that pads an even length at its end only.
    """
    init = uniform_init(9 * channels_in)
    return nn.Conv(
        channels,
        (3, 3),
        strides=strides,
        padding=((1, 1), (1, 1)),
        dtype=dtype,
        precision=matmul_precision(dtype),
        kernel_init=init,
        bias_init=init,
        name=name,
    )
