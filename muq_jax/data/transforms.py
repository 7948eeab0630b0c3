"""From an example of any length to one of a fixed length: crops, and what is varied while cropping."""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import grain
import numpy as np

from muq_jax.data.sources import Example
from muq_jax.data.texts import TextReader
from muq_jax.errors import UserError


class Crop(TypedDict):
    """`wave` float32 [crop_samples], zeros after its first `num_samples`.

    Of an example with stored codes also `codes` int32 [T, Q], the crop's whole tokens, -1 past its own end;
    where texts are read, `ids` int32 [N].
    """

    id: str
    wave: np.ndarray
    num_samples: int
    codes: NotRequired[np.ndarray]
    ids: NotRequired[np.ndarray]


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
    """A random crop of `crop_samples`; a shorter clip is kept whole and zero-padded.

    Attributes:
        crop_samples: its length.
        augment: what else is drawn.
        token_samples: it starts on a multiple of so many samples: a token's, where codes are stored.
        texts: draws what is said about the clip; None where texts are not read.
    """

    crop_samples: int
    augment: Augment = Augment()
    token_samples: int = 1
    texts: TextReader | None = None

    def random_map(self, example: Example, rng: np.random.Generator) -> Crop:
        wave = example["wave"]
        if wave.ndim == 2 and self.augment.random_channel:
            wave = wave[rng.integers(len(wave))]
        start = int(rng.integers(max(wave.shape[-1] - self.crop_samples, 0) + 1))
        crop = _cut(example, wave, start, self.crop_samples, self.token_samples)
        if self.augment.gain_db is not None:
            crop["wave"] *= np.float32(10 ** (rng.uniform(*self.augment.gain_db) / 20))
        if self.texts is not None:
            crop["ids"] = self.texts.draw(example, rng)
        return crop


@dataclasses.dataclass(frozen=True)
class CentreCrop(grain.transforms.Map):
    """The middle `crop_samples`, for evaluation; a shorter clip is kept whole and zero-padded.

    Attributes:
        crop_samples, token_samples, texts: as in `RandomCrop`.
    """

    crop_samples: int
    token_samples: int = 1
    texts: TextReader | None = None

    def map(self, example: Example) -> Crop:
        wave = example["wave"]
        start = max(wave.shape[-1] - self.crop_samples, 0) // 2
        crop = _cut(example, wave, start, self.crop_samples, self.token_samples)
        if self.texts is not None:
            crop["ids"] = self.texts.read(example)
        return crop


def _is_range(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(end, numbers.Real) and math.isfinite(end) for end in value)
        and value[0] <= value[1]
    )


def _cut(example: Example, wave: np.ndarray, start: int, crop_samples: int, token_samples: int) -> Crop:
    first = start // token_samples
    start = first * token_samples
    part = wave[..., start : start + crop_samples]
    if part.ndim == 2:
        part = part.mean(axis=0)
    out = np.zeros(crop_samples, np.float32)
    out[: len(part)] = part
    crop: Crop = {"id": example["id"], "wave": out, "num_samples": len(part)}
    if "codes" in example:
        tokens = example["codes"][first : first + crop_samples // token_samples]
        crop["codes"] = no_codes(crop_samples // token_samples, tokens.shape[1])
        crop["codes"][: len(tokens)] = tokens
    return crop


def no_codes(num_tokens: int, num_books: int) -> np.ndarray:
    """Returns the codes int32 [T, Q] of nothing: -1."""
    return np.full((num_tokens, num_books), -1, np.int32)
