"""Which positions of a padded batch are real; `valid` is True there."""

import jax.numpy as jnp
from jax import Array


def first_valid(num_valid: Array, total: int) -> Array:
    """Returns bool [B, total], True for the first `num_valid` [B] positions of each row."""
    return jnp.arange(total) < num_valid[:, None]


def zero_invalid(x: Array, valid: Array | None) -> Array:
    """Returns `x` [B, T, ...] with zeros where `valid` [B, T] is False; None leaves everything."""
    if valid is None:
        return x
    return jnp.where(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x, 0)
