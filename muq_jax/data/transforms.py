"""From an example of any length to one of a fixed length: crops, and what is varied while cropping."""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import TypedDict

import grain
import numpy as np

from muq_jax.data.sources import Example
from muq_jax.errors import UserError


class Crop(TypedDict):
    """`wave` float32 [crop_samples], zeros after its first `num_samples`."""

    id: str
    wave: np.ndarray
    num_samples: int


@dataclasses.dataclass(frozen=True)
class Augment:
    """What is drawn for each crop, besides its place.

    Attributes:
        gain_db: (lowest, highest) gain in dB, drawn uniformly; None leaves the level alone.
        random_channel: take one channel at random, as upstream's training did, instead of their mean. Needs a
            source that keeps channels.
    """

    gain_db: tuple[float, float] | None = None
    random_channel: bool = False

    def __post_init__(self) -> None:
        if self.gain_db is not None and not _is_range(self.gain_db):
            raise UserError(
                f"gain_db={self.gain_db}: expected the lowest and the highest gain in dB, such as (-6.0, 6.0)"
            )


@dataclasses.dataclass(frozen=True)
class RandomCrop(grain.transforms.RandomMap):
    """A random crop of `crop_samples`; a shorter clip is kept whole and zero-padded."""

    crop_samples: int
    augment: Augment = Augment()

    def random_map(self, example: Example, rng: np.random.Generator) -> Crop:
        wave = example["wave"]
        if wave.ndim == 2 and self.augment.random_channel:
            wave = wave[rng.integers(len(wave))]
        start = rng.integers(max(wave.shape[-1] - self.crop_samples, 0) + 1)
        crop = _cut(example["id"], wave, int(start), self.crop_samples)
        if self.augment.gain_db is not None:
            crop["wave"] *= np.float32(10 ** (rng.uniform(*self.augment.gain_db) / 20))
        return crop


@dataclasses.dataclass(frozen=True)
class CentreCrop(grain.transforms.Map):
    """The middle `crop_samples`, for evaluation; a shorter clip is kept whole and zero-padded."""

    crop_samples: int

    def map(self, example: Example) -> Crop:
        wave = example["wave"]
        start = max(wave.shape[-1] - self.crop_samples, 0) // 2
        return _cut(example["id"], wave, start, self.crop_samples)


def _is_range(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(end, numbers.Real) and math.isfinite(end) for end in value)
        and value[0] <= value[1]
    )


def _cut(id: str, wave: np.ndarray, start: int, crop_samples: int) -> Crop:
    part = wave[..., start : start + crop_samples]
    if part.ndim == 2:
        part = part.mean(axis=0)
    out = np.zeros(crop_samples, np.float32)
    out[: len(part)] = part
    return {"id": id, "wave": out, "num_samples": len(part)}
