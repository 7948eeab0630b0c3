"""Depthwise convolution over time, in two implementations with the same values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from muq_jax.nn.linear import matmul_precision, uniform_init

CONV_IMPLS = ("auto", "shift", "lax")


def depthwise_conv(x: Array, kernel: Array, impl: str = "auto") -> Array:
    """Returns y[t, c] = sum_k kernel[k, c] x[t + k - (taps - 1) / 2, c], with zeros outside of x.

    Args:
        x: [B, T, C].
        kernel: [taps, C], taps odd.
        impl: "shift" adds up shifted products, "lax" is XLA's grouped convolution, "auto" is "shift" where the
            program is compiled for a CPU, on which the gradient of the other one inside of a scan takes 70 times
            as long, and "lax" elsewhere.
    """
    match impl:
        case "shift":
            return _shifted_products(x, kernel)
        case "lax":
            return _grouped_convolution(x, kernel)
        case _:
            # Resolved when the program is lowered: compiling for a TPU on a CPU host takes the TPU's branch.
            return jax.lax.platform_dependent(x, kernel, cpu=_shifted_products, default=_grouped_convolution)


def _shifted_products(x: Array, kernel: Array) -> Array:
    taps, half, length = kernel.shape[0], kernel.shape[0] // 2, x.shape[1]
    # Summed in float32, as the convolution does inside.
    padded = jnp.pad(x, ((0, 0), (half, half), (0, 0))).astype(jnp.float32)
    y = padded[:, :length] * kernel[0]
    for k in range(1, taps):
        y = y + padded[:, k : k + length] * kernel[k]
    return y.astype(x.dtype)


def _grouped_convolution(x: Array, kernel: Array) -> Array:
    taps, channels = kernel.shape
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, None, :],
        window_strides=(1,),
        padding=((taps // 2, taps // 2),),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=channels,
        precision=matmul_precision(x.dtype),
    )


class DepthwiseConv(nn.Module):
    """`depthwise_conv` with a parameter `kernel` [taps, C]."""

    taps: int
    impl: str = "auto"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", uniform_init(self.taps), (self.taps, x.shape[-1]))
        return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.impl)
