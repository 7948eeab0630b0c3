"""Targets: waveform to codes [B, T, Q], whatever makes them.

What makes them is frozen: its variables lie in the training state under `collection`, where no gradient goes.
Codes may also have been made before, and come with the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import jax

from muq_jax.audio.mel import MelConfig
from muq_jax.models import hidden_rvq, mel_rvq
from muq_jax.models.config import MelRVQConfig
from muq_jax.models.hidden_rvq import HiddenRVQConfig
from muq_jax.nn.valid import first_valid
from muq_jax.quantize.random_projection import (
    RandomProjectionConfig,
    init_random_projection,
    random_projection_codes,
)
from muq_jax.quantize.rvq import SINGLE_VQ

Variables = Mapping[str, Any]


class Targets(Protocol):
    """What makes codes out of a waveform: Q = `num_books` codes a token, each below V = `num_codes`.

    A token is `frames_per_token` frames of the front end `mel`.
    """

    collection: ClassVar[str]

    @property
    def mel(self) -> MelConfig: ...

    @property
    def frames_per_token(self) -> int: ...

    @property
    def num_books(self) -> int: ...

    @property
    def num_codes(self) -> int: ...

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Returns fresh variables."""
        ...

    def __call__(
        self, variables: Variables, wave: jax.Array, num_samples: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns codes int32 [B, T, Q] and `valid` bool [B, T] of clean waveforms.

        Args:
            variables: as of `init`.
            wave: float [B, S] at 24 kHz.
            num_samples: int [B], valid samples; a token is valid when all its mel frames are.
        """
        ...


@dataclass(frozen=True)
class MelRVQTargets:
    """Codes of a Mel-RVQ: MuQ's own targets. Its variables are a MuQ's collection `rvq`."""

    config: MelRVQConfig
    collection: ClassVar[str] = "rvq"

    @property
    def mel(self) -> MelConfig:
        return self.config.mel

    @property
    def frames_per_token(self) -> int:
        return self.config.frames_per_token

    @property
    def num_books(self) -> int:
        return self.config.rvq.num_books

    @property
    def num_codes(self) -> int:
        return self.config.rvq.num_codes

    def init(self, key: jax.Array) -> dict[str, Any]:
        return mel_rvq.init(key, self.config)

    def __call__(
        self, variables: Variables, wave: jax.Array, num_samples: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        codes = mel_rvq.encode(variables, wave, num_samples, config=self.config)
        return codes, first_valid(mel_rvq.num_tokens(num_samples, self.config), codes.shape[1])


def single_vq_targets(mel: MelConfig | None = None, label_rate: int = 25) -> MelRVQTargets:
    """Returns the targets of upstream's plain vector quantiser: one book of 1,024 codes of size 8."""
    mel = mel or MelConfig()
    rvq = replace(SINGLE_VQ, input_dim=mel.num_mels * 100 // label_rate)
    return MelRVQTargets(MelRVQConfig(mel, rvq, label_rate))


@dataclass(frozen=True)
class RandomProjectionTargets:
    """Codes of a fixed random projection of the same stacked mel: BEST-RQ's and MusicFM's targets."""

    quantizer: RandomProjectionConfig
    mel: MelConfig
    frames_per_token: int = 4
    collection: ClassVar[str] = "targets"

    @property
    def num_books(self) -> int:
        return self.quantizer.num_books

    @property
    def num_codes(self) -> int:
        return self.quantizer.num_codes

    def init(self, key: jax.Array) -> dict[str, Any]:
        return init_random_projection(key, self.quantizer)

    def __call__(
        self, variables: Variables, wave: jax.Array, num_samples: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        stacked, valid = mel_rvq.stacked_mel(
            wave, num_samples, mel=self.mel, frames_per_token=self.frames_per_token
        )
        return random_projection_codes(variables, stacked), valid


@dataclass(frozen=True)
class HiddenRVQTargets:
    """Codes of a layer of a trained MuQ: the targets of the iterative stage, made in every step.

    They are the codes of exactly the waveform that comes in, which is all that the teacher hears.
    """

    config: HiddenRVQConfig
    collection: ClassVar[str] = "hidden_rvq"

    @property
    def mel(self) -> MelConfig:
        return self.config.teacher.mel

    @property
    def frames_per_token(self) -> int:
        return self.config.teacher.frames_per_token

    @property
    def num_books(self) -> int:
        return self.config.rvq.num_books

    @property
    def num_codes(self) -> int:
        return self.config.rvq.num_codes

    def init(self, key: jax.Array) -> dict[str, Any]:
        return hidden_rvq.init(key, self.config)

    def __call__(
        self, variables: Variables, wave: jax.Array, num_samples: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return hidden_rvq.encode(variables, wave, num_samples, self.config)


@dataclass(frozen=True)
class StoredTargets:
    """Codes that were made and stored before, by `maker`: they come with the batch, as `codes`."""

    maker: Targets

    @property
    def mel(self) -> MelConfig:
        return self.maker.mel

    @property
    def frames_per_token(self) -> int:
        return self.maker.frames_per_token

    @property
    def num_books(self) -> int:
        return self.maker.num_books

    @property
    def num_codes(self) -> int:
        return self.maker.num_codes

    def valid(self, codes: jax.Array, num_samples: jax.Array) -> jax.Array:
        """Returns which tokens of codes [B, T, Q] are real, bool [B, T], of clips of `num_samples` [B]."""
        token_samples = self.frames_per_token * self.mel.hop_length
        return first_valid(num_samples // token_samples, codes.shape[1])
