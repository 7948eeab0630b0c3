"""The random-projection quantiser of BEST-RQ (arXiv 2202.01855) and MusicFM (arXiv 2311.03318).

Nothing is learned: a vector is projected by a fixed random matrix; its code is the row of a fixed random
codebook that points most nearly the same way. Input is normalised by the mel statistics, not by a layer norm.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from muq_jax.quantize.codebook import nearest_code


@dataclass(frozen=True)
class RandomProjectionConfig:
    """Sizes. The defaults are MusicFM's at 25 Hz; with 8,192 codes, the ones of MuQ's own option."""

    num_books: int = 1
    num_codes: int = 4096
    code_dim: int = 16
    input_dim: int = 512


def init_random_projection(key: jax.Array, config: RandomProjectionConfig) -> dict[str, jax.Array]:
    """Returns `projection` [Q, E, C], Xavier normal, and `codebook` [Q, V, C], standard normal, as upstream.

    Upstream's own draws (torch, seed 142) come with its weights.
    """
    key_projection, key_codebook = jax.random.split(key)
    std = (2.0 / (config.input_dim + config.code_dim)) ** 0.5
    books, codes, dim = config.num_books, config.num_codes, config.code_dim
    return {
        "projection": std * jax.random.normal(key_projection, (books, config.input_dim, dim)),
        "codebook": jax.random.normal(key_codebook, (books, codes, dim)),
    }


def random_projection_codes(constants: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """Returns codes int32 [B, T, Q] of x [B, T, E] under `constants` as of `init_random_projection`."""
    latents = jnp.einsum("bte,qec->qbtc", x, constants["projection"], precision="highest")
    # One book at a time, so that only one book's scores [B, T, V] exist.
    codes = jax.lax.map(lambda book: nearest_code(*book), (latents, constants["codebook"]))  # [Q, B, T]
    return jnp.moveaxis(codes, 0, -1)
