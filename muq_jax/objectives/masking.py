"""Which blocks of the waveform the model does not hear, drawn by row of the global batch.

Row r's mask and noise come from `fold_in(key, r)` alone: they are the same whatever the batch size, the
number of devices, hosts or micro-batches.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from muq_jax.errors import UserError


@dataclass(frozen=True)
class MaskingConfig:
    """Block masking of the raw waveform. The defaults are MuQ's."""

    sample_rate_hz: int = 24_000
    label_rate: int = 25
    seconds: float = 0.4
    """Length of a block."""
    prob: float = 0.6
    """Probability that a block is masked, each on its own."""
    noise_std: float = 0.1
    """Deviation of the normal noise that replaces a masked block."""

    def __post_init__(self):
        broken = abs(self.seconds * self.label_rate - self.block_tokens) > 1e-6
        if broken or self.block_tokens < 1:
            raise UserError(
                f"mask_seconds is {self.seconds}, which is not one or more whole tokens at label_rate "
                f"{self.label_rate}: set it to a multiple of {1 / self.label_rate}"
            )

    @property
    def block_samples(self) -> int:
        return round(self.seconds * self.sample_rate_hz)

    @property
    def block_tokens(self) -> int:
        """Tokens of a block: 10 at 25 Hz, 20 at 50 Hz.

        Upstream's code takes 10 at either rate: at 50 Hz the tokens that it scores are not those that it hid.
        """
        return round(self.seconds * self.label_rate)


def mask_blocks(key: jax.Array, rows: jax.Array, num_samples: jax.Array, length: int, config: MaskingConfig):
    """Returns which blocks are hidden, bool [B, length // block_samples].

    Only blocks that lie wholly in a clip's valid samples can be; nor can the tail of the waveform that
    fills no block, as upstream.

    Args:
        key: the step's.
        rows: int [B], rows in the global batch.
        num_samples: int [B], valid samples.
        length: S, samples in the batch's waveforms.
        config: block length and probability.
    """
    num_blocks = length // config.block_samples
    draw = jax.vmap(
        lambda row: jax.random.bernoulli(jax.random.fold_in(key, row), config.prob, (num_blocks,))
    )
    whole = jnp.arange(1, num_blocks + 1) * config.block_samples <= num_samples[:, None]
    return draw(rows) & whole


def mask_wave(
    key: jax.Array, rows: jax.Array, wave: jax.Array, masked_blocks: jax.Array, config: MaskingConfig
) -> jax.Array:
    """Returns wave [B, S] with the masked blocks [B, M] replaced by noise."""
    masked = _spread(masked_blocks, config.block_samples, wave.shape[1])
    draw = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), wave.shape[1:], jnp.float32))
    return jnp.where(masked, config.noise_std * draw(rows), wave)


def mask_tokens(masked_blocks: jax.Array, num_tokens: int, config: MaskingConfig) -> jax.Array:
    """Returns which tokens the masked blocks [B, M] cover, bool [B, num_tokens]."""
    return _spread(masked_blocks, config.block_tokens, num_tokens)


def _spread(blocks: jax.Array, size: int, length: int) -> jax.Array:
    """Repeats each block's flag `size` times and fills up with False to `length`."""
    flags = jnp.repeat(blocks, size, axis=1)[:, :length]
    return jnp.pad(flags, ((0, 0), (0, length - flags.shape[1])))
