"""Rotary positions: channels i and i + K/2 of a head turn as a pair, by an angle that grows with time."""

import jax.numpy as jnp
import numpy as np
from jax import Array


def rotary_table(num_tokens: int, head_size: int, base: float = 10_000.0) -> tuple[Array, Array]:
    """Returns cosine and sine of every position's angles, each float32 [T, K].

    Pair i turns by t / base^(2i / K) radians at token t; the second half of K repeats the first.

    Args:
        num_tokens: T.
        head_size: K, even.
        base: see above.
    """
    # The angles reach T radians, where one float32 step of a frequency is 1e-4 of a radian at T = 1500: the
    # frequencies are rounded here exactly as the original rounds them.
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    frequencies = np.float32(1) / np.power(np.float32(base), exponents)  # [K/2]
    angles = jnp.arange(num_tokens, dtype=jnp.float32)[:, None] * frequencies  # [T, K/2]
    angles = jnp.concatenate([angles, angles], axis=-1)  # [T, K]
    return jnp.cos(angles), jnp.sin(angles)


def apply_rotary(x: Array, cos: Array, sin: Array) -> Array:
    """Returns `x` turned by its position, computed in float32 and given back in its own type.

    Args:
        x: [B, T, H, K].
        cos, sin: [T, K], of `rotary_table`.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cos[:, None] + turned * sin[:, None]).astype(x.dtype)
