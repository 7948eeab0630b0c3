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


def whole_tokens(wave: Array, num_samples: Array, token_samples: int) -> tuple[Array, Array]:
    """Cuts off the end of each clip that fills no token, so that the encoder has the targets' tokens.

    The encoder rounds its tokens up, the targets down; upstream's trainer trims its clips likewise.
    """
    length = wave.shape[1] // token_samples * token_samples
    return wave[:, :length], jnp.minimum(num_samples, length) // token_samples * token_samples
