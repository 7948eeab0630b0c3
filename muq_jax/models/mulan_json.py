"""`config.json` of a MuQ-MuLan: upstream's keys, which name the encoders without saying their sizes."""

import dataclasses
from typing import Any

from muq_jax import __version__
from muq_jax.errors import UserError
from muq_jax.models import fields
from muq_jax.models.mulan import SMALL, XLM_ROBERTA, MuLanConfig

# The encoder that upstream's files name, whose sizes are MuLanConfig's defaults, as are XLM-RoBERTa's.
_MUQ = "OpenMuQ/MuQ-large-msd-iter"

# Upstream's names of a transformer's sizes, and ours.
_TRANSFORMER = {
    "dim": "width",
    "tf_depth": "num_layers",
    "heads": "num_heads",
    "dim_head": "head_size",
    "attn_dropout": "attention_dropout",
    "ff_dropout": "ffn_dropout",
    "ff_mult": "ffn_multiple",
}


def mulan_to_json(config: MuLanConfig) -> dict[str, Any]:
    """Returns upstream's `config.json` keys, `model_type`, `muq_jax_version` and what upstream cannot say.

    The last, the sizes of other encoders than the released model's, goes under the key `muq_jax`.
    """
    written = _upstream_keys(config)
    understood = fields.update(dataclasses.asdict(MuLanConfig()), _read_upstream_keys(written))
    extras = fields.difference(dataclasses.asdict(config), understood)
    return written | ({"muq_jax": extras} if extras else {})


def mulan_from_json(data: dict[str, Any]) -> MuLanConfig:
    """Returns the configuration in a MuQ-MuLan's `config.json`, upstream's own or one of `mulan_to_json`.

    The encoders are those of the released model unless the key `muq_jax` says otherwise: upstream's file
    gives only their names. Whether the weights have these sizes shows when they are read.

    Raises:
        UserError: it asks for something that this MuQ-MuLan does not have, or a value is missing or cannot
            be.
    """
    extras = fields.value(data, "muq_jax", dict, {})
    return fields.build(MuLanConfig(), fields.update(_read_upstream_keys(data), extras))


def _upstream_keys(config: MuLanConfig) -> dict[str, Any]:
    def transformer(name: str) -> dict[str, Any]:
        return {theirs: getattr(getattr(config, name), ours) for theirs, ours in _TRANSFORMER.items()}

    return {
        "model_type": "mulan",
        "muq_jax_version": __version__,
        "mulan": {
            "sr": config.muq.mel.sample_rate_hz,
            "clip_secs": config.clip_seconds,
            "dim_latent": config.latent_size,
            "decoupled_contrastive_learning": config.decoupled_loss,
            "hierarchical_contrastive_loss": False,
            "hierarchical_contrastive_loss_layers": None,
            "sigmoid_contrastive_loss": False,
            "rank_contrast": True,
        },
        "audio_model": {
            "name": _MUQ,
            "model_dim": config.muq.conformer.width,
            "use_layer_idx": config.audio_layer,
        },
        "text_model": {"name": config.text_model, "model_dim": None, "use_layer_idx": -1},
        "audio_transformer": transformer("audio_transformer"),
        "text_transformer": transformer("text_transformer") | {"max_seq_len": 1024},
    }


def _read_upstream_keys(data: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a MuLanConfig, as nested dicts, that upstream's keys determine."""

    def value(key: str, kind: type, default: Any = None) -> Any:
        return fields.value(data, key, kind, default)

    def transformer(name: str) -> dict[str, Any]:
        defaults = {"attn_dropout": 0.0, "ff_dropout": 0.0, "ff_mult": 4}
        kinds = {theirs: float if theirs.endswith("dropout") else int for theirs in _TRANSFORMER}
        return {
            ours: value(f"{name}.{theirs}", kinds[theirs], defaults.get(theirs))
            for theirs, ours in _TRANSFORMER.items()
        }

    if "muq" not in (name := value("audio_model.name", str)).lower():
        raise UserError(f"config.json: audio_model.name is {name!r}; only 'muq' is supported")
    text_model = value("text_model.name", str)
    if text_model != SMALL and XLM_ROBERTA not in text_model.lower():
        raise UserError(
            f"config.json: text_model.name is {text_model!r}; only {XLM_ROBERTA!r} and {SMALL!r} are "
            "supported"
        )
    for loss in ("hierarchical_contrastive_loss", "sigmoid_contrastive_loss"):
        if value(f"mulan.{loss}", bool, False):
            raise UserError(f"config.json: mulan.{loss} is true, which is not supported")
    if (rate := value("mulan.sr", int, MuLanConfig().muq.mel.sample_rate_hz)) != 24_000:
        raise UserError(f"config.json: mulan.sr is {rate}; a MuQ hears 24000 Hz")
    width = value("text_transformer.dim", int)
    if value("text_model.model_dim", int, width) != width:
        raise UserError(
            "config.json: text_model.model_dim is not text_transformer.dim; a projection between the two is "
            "not supported"
        )
    return {
        "text_model": SMALL if text_model == SMALL else XLM_ROBERTA,
        "audio_layer": value("audio_model.use_layer_idx", int, -1),
        "audio_transformer": transformer("audio_transformer"),
        "text_transformer": transformer("text_transformer"),
        "latent_size": value("mulan.dim_latent", int),
        "clip_seconds": value("mulan.clip_secs", int, 10),
        "decoupled_loss": value("mulan.decoupled_contrastive_learning", bool, True),
    }
