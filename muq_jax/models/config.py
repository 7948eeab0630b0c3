"""What a model is made of: frozen configurations and their presets."""

import dataclasses
from typing import Any

from muq_jax.audio.mel import MelConfig
from muq_jax.errors import UserError
from muq_jax.models import fields
from muq_jax.nn.conformer import ConformerConfig
from muq_jax.quantize.rvq import RVQConfig

LABEL_RATES_HZ = (25, 50)


def frames_per_token(label_rate: int) -> int:
    """Returns how many mel frames of 100 a second make a token."""
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
        return frames_per_token(self.label_rate)


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
        frames_per_token(self.label_rate)
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
        return frames_per_token(self.label_rate)

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
    chosen = fields.update(dataclasses.asdict(PRESETS[name]), overrides)
    if isinstance(chosen["rvq"], dict) and "input_dim" not in fields.as_dict(overrides.get("rvq", {})):
        mel = fields.build(MelConfig(), chosen["mel"], "mel.")
        chosen["rvq"]["input_dim"] = mel.num_mels * frames_per_token(chosen["label_rate"])
    return fields.build(MuQConfig(), chosen)
