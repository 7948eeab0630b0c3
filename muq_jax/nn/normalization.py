"""LayerNorm and BatchNorm with PyTorch's semantics; statistics in float32, over valid positions only."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


class Moments(NamedTuple):
    """Statistics of each group of rows: mean and (biased) variance [G, C], and of how many values [G]."""

    mean: Array
    var: Array
    size: Array


def layer_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    """Returns `x` with mean 0 and variance 1 (biased) along the last axis, scaled and shifted, in float32."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(var + eps) * scale + bias


def channel_moments(x: Array, valid: Array | None = None, groups: int = 1) -> Moments:
    """Returns mean and variance of each channel over everything that is valid, in float32.

    Args:
        x: [B, T, ..., C].
        valid: bool [B, T], True where x counts; None counts everything.
        groups: the rows are cut into so many equal groups of neighbours with statistics of their own; with b
            rows a device, `B / b` groups are what each device would see alone.

    Raises:
        ValueError: `groups` does not divide B.
    """
    if x.shape[0] % groups:
        raise ValueError(f"{x.shape[0]} rows cannot be cut into {groups} equal groups")
    x = x.astype(jnp.float32).reshape(groups, -1, *x.shape[1:])  # [G, B/G, T, ..., C]
    counted = jnp.ones((), bool)
    if valid is not None:
        counted = valid.reshape(groups, -1, valid.shape[1], *[1] * (x.ndim - 3))
    counted = jnp.broadcast_to(counted, (*x.shape[:-1], 1))
    axes = tuple(range(1, x.ndim - 1))
    size = jnp.maximum(jnp.sum(counted, axis=axes, dtype=jnp.float32), 1)  # [G, 1]
    mean = jnp.sum(jnp.where(counted, x, 0), axis=axes) / size
    centred = x - mean.reshape(groups, *[1] * (x.ndim - 2), -1)
    var = jnp.sum(jnp.where(counted, jnp.square(centred), 0), axis=axes) / size
    return Moments(mean, var, size[:, 0])


class LayerNorm(nn.Module):
    """LayerNorm over the last axis. Parameters `scale` and `bias` [D]."""

    eps: float = 1e-5
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, scale, bias, self.eps).astype(self.dtype)


class BatchNorm(nn.Module):
    """BatchNorm over all axes but the last, as PyTorch counts.

    Normalises by the biased variance of the batch (`train`) or by the running statistics, and keeps
    running = 0.9 running + 0.1 batch with the *unbiased* variance of the batch. Under `jit` the batch is the
    global one; `groups` gives each device statistics of its own, whose mean goes into the running ones.

    Parameters `scale` and `bias`, variables `batch_stats`: `mean` and `var`, all [C].
    """

    momentum: float = 0.1
    eps: float = 1e-5
    groups: int = 1
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, valid: Array | None = None, *, train: bool = False) -> Array:
        """Returns `x` [B, T, ..., C] normalised; `valid` bool [B, T] says what enters the statistics."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        mean, var = running_mean.value[None], running_var.value[None]  # [1, C]
        if train:
            mean, var, size = channel_moments(x, valid, self.groups)  # [G, C]
            if not self.is_initializing():
                unbiased = var * (size / jnp.maximum(size - 1, 1))[:, None]
                for running, batch in ((running_mean, mean), (running_var, unbiased)):
                    batch = jnp.mean(batch, axis=0)
                    running.value = (1 - self.momentum) * running.value + self.momentum * batch
        factor = jax.lax.rsqrt(var + self.eps) * scale
        grouped = (mean.shape[0], *[1] * (x.ndim - 1), channels)  # against [G, B/G, T, ..., C]
        y = x.astype(jnp.float32).reshape(mean.shape[0], -1, *x.shape[1:])
        y = (y - mean.reshape(grouped)) * factor.reshape(grouped) + bias
        return y.reshape(x.shape).astype(self.dtype)
