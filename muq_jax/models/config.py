"""What a model is made of: frozen configurations, their presets and upstream's `config.json`."""

import dataclasses
import difflib
import functools
from typing import Any, ClassVar, Protocol, TypeVar, get_args

from muq_jax import __version__
from muq_jax.audio.mel import MelConfig
from muq_jax.errors import UserError
from muq_jax.nn.conformer import ConformerConfig
from muq_jax.quantize.rvq import RVQConfig

LABEL_RATES_HZ = (25, 50)


class _Configuration(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


ConfigT = TypeVar("ConfigT", bound=_Configuration)


def _frames_per_token(label_rate: int) -> int:
    if label_rate not in LABEL_RATES_HZ:
        raise UserError(f"label_rate must be one of {LABEL_RATES_HZ} tokens per second, found {label_rate!r}")
    return 100 // label_rate


def _check_frame_rate(mel: MelConfig) -> None:
    if mel.sample_rate_hz != 100 * mel.hop_length:
        raise UserError(
            f"mel.sample_rate_hz / mel.hop_length must be 100 frames per second, "
            f"found {mel.sample_rate_hz} / {mel.hop_length}"
        )


@dataclasses.dataclass(frozen=True)
class MelRVQConfig:
    """The tokenizer: `100 / label_rate` mel frames stacked into one vector, quantised by `rvq`."""

    mel: MelConfig = dataclasses.field(default_factory=MelConfig)
    rvq: RVQConfig = dataclasses.field(default_factory=RVQConfig)
    label_rate: int = 25

    def __post_init__(self):
        _check_frame_rate(self.mel)
        if self.rvq.input_dim != self.mel.num_mels * self.frames_per_token:
            raise UserError(
                f"rvq.input_dim is {self.rvq.input_dim}; {self.frames_per_token} stacked frames of "
                f"{self.mel.num_mels} mel bands make {self.mel.num_mels * self.frames_per_token}: "
                "label_rate or mel.num_mels is not that of this Mel-RVQ"
            )

    @property
    def frames_per_token(self) -> int:
        return _frames_per_token(self.label_rate)


@dataclasses.dataclass(frozen=True)
class MuQConfig:
    """A MuQ: mel front end, subsampling convolutions, Conformer, prediction heads and masking.

    Attributes:
        mel: the log-mel front end.
        conformer: the encoder.
        rvq: the Mel-RVQ that a MuQ carries as its frozen collection `rvq`; None where the targets come from
            elsewhere.
        conv_channels: channels of the subsampling convolutions.
        label_rate: tokens per second, 25 or 50.
        num_books: Q, prediction heads.
        num_codes: V, classes of each head.
        mask_seconds: length of a masked block of the waveform.
        mask_prob: probability that a block is masked.
        mask_noise_std: deviation of the noise that replaces a masked block.
        mel_reconstruction_weight: weight of the loss term that predicts the mel of masked tokens; with 0
            the head for it does not exist.
    """

    mel: MelConfig = dataclasses.field(default_factory=MelConfig)
    conformer: ConformerConfig = dataclasses.field(default_factory=ConformerConfig)
    rvq: RVQConfig | None = dataclasses.field(default_factory=RVQConfig)
    conv_channels: int = 512
    label_rate: int = 25
    num_books: int = 8
    num_codes: int = 1024
    mask_seconds: float = 0.4
    mask_prob: float = 0.6
    mask_noise_std: float = 0.1
    mel_reconstruction_weight: float = 0.0

    def __post_init__(self):
        for name in ("conv_channels", "num_books", "num_codes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not self.mask_seconds > 0:
            raise UserError(f"mask_seconds must be above 0, found {self.mask_seconds}")
        if not 0 < self.mask_prob <= 1:
            raise UserError(f"mask_prob must be above 0 and at most 1, found {self.mask_prob}")
        for name in ("mask_noise_std", "mel_reconstruction_weight"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be at least 0, found {getattr(self, name)}")
        if self.mel.num_mels % 4:
            raise UserError(f"mel.num_mels must be a multiple of 4, found {self.mel.num_mels}")
        _check_frame_rate(self.mel)
        _frames_per_token(self.label_rate)
        if self.rvq is None:
            return
        MelRVQConfig(self.mel, self.rvq, self.label_rate)
        if self.num_codes != self.rvq.num_codes or self.num_books > self.rvq.num_books:
            raise UserError(
                f"{self.num_books} heads of {self.num_codes} classes cannot predict rvq's "
                f"{self.rvq.num_books} books of {self.rvq.num_codes} codes"
            )

    @property
    def frames_per_token(self) -> int:
        return _frames_per_token(self.label_rate)

    @property
    def mel_reconstruction(self) -> bool:
        return self.mel_reconstruction_weight > 0

    @property
    def mel_rvq(self) -> MelRVQConfig:
        """The configuration of the carried Mel-RVQ.

        Raises:
            UserError: the model carries none.
        """
        if self.rvq is None:
            raise UserError("this MuQ carries no Mel-RVQ (its config.json does not say use_rvq_target)")
        return MelRVQConfig(self.mel, self.rvq, self.label_rate)


PRESETS: dict[str, MuQConfig] = {
    "smoke": MuQConfig(
        conformer=ConformerConfig(width=64, num_layers=2, num_heads=4, ffn_width=128),
        rvq=RVQConfig(num_books=4),
        conv_channels=8,
        num_books=4,
    ),
    "tiny": MuQConfig(
        conformer=ConformerConfig(width=192, num_layers=6, num_heads=4, ffn_width=768), conv_channels=64
    ),
    "base": MuQConfig(
        conformer=ConformerConfig(width=512, num_layers=12, num_heads=8, ffn_width=2048), conv_channels=256
    ),
    "large": MuQConfig(),
}


def muq_config(name: str, **overrides: Any) -> MuQConfig:
    """Returns the preset `name` with fields replaced; a dict replaces fields of a nested configuration.

    The Mel-RVQ's input width follows the label rate and the number of mel bands unless it is given.

        muq_config("tiny", label_rate=50, conformer={"remat": False})

    Raises:
        UserError: an unknown preset or field, or sizes that do not fit each other.
    """
    if name not in PRESETS:
        raise UserError(f"no model preset {name!r}; there are {', '.join(PRESETS)}")
    fields = _update(dataclasses.asdict(PRESETS[name]), overrides)
    if isinstance(fields["rvq"], dict) and "input_dim" not in _as_dict(overrides.get("rvq", {})):
        mel = _build(MelConfig(), fields["mel"], "mel.")
        fields["rvq"]["input_dim"] = mel.num_mels * _frames_per_token(fields["label_rate"])
    return _build(MuQConfig(), fields)


def to_upstream_json(config: MuQConfig) -> dict[str, Any]:
    """Returns upstream's `config.json` keys, `model_type`, `muq_jax_version` and what upstream cannot say.

    The last goes under the key `muq_jax` (upstream's loader drops keys that it does not know), so that
    `from_upstream_json` gives back an equal configuration.
    """
    written = _upstream_keys(config)
    understood = _update(dataclasses.asdict(MuQConfig()), _read_upstream_keys(written))
    extras = _difference(dataclasses.asdict(config), understood)
    return written | ({"muq_jax": extras} if extras else {})


def from_upstream_json(data: dict[str, Any]) -> MuQConfig:
    """Returns the configuration in a MuQ's `config.json`, upstream's own or one of `to_upstream_json`.

    Raises:
        UserError: it asks for something that this MuQ does not have, or a value is missing or cannot be.
    """
    return _build(MuQConfig(), _update(_read_upstream_keys(data), _value(data, "muq_jax", dict, {})))


def mel_rvq_to_json(config: MelRVQConfig) -> dict[str, Any]:
    """Returns the `config.json` of a Mel-RVQ on its own: every field, since upstream has no such file."""
    return {"model_type": "mel_rvq", "muq_jax_version": __version__} | dataclasses.asdict(config)


def mel_rvq_from_json(data: dict[str, Any]) -> MelRVQConfig:
    """Returns the configuration that `mel_rvq_to_json` wrote; absent fields have their defaults."""
    fields = {key: value for key, value in data.items() if key not in ("model_type", "muq_jax_version")}
    return _build(MelRVQConfig(), fields)


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
    value = functools.partial(_value, data)
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
            "input_dim": num_mels * _frames_per_token(label_rate),
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


_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "an object",
}


def _checked(name: str, value: Any, kind: Any) -> Any:
    """Returns a value that is of the kind that a field holds; a whole number is a number, too."""
    wanted = int | float if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} is {value!r}; expected {_KINDS[kind]}")
    return value


def _value(data: dict[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """Returns `data["a"]["b"]` for the key "a.b" of a config.json; the default where it is absent or null."""
    found: Any = data
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    found = default if found is None else found
    if found is None:
        raise UserError(f"config.json: the key {key!r} of a MuQ configuration is missing or null")
    return _checked(f"config.json: {key}", found, kind)


def _as_dict(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _update(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns `base` with the values of `changes`, nested dicts (or configurations) into nested dicts."""
    merged = dict(base)
    for name, value in changes.items():
        value = _as_dict(value)
        nested = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = _update(base[name], value) if nested else value
    return merged


def _difference(fields: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Returns what `_update(base, ...)` needs to give `fields`."""
    changed = {}
    for name, value in fields.items():
        if value != base[name]:
            nested = isinstance(value, dict) and isinstance(base[name], dict)
            changed[name] = _difference(value, base[name]) if nested else value
    return changed


def _build(base: ConfigT, fields: Any, where: str = "") -> ConfigT:
    """Returns `base` with `fields` replaced, nested dicts into nested configurations.

    Raises:
        UserError: an unknown name, or a value of another kind than the field's.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{where.removesuffix('.')} is {fields!r}; expected its fields by name")
    kinds = {field.name: field.type for field in dataclasses.fields(base)}
    replaced = {}
    for name, value in fields.items():
        if name not in kinds:
            close = difflib.get_close_matches(name, kinds, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(kinds)}"
            raise UserError(f"no field {where + name!r} in the model configuration; {hint}")
        inner = getattr(base, name)
        holds_fields = dataclasses.is_dataclass(inner)
        if not holds_fields:
            replaced[name] = _checked(where + name, value, kinds[name])
        elif value is None and type(None) in get_args(kinds[name]):
            replaced[name] = None
        else:
            replaced[name] = _build(inner, value, f"{where}{name}.")
    return dataclasses.replace(base, **replaced)
