"""Residual vector quantisation with factorised, cosine-matched codebooks: the quantiser of Mel-RVQ.

Book q projects what the books before it left over to a small space, takes the nearest row there, projects
that row back and subtracts it:

    latents_q  = in_proj_q(residual_q)                   [B, T, C]
    codes_q    = argmax_v cos(latents_q, codebook_q[v])  [B, T]
    residual_q+1 = residual_q - out_proj_q(codebook_q[codes_q])

Projections are weight-normed: the weight of output channel o is g[o] v[:, o] / |v[:, o]|. Parameters of all
books are stacked on a leading axis Q and the books run under `lax.scan`, so that only one book's scores
[B, T, V] exist at a time. Everything is float32 with full-precision products: rounding would change codes.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from muq_jax.errors import UserError
from muq_jax.quantize.codebook import code_counts, lookup, nearest_code, unit

# Weights of the three loss terms; the L1 reconstruction has weight one as well.
CODEBOOK_WEIGHT = 1.0
COMMITMENT_WEIGHT = 0.25


@dataclasses.dataclass(frozen=True)
class RVQConfig:
    """Sizes of a residual quantiser. The defaults are Mel-RVQ's: four stacked frames of 128 bands in."""

    num_books: int = 8
    num_codes: int = 1024
    code_dim: int = 16
    input_dim: int = 512
    num_projection_layers: int = 1
    """One linear layer by default; more put ReLU and `hidden_dim` channels between them."""
    hidden_dim: int = 128
    stale_tolerance: int = 100
    """A code unused for this many training steps in a row is replaced."""

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise UserError(f"rvq.{name} must be at least 1, found {value}")


SINGLE_VQ = RVQConfig(num_books=1, code_dim=8, stale_tolerance=1000)
"""Upstream's plain vector quantiser: the same thing with one book."""


class Replacement(NamedTuple):
    """Codebook rows to overwrite.

    Attributes:
        rows: bool [Q, V], which.
        codebook: float32 [Q, V, C], with what.
    """

    rows: jax.Array
    codebook: jax.Array


class RVQOutput(NamedTuple):
    """What a quantiser found; means are over valid tokens.

    Attributes:
        codes: int32 [B, T, Q].
        quantized: float32 [B, T, E], the sum of all books' contributions; gradients pass straight through the
            look-up.
        latents: float32 [Q, B, T, C], the projections before look-up.
        codebook_loss, commitment_loss: scalars, mean squared error in code space, summed over books.
        errors: float32 [Q], mean absolute error of the input's reconstruction after each book.
        loss: scalar, codebook_loss + 0.25 commitment_loss + errors[-1].
        replacement: rows to be written into the codebook before the optimiser's update; None outside
            training.
    """

    codes: jax.Array
    quantized: jax.Array
    latents: jax.Array
    codebook_loss: jax.Array
    commitment_loss: jax.Array
    errors: jax.Array
    loss: jax.Array
    replacement: Replacement | None = None


class ResidualVQ(nn.Module):
    """Holds the parameters of all books, stacked, and the counters of unused codes; `quantize` does the work.

    Collections: `params` has `codebook` [Q, V, C] and, for i below `config.num_projection_layers`,
    `in_proj_i` and `out_proj_i`, each with g [Q, out], v [Q, in, out] and bias [Q, out]; `codebook_state`
    has `stale_counter` [Q, V], how many training steps in a row each code went unused.
    """

    config: RVQConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        valid: jax.Array | None = None,
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> RVQOutput:
        """Quantises and measures; in training also counts unused codes and draws replacements for stale ones.

        Args:
            x: float [B, T, E].
            valid: bool [B, T]; None means that all tokens are real.
            train: update `codebook_state` (which must be mutable) and fill `replacement`.
            key: needed with `train`; replacements are drawn from it.
        """
        cfg = self.config
        inner = [cfg.hidden_dim] * (cfg.num_projection_layers - 1)
        sizes = [cfg.input_dim, *inner, cfg.code_dim]
        params: dict[str, Any] = {}
        for name, widths in (("in_proj", sizes), ("out_proj", sizes[::-1])):
            for i, fans in enumerate(itertools.pairwise(widths)):
                params[f"{name}_{i}"] = self.param(f"{name}_{i}", init_projection, cfg.num_books, *fans)
        shape = (cfg.num_books, cfg.num_codes, cfg.code_dim)
        params["codebook"] = self.param("codebook", lambda key: jax.random.normal(key, shape))
        output = quantize(params, x, valid, cfg)
        if not (train or self.is_initializing()):
            return output
        counter = self.variable("codebook_state", "stale_counter", jnp.zeros, shape[:2])
        if not train:
            return output
        if key is None:
            raise ValueError("train=True needs a key to draw replacements for stale codes from")
        counter.value, replacement = retire_stale(counter.value, output, valid, key, cfg.stale_tolerance)
        return output._replace(replacement=replacement)


def init_projection(key: jax.Array, num_books: int, fan_in: int, fan_out: int) -> dict[str, jax.Array]:
    """Returns g, v, bias of a weight-normed linear layer for each book, distributed as PyTorch's Conv1d.

    PyTorch draws weight and bias from U(-b, b) with b = 1/sqrt(fan_in) and sets g so that the weight is v.
    """
    key_v, key_bias = jax.random.split(key)
    bound = fan_in**-0.5
    v = jax.random.uniform(key_v, (num_books, fan_in, fan_out), minval=-bound, maxval=bound)
    bias = jax.random.uniform(key_bias, (num_books, fan_out), minval=-bound, maxval=bound)
    return {"g": jnp.linalg.norm(v, axis=1), "v": v, "bias": bias}


def quantize(
    params: Mapping[str, Any], x: jax.Array, valid: jax.Array | None, config: RVQConfig
) -> RVQOutput:
    """Returns the codes of x [B, T, E], their reconstruction and the loss; `replacement` is None."""
    x = x.astype(jnp.float32)
    valid = jnp.ones(x.shape[:2], bool) if valid is None else valid

    def one_book(residual, book):
        latents = _project(book, "in_proj", residual, config)  # [B, T, C]
        codes = nearest_code(latents, book["codebook"])  # [B, T]
        rows = lookup(codes, book["codebook"])  # [B, T, C]
        frozen_rows, frozen_latents = jax.lax.stop_gradient((rows, latents))
        commitment_loss = _mean((latents - frozen_rows) ** 2, valid)
        codebook_loss = _mean((rows - frozen_latents) ** 2, valid)
        straight_through = latents + (frozen_rows - frozen_latents)
        residual = residual - _project(book, "out_proj", straight_through, config)
        error = _mean(jnp.abs(residual), valid)
        return residual, (codes, latents, codebook_loss, commitment_loss, error)

    residual, per_book = jax.lax.scan(one_book, x, dict(params))
    codes, latents, codebook_loss, commitment_loss, errors = per_book
    codebook_loss, commitment_loss = codebook_loss.sum(), commitment_loss.sum()
    return RVQOutput(
        codes=jnp.moveaxis(codes, 0, -1),
        quantized=x - residual,
        latents=latents,
        codebook_loss=codebook_loss,
        commitment_loss=commitment_loss,
        errors=errors,
        loss=CODEBOOK_WEIGHT * codebook_loss + COMMITMENT_WEIGHT * commitment_loss + errors[-1],
    )


def dequantize(params: Mapping[str, Any], codes: jax.Array, config: RVQConfig) -> jax.Array:
    """Returns the reconstruction [B, T, E] of codes [B, T, n] from the first n books."""
    num_books = codes.shape[-1]
    if num_books > config.num_books:
        raise ValueError(f"codes have {num_books} books, the quantiser {config.num_books}")
    books = jax.tree.map(lambda leaf: leaf[:num_books], dict(params))

    def one_book(total, inputs):
        book, codes = inputs
        return total + _project(book, "out_proj", lookup(codes, book["codebook"]), config), None

    start = jnp.zeros((*codes.shape[:-1], config.input_dim), jnp.float32)
    total, _ = jax.lax.scan(one_book, start, (books, jnp.moveaxis(codes, -1, 0)))
    return total


def retire_stale(
    counter: jax.Array, output: RVQOutput, valid: jax.Array | None, key: jax.Array, tolerance: int
) -> tuple[jax.Array, Replacement]:
    """Counts steps without use and draws new rows for the codes whose count has reached `tolerance`.

    Usage is that of the whole batch handed in: under jit with a sharded batch, of the global one. A batch
    without a valid token is no step. As upstream, a stale row becomes the latent of a random token scaled to
    length one, row v that of the v-th token of one random order.

    Args:
        counter: float32 [Q, V], steps in a row without use, before this one.
        output: of `quantize` on this step's batch.
        valid: bool [B, T] or None; only valid tokens count as use and are drawn.
        key: decides the order, another one for each book.
        tolerance: steps in a row without use after which a code is replaced.

    Returns:
        The new counter (zero where used or replaced) and the replacement.
    """
    num_books, num_codes = counter.shape
    valid = jnp.ones(output.codes.shape[:2], bool) if valid is None else valid
    used = code_counts(output.codes, num_codes, valid) > 0
    any_valid = valid.any()
    counter = jnp.where(used, 0.0, counter + any_valid)
    # Upstream asks for equality, and never replaces a code whose stored count is above the tolerance.
    stale = any_valid & (counter >= tolerance)
    code_dim = output.latents.shape[-1]

    def draw():
        latents = jax.lax.stop_gradient(output.latents).reshape(num_books, -1, code_dim)  # [Q, BT, C]
        order = random_order(key, valid.reshape(-1), num_books, num_codes)  # [Q, V]
        return unit(jnp.take_along_axis(latents, order[..., None], axis=1))

    # Stale codes are rare, the sort is not free.
    codebook = jax.lax.cond(stale.any(), draw, lambda: jnp.zeros((num_books, num_codes, code_dim)))
    return jnp.where(stale, 0.0, counter), Replacement(stale, codebook)


def random_order(key: jax.Array, valid: jax.Array, num_books: int, num_codes: int) -> jax.Array:
    """Returns for each book the first V places of a random order of the valid tokens, int32 [Q, V].

    Where there are fewer valid tokens than codes the order repeats from its start.

    Args:
        key: decides the orders.
        valid: bool [N].
        num_books: Q.
        num_codes: V.
    """
    # The places of the largest of independent scores head a random order; invalid tokens come last.
    scores = jnp.where(valid, jax.random.uniform(key, (num_books, valid.size)), -1.0)
    num_drawn = min(num_codes, valid.size)
    _, order = jax.lax.top_k(scores, num_drawn)  # [Q, num_drawn]
    return order[:, jnp.arange(num_codes) % jnp.clip(valid.sum(), 1, num_drawn)]


def replace_rows(params: Mapping[str, Any], replacement: Replacement) -> dict[str, Any]:
    """Returns `params` with the stale codebook rows overwritten."""
    rows = replacement.rows[..., None]
    return {**params, "codebook": jnp.where(rows, replacement.codebook, params["codebook"])}


def _project(book: Mapping[str, Any], name: str, x: jax.Array, config: RVQConfig) -> jax.Array:
    for i in range(config.num_projection_layers):
        layer = book[f"{name}_{i}"]
        x = nn.relu(x) if i else x
        weight = layer["g"] * layer["v"] / jnp.linalg.norm(layer["v"], axis=0)  # [in, out]
        x = jnp.einsum("...i,io->...o", x, weight, precision="highest") + layer["bias"]
    return x


def _mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns the mean of values [B, T, E] over valid tokens; zero when there are none."""
    total = jnp.sum(jnp.where(valid[..., None], values, 0.0))
    return total / (jnp.maximum(valid.sum(), 1) * values.shape[-1])
