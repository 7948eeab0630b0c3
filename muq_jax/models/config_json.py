"""`config.json`: upstream's keys of a MuQ, and the files of a Mel-RVQ and of a MusicFM."""

import dataclasses
import functools
from typing import Any

from muq_jax import __version__
from muq_jax.errors import UserError
from muq_jax.models import fields
from muq_jax.models.config import MelRVQConfig, MuQConfig, frames_per_token


def to_upstream_json(config: MuQConfig) -> dict[str, Any]:
    """Returns upstream's `config.json` keys, `model_type`, `muq_jax_version` and what upstream cannot say.

    The last goes under the key `muq_jax` (upstream's loader drops keys that it does not know), so that
    `from_upstream_json` gives back an equal configuration.
    """
    written = _upstream_keys(config)
    understood = fields.update(dataclasses.asdict(MuQConfig()), _read_upstream_keys(written))
    extras = fields.difference(dataclasses.asdict(config), understood)
    return written | ({"muq_jax": extras} if extras else {})


def from_upstream_json(data: dict[str, Any]) -> MuQConfig:
    """Returns the configuration in a MuQ's `config.json`, upstream's own or one of `to_upstream_json`.

    Raises:
        UserError: it asks for something that this MuQ does not have, or a value is missing or cannot be.
    """
    return fields.build(
        MuQConfig(), fields.update(_read_upstream_keys(data), fields.value(data, "muq_jax", dict, {}))
    )


def mel_rvq_to_json(config: MelRVQConfig) -> dict[str, Any]:
    """Returns the `config.json` of a Mel-RVQ on its own: every field, since upstream has no such file."""
    return {"model_type": "mel_rvq", "muq_jax_version": __version__} | dataclasses.asdict(config)


def mel_rvq_from_json(data: dict[str, Any]) -> MelRVQConfig:
    """Returns the configuration that `mel_rvq_to_json` wrote; absent fields have their defaults."""
    given = {key: value for key, value in data.items() if key not in ("model_type", "muq_jax_version")}
    return fields.build(MelRVQConfig(), given)


def musicfm_to_json(config: MuQConfig) -> dict[str, Any]:
    """Returns the `config.json` of a MusicFM, whose release has none: every field."""
    return {"model_type": "musicfm", "muq_jax_version": __version__} | dataclasses.asdict(config)


def musicfm_from_json(data: dict[str, Any]) -> MuQConfig:
    """Returns the configuration that `musicfm_to_json` wrote; absent fields have a MuQ's defaults."""
    given = {key: value for key, value in data.items() if key not in ("model_type", "muq_jax_version")}
    return fields.build(MuQConfig(), {"rvq": None, "num_books": 1, "num_codes": 4096} | given)


def _upstream_keys(config: MuQConfig) -> dict[str, Any]:
    conformer = config.conformer
    return {
        "model_type": "muq",
        "muq_jax_version": __version__,
        "label_rate": config.label_rate,
        # Of the random-projection targets, which upstream builds where use_rvq_target is false.
        "num_codebooks": 1,
        "codebook_dim": 16,
        "codebook_size": config.num_books * config.num_codes,
        "features": ["melspec_2048"],
        "hop_length": config.mel.hop_length,
        "n_mels": config.mel.num_mels,
        "conv_dim": config.conv_channels,
        "encoder_dim": conformer.width,
        "encoder_depth": conformer.num_layers,
        "mask_hop": config.mask_seconds,
        "mask_prob": config.mask_prob,
        "is_flash": False,
        "stat": {"melspec_2048_mean": config.mel.mean, "melspec_2048_std": config.mel.std},
        "w2v2_config": {
            "activation_dropout": conformer.activation_dropout,
            "attention_dropout": conformer.attention_dropout,
            "conformer_conv_dropout": conformer.conv_dropout,
            "conv_depthwise_kernel_size": conformer.conv_kernel,
            "feat_extract_activation": "gelu",
            "hidden_act": "swish",
            "hidden_dropout": conformer.hidden_dropout,
            "hidden_size": conformer.width,
            "intermediate_size": conformer.ffn_width,
            "layer_norm_eps": conformer.layer_norm_eps,
            "layerdrop": 0.0,
            "max_source_positions": 5000,
            "num_attention_heads": conformer.num_heads,
            "num_conv_pos_embedding_groups": 16,
            "num_conv_pos_embeddings": 128,
            "num_hidden_layers": conformer.num_layers,
            "position_embeddings_type": "rotary",
            "rotary_embedding_base": conformer.rotary_base,
        },
        "use_rvq_target": config.rvq is not None,
        "use_vq_target": False,
        "use_encodec_target": False,
        "rvq_ckpt_path": None,
        "recon_loss_ratio": config.mel_reconstruction_weight or None,
        "rvq_n_codebooks": config.rvq.num_books if config.rvq else 8,
        "rvq_multi_layer_num": config.rvq.num_projection_layers if config.rvq else 1,
    }


def _read_upstream_keys(data: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a MuQConfig, as nested dicts, that upstream's keys determine."""
    value = functools.partial(fields.value, data)
    fixed = (
        ("features", ["melspec_2048"], ["melspec_2048"]),
        ("w2v2_config.position_embeddings_type", "rotary", None),
        ("w2v2_config.hidden_act", "swish", None),
        ("w2v2_config.layerdrop", 0.0, 0.0),
    )
    for key, expected, default in fixed:
        found = value(key, type(expected), default)
        if found != expected:
            raise UserError(f"config.json: {key} is {found!r}; only {expected!r} is supported")
    label_rate, num_mels = value("label_rate", int, 25), value("n_mels", int)
    rvq = None
    if data.get("use_rvq_target"):
        rvq = {
            "num_books": value("rvq_n_codebooks", int, 8),
            "input_dim": num_mels * frames_per_token(label_rate),
            "num_projection_layers": value("rvq_multi_layer_num", int, 1),
        }
    # Upstream hard-codes the size of a learned book (1024) and divides codebook_size by it; its
    # random-projection targets have one book of codebook_size entries.
    learned = any(data.get(key) for key in ("use_rvq_target", "use_vq_target", "use_encodec_target"))
    num_classes = value("codebook_size", int)
    return {
        "mel": {
            "hop_length": value("hop_length", int),
            "num_mels": num_mels,
            "mean": value("stat.melspec_2048_mean", float),
            "std": value("stat.melspec_2048_std", float),
        },
        "conformer": {
            "width": value("encoder_dim", int),
            "num_layers": value("encoder_depth", int),
            "num_heads": value("w2v2_config.num_attention_heads", int),
            "ffn_width": value("w2v2_config.intermediate_size", int),
            "conv_kernel": value("w2v2_config.conv_depthwise_kernel_size", int),
            "hidden_dropout": value("w2v2_config.hidden_dropout", float),
            "attention_dropout": value("w2v2_config.attention_dropout", float),
            "activation_dropout": value("w2v2_config.activation_dropout", float),
            "conv_dropout": value("w2v2_config.conformer_conv_dropout", float),
            "layer_norm_eps": value("w2v2_config.layer_norm_eps", float),
            "rotary_base": value("w2v2_config.rotary_embedding_base", float),
        },
        "rvq": rvq,
        "conv_channels": value("conv_dim", int),
        "label_rate": label_rate,
        "num_books": num_classes // 1024 if learned else 1,
        "num_codes": 1024 if learned else num_classes,
        "mask_seconds": value("mask_hop", float, 0.4),
        "mask_prob": value("mask_prob", float, 0.6),
        "mel_reconstruction_weight": value("recon_loss_ratio", float, 0.0),
    }
