"""XLM-RoBERTa as it is released (arXiv 1911.02116): the text encoder that a MuQ-MuLan begins with."""

import os
from typing import Any, NamedTuple

import jax
import numpy as np

from muq_jax.convert import folder as model_folder
from muq_jax.convert import hub, rules
from muq_jax.convert.mulan import roberta_rules
from muq_jax.convert.reader import CONFIG, read_files, read_json, weight_files
from muq_jax.convert.rules import Table, Tree, Unused
from muq_jax.errors import UserError, mistakes_in
from muq_jax.models import fields
from muq_jax.models.roberta import Roberta, RobertaConfig
from muq_jax.text.tokenizer import FILE as TOKENIZER
from muq_jax.text.tokenizer import Tokenizer

_MODEL_TYPE = "xlm-roberta"

# Keys of its config.json, and ours.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "ffn_width",
    "max_position_embeddings": "num_positions",
    "pad_token_id": "pad_id",
    "layer_norm_eps": "layer_norm_eps",
}


class TextEncoder(NamedTuple):
    """A text encoder and what it reads with.

    Attributes:
        config: its sizes.
        params: of `Roberta`.
        tokenizer: the bytes of its `tokenizer.json`.
    """

    config: RobertaConfig
    params: Tree
    tokenizer: bytes


def load_xlm_roberta(name: str | os.PathLike[str]) -> TextEncoder:
    """Returns an XLM-RoBERTa from a folder or from the hub, such as FacebookAI/xlm-roberta-base.

    Args:
        name: a folder with `config.json`, `tokenizer.json` and weights, safetensors or PyTorch's; or an id.

    Raises:
        UserError: something is missing, damaged, or another kind of model.
    """
    folder = model_folder.local(name) or hub.fetch(os.fspath(name))
    described = read_json(folder / CONFIG)
    if described.get("model_type") != _MODEL_TYPE:
        raise UserError(
            f"{folder / CONFIG}: model_type is {described.get('model_type')!r}; expected {_MODEL_TYPE!r}"
        )
    with mistakes_in(folder):
        config = _read_config(described)
    tokenizer = Tokenizer(folder / TOKENIZER, pad_id=config.pad_id, vocab_size=config.vocab_size)
    tensors = read_files(weight_files(folder))
    params = rules.from_torch(tensors, _table(config), _template(config), str(folder))["params"]
    return TextEncoder(config, params, tokenizer.source)


def params_sha256(encoder: TextEncoder) -> str:
    """Returns the digest of an encoder's weights."""
    return rules.params_sha256(rules.to_torch({"params": encoder.params}, _table(encoder.config)))


def _read_config(described: dict[str, Any]) -> RobertaConfig:
    kinds = {field: float if field == "layer_norm_eps" else int for field in _SIZES.values()}
    return RobertaConfig(
        **{ours: fields.value(described, theirs, kinds[ours]) for theirs, ours in _SIZES.items()}
    )


def _table(config: RobertaConfig) -> Table:
    return Table(
        tuple(roberta_rules("", "", config.num_layers)),
        (
            Unused("pooler.*", None, "the pooled sentence vector"),
            Unused("lm_head.*", None, "the head that pretraining had"),
            Unused("embeddings.position_ids", None, "counted; a buffer of older transformers"),
        ),
    )


def _template(config: RobertaConfig) -> Tree:
    ids = jax.ShapeDtypeStruct((1, 2), np.int32)
    return dict(jax.eval_shape(Roberta(config).init, jax.random.key(0), ids))
