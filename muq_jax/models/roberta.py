"""XLM-RoBERTa (arXiv 1911.02116), the text encoder of MuQ-MuLan: token ids to a hidden state each."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from muq_jax.errors import UserError
from muq_jax.nn.attention import attend, attention_weights
from muq_jax.nn.linear import linear
from muq_jax.nn.normalization import LayerNorm
from muq_jax.nn.sharding import constrain_batch


@dataclasses.dataclass(frozen=True)
class RobertaConfig:
    """Sizes of an XLM-RoBERTa; the defaults are `xlm-roberta-base`.

    Attributes:
        vocab_size: token ids.
        width: D.
        num_layers: L.
        num_heads: H.
        ffn_width: inner width of the feed-forward.
        num_positions: rows of the position table. The first `pad_id + 1` are for padding, the rest is the
            longest text.
        pad_id: the token that fills a batch up.
        layer_norm_eps: of every LayerNorm.
    """

    vocab_size: int = 250_002
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    ffn_width: int = 3072
    num_positions: int = 514
    pad_id: int = 1
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "num_layers", "num_heads", "ffn_width"):
            if getattr(self, name) < 1:
                raise UserError(f"roberta.{name} must be at least 1, found {getattr(self, name)}")
        if self.width % self.num_heads:
            raise UserError(f"roberta.width {self.width} must be a multiple of num_heads ({self.num_heads})")
        if not 0 <= self.pad_id < min(self.vocab_size, self.num_positions - 1):
            raise UserError(
                f"roberta.pad_id must be at least 0, below vocab_size ({self.vocab_size}) and below "
                f"num_positions - 1 ({self.num_positions - 1}), found {self.pad_id}"
            )

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text."""
        return self.num_positions - self.pad_id - 1


class RobertaBlock(nn.Module):
    """One post-norm layer, a step of `nn.scan`; sows `hidden`, what it returns, into "intermediates".

    Parameters `query`, `key`, `value`, `out`, `attention_norm`, `expand`, `project`, `ffn_norm`.
    """

    config: RobertaConfig
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, valid: Array) -> tuple[Array, None]:
        config, dtype = self.config, self.dtype
        width = config.width
        heads = (*x.shape[:-1], config.num_heads, width // config.num_heads)  # [B, T, H, K]

        def project(name: str) -> Array:
            return constrain_batch(linear(width, width, dtype, name)(x)).reshape(heads)

        weights = attention_weights(project("query"), project("key"), valid)
        mixed = constrain_batch(attend(weights, project("value")).reshape(x.shape))
        mixed = linear(width, width, dtype, "out")(mixed)
        x = LayerNorm(config.layer_norm_eps, dtype, name="attention_norm")(x + mixed)
        h = nn.gelu(linear(width, config.ffn_width, dtype, "expand")(x), approximate=False)
        h = linear(config.ffn_width, width, dtype, "project")(h)
        x = constrain_batch(LayerNorm(config.layer_norm_eps, dtype, name="ffn_norm")(x + h))
        self.sow("intermediates", "hidden", x)
        return x, None


class Roberta(nn.Module):
    """The encoder without its pooler; sows `embedded`, what its layers start from, into "intermediates".

    Parameters `words` [vocab, D], `positions` [N, D], `token_type` [1, D], `norm`, and `layers/...`, stacked
    [L, ...].
    """

    config: RobertaConfig
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """Returns hidden states [B, T, D], also at padded positions, which no real one attends to.

        Args:
            ids: int [B, T], `pad_id` past a text's own end; T is at most `max_tokens`.

        Raises:
            ValueError: T is larger.
        """
        config = self.config
        if ids.shape[1] > config.max_tokens:
            raise ValueError(f"{ids.shape[1]} tokens; the longest text has {config.max_tokens}")
        init = nn.initializers.normal(0.02)
        words = self.param("words", init, (config.vocab_size, config.width))
        positions = self.param("positions", init, (config.num_positions, config.width))
        token_type = self.param("token_type", nn.initializers.zeros, (1, config.width))

        valid = ids != config.pad_id
        # Positions count real tokens, from the row after the padding's own.
        position = jnp.cumsum(valid, axis=1) * valid + config.pad_id
        x = words[ids] + positions[position] + token_type[0]
        x = LayerNorm(config.layer_norm_eps, self.dtype, name="norm")(constrain_batch(x))
        self.sow("intermediates", "embedded", x)
        layers = nn.scan(
            nn.remat(RobertaBlock, prevent_cse=False),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return layers(config, self.dtype, name="layers")(x, valid)[0]
