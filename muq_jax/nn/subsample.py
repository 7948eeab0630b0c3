"""The front end's convolutions: log-mel frames at 100 Hz to tokens at 25 or 50 Hz."""

from typing import overload

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from muq_jax.nn.linear import conv3x3, matmul_precision, uniform_init
from muq_jax.nn.normalization import BatchNorm
from muq_jax.nn.sharding import constrain_batch
from muq_jax.nn.valid import first_valid, zero_invalid

# Of the two blocks, over time; over the mel bands it is 2 in both.
TIME_STRIDES = {25: (2, 2), 50: (2, 1)}


@overload
def num_tokens(num_frames: int, label_rate: int) -> int: ...
@overload
def num_tokens(num_frames: Array, label_rate: int) -> Array: ...
def num_tokens(num_frames, label_rate):
    """Returns the tokens that `num_frames` mel frames (an int or an integer array) become."""
    for stride in TIME_STRIDES[label_rate]:
        num_frames = (num_frames + stride - 1) // stride
    return num_frames


class ResidualConv(nn.Module):
    """relu(norm(conv(relu(norm(conv_strided x)))) + norm(conv_strided x)); the shortcut is one, too.

    Parameters `conv1`, `conv2`, `conv3`, each `kernel` [3 (time), 3 (mel), in, out] and `bias`, and `norm1`,
    `norm2`, `norm3`. The biases do nothing before a BatchNorm in training, but the running means hold them.
    """

    channels: int
    strides: tuple[int, int]
    batch_norm_groups: int = 1
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, num_frames: Array | None, *, train: bool) -> tuple[Array, Array | None]:
        """Returns [B, ceil(T / stride), F / 2, channels] and the valid frames left [B].

        Args:
            x: [B, T, F, channels in], zero beyond the valid frames, where a convolution of the clip alone
                would see its own zero padding.
            num_frames: int [B], valid frames; None if all are.
            train: normalise by the statistics of the batch.
        """

        def convolve(y: Array, strides: tuple[int, int], number: int) -> Array:
            y = conv3x3(y.shape[-1], self.channels, strides, self.dtype, f"conv{number}")(y)
            norm = BatchNorm(groups=self.batch_norm_groups, dtype=self.dtype, name=f"norm{number}")
            return norm(constrain_batch(y), valid, train=train)

        valid = None
        if num_frames is not None:
            num_frames = -(-num_frames // self.strides[0])
            valid = first_valid(num_frames, -(-x.shape[1] // self.strides[0]))
        h = zero_invalid(nn.relu(convolve(x, self.strides, 1)), valid)
        h = convolve(h, (1, 1), 2)
        h = nn.relu(h + convolve(x, self.strides, 3))
        return zero_invalid(h, valid), num_frames


class ChannelMajorLinear(nn.Module):
    """A linear map of (mel, channel) together, its `kernel` [C F, D] with channels slowest, as upstream's."""

    features: int
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B, T, D] from [B, T, F, C]."""
        *rows, bands, channels = x.shape
        init = uniform_init(bands * channels)
        kernel = self.param("kernel", init, (channels * bands, self.features))
        bias = self.param("bias", init, (self.features,))
        # The kernel is turned, not the activations: in training they are the larger ones.
        kernel = kernel.astype(self.dtype).reshape(channels, bands, self.features).swapaxes(0, 1)
        kernel = kernel.reshape(bands * channels, self.features)  # [F C, D]
        y = jnp.dot(x.reshape(*rows, bands * channels), kernel, precision=matmul_precision(self.dtype))
        return y + bias.astype(self.dtype)


class Conv2dSubsampling(nn.Module):
    """Two residual convolution blocks over (time, mel) and a linear map to the encoder's width.

    Parameters `block1`, `block2`, `linear`.
    """

    channels: int
    width: int
    label_rate: int = 25
    batch_norm_groups: int = 1
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, mel: Array, num_frames: Array | None = None, *, train: bool = False
    ) -> tuple[Array, Array | None]:
        """Returns tokens [B, T, D], zero where padded, and how many are valid [B] (None if all are).

        Args:
            mel: normalised log-mel [B, frames, F]; F a multiple of 4.
            num_frames: int [B], valid frames; None if all are.
            train: normalise by the statistics of the batch.
        """
        x = mel.astype(self.dtype)[..., None]  # [B, frames, F, 1]
        if num_frames is not None:
            x = zero_invalid(x, first_valid(num_frames, x.shape[1]))
        for number, stride in enumerate(TIME_STRIDES[self.label_rate], 1):
            block = ResidualConv(
                self.channels, (stride, 2), self.batch_norm_groups, self.dtype, name=f"block{number}"
            )
            x, num_frames = block(constrain_batch(x), num_frames, train=train)
        x = ChannelMajorLinear(self.width, self.dtype, name="linear")(x)
        if num_frames is not None:
            x = zero_invalid(x, first_valid(num_frames, x.shape[1]))
        return constrain_batch(x), num_frames
