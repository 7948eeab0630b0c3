"""The random-projection quantiser of BEST-RQ (arXiv 2202.01855) and MusicFM (arXiv 2311.03318): nothing is
learned.

A vector is projected by a fixed random matrix; its code is the row of a fixed random codebook that points
most nearly the same way. Input is normalised by the mel statistics, not by a layer norm.
"""

from dataclasses import dataclass

import flax.linen as nn
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


class RandomProjectionQuantizer(nn.Module):
    """Holds `projection` [Q, E, C] and `codebook` [Q, V, C] in the collection `constants`: no gradient
    reaches them.

    Initialised as upstream, Xavier normal and standard normal; upstream's own draws (torch, seed 142) come
    with its weights.
    """

    config: RandomProjectionConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns codes int32 [B, T, Q] of x [B, T, E]."""
        cfg = self.config
        xavier = (2.0 / (cfg.input_dim + cfg.code_dim)) ** 0.5
        projection = self._constant("projection", (cfg.num_books, cfg.input_dim, cfg.code_dim), xavier)
        codebook = self._constant("codebook", (cfg.num_books, cfg.num_codes, cfg.code_dim), 1.0)
        latents = jnp.einsum("bte,qec->qbtc", x.astype(jnp.float32), projection, precision="highest")
        # One book at a time, so that only one book's scores [B, T, V] exist.
        codes = jax.lax.map(lambda book: nearest_code(*book), (latents, codebook))  # [Q, B, T]
        return jnp.moveaxis(codes, 0, -1)

    def _constant(self, name: str, shape: tuple[int, ...], std: float) -> jax.Array:
        return self.variable(
            "constants", name, lambda: std * jax.random.normal(self.make_rng("params"), shape)
        ).value
