"""What callers hand in as audio: checked, resampled, and padded to few different lengths."""

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from muq_jax.audio.decode import resample
from muq_jax.audio.framing import MIN_SAMPLES
from muq_jax.errors import UserError

MIN_RATE_HZ, MAX_RATE_HZ = 1000, 768_000
"""No music is sampled below, where kHz were meant, or above."""

LOUDEST = 1e9
"""The power spectrum of samples far beyond overflows in float32."""


def as_clips(
    wavs: Any, num_samples: Any, sampling_rate: int, model_rate_hz: int, *, pad: bool = True
) -> list[np.ndarray]:
    """Returns the clips of a call as float32 [S] arrays at the model's rate.

    Args:
        wavs: a float array [B, S], or a sequence of 1-D float arrays of any lengths, in -1 to 1.
        num_samples: valid samples of each clip at the given rate, [B]; None if all are.
        sampling_rate: of `wavs`, in Hz.
        model_rate_hz: what the model hears.
        pad: with zeros to 1,025 samples, below which upstream fails.

    Raises:
        UserError: no clip, a clip without samples, NaN or infinite samples, integers, a wrong shape or rate.
    """
    if not is_integer(sampling_rate) or not MIN_RATE_HZ <= sampling_rate <= MAX_RATE_HZ:
        raise UserError(
            f"sampling_rate is {sampling_rate!r}; give the samples' rate in Hz, a whole number from "
            f"{MIN_RATE_HZ} to {MAX_RATE_HZ}: 24000, not 24 for kHz."
        )
    clips = _rows(wavs)
    if not clips:
        raise UserError("wavs is empty; give at least one clip.")
    lengths = [len(clip) for clip in clips] if num_samples is None else _lengths(num_samples, clips)
    cut = [clip[:length] for clip, length in zip(clips, lengths, strict=True)]
    heard = [_clip(i, clip, int(sampling_rate), model_rate_hz) for i, clip in enumerate(cut)]
    return [np.pad(clip, (0, max(0, MIN_SAMPLES - len(clip)))) if pad else clip for clip in heard]


def pad_batch(clips: Sequence[np.ndarray], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the clips zero-padded to one float32 [B, length] and their lengths, int32 [B].

    Args:
        clips: 1-D arrays.
        length: at least the longest clip's, which is the default.
    """
    num_samples = np.array([len(clip) for clip in clips], np.int32)
    batch = np.zeros((len(clips), int(num_samples.max()) if length is None else length), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    return batch, num_samples


def bucket(num_samples: int, rate_hz: int) -> int:
    """Returns the length that a batch of up to `num_samples` samples is padded to.

    Every new length is a new compilation. Eight lengths an octave leave at most an eighth of the work to
    padding; they are counted in seconds, so that 1, 5, 10 and 30 s are among them and pay nothing.
    """
    seconds = num_samples / rate_hz
    step = 2.0 ** (max(math.floor(math.log2(seconds)), -1) - 3)
    return math.ceil(math.ceil(seconds / step) * step * rate_hz)


def silent_clips(seconds: float, count: int, rate_hz: int) -> list[np.ndarray]:
    """Returns `count` clips of silence [S].

    Raises:
        UserError: no length between a sample and a day, or no count.
    """
    is_length = isinstance(seconds, int | float | np.number) and 1 / rate_hz <= seconds <= 86_400
    if not is_length or not is_integer(count) or count < 1:
        raise UserError(f"seconds is {seconds!r}, and clips {count!r}; expected a length and a whole number.")
    return [np.zeros(round(float(seconds) * rate_hz), np.float32)] * int(count)


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a caller's value is a whole number by type; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _rows(wavs: Any) -> list[np.ndarray]:
    if not isinstance(wavs, list | tuple):
        wavs = np.asarray(wavs)
        if wavs.ndim != 2:
            raise UserError(
                f"wavs has shape {wavs.shape}; expected [clips, samples] or a list of 1-D arrays. "
                "One clip goes in as wavs[None]; channels are mixed to mono before."
            )
    rows = []
    for i, samples in enumerate(wavs):
        try:
            row = np.asarray(samples)
        except ValueError:
            raise UserError(f"clip {i} is no array of samples.") from None
        rows.append(row)
        if row.ndim != 1:
            raise UserError(f"clip {i} has shape {row.shape}; expected one axis of samples, mono.")
        if not (np.issubdtype(row.dtype, np.floating) or row.dtype.name == "bfloat16"):
            raise UserError(
                f"clip {i} has type {row.dtype}; expected floats in -1 to 1 (int16 samples divided by 32768)."
            )
    return rows


def _lengths(num_samples: Any, clips: Sequence[np.ndarray]) -> list[int]:
    lengths = np.asarray(num_samples)
    if lengths.shape != (len(clips),) or not np.issubdtype(lengths.dtype, np.integer):
        raise UserError(
            f"num_samples is {lengths.dtype} {lengths.shape}; expected {len(clips)} integers, one a clip."
        )
    for i, (length, clip) in enumerate(zip(lengths.tolist(), clips, strict=True)):
        if not 0 <= length <= len(clip):
            raise UserError(f"num_samples[{i}] is {length}; clip {i} has {len(clip)} samples.")
    return lengths.tolist()


def _clip(index: int, samples: np.ndarray, sampling_rate: int, model_rate_hz: int) -> np.ndarray:
    if not len(samples):
        raise UserError(f"clip {index} has no samples.")
    with np.errstate(over="ignore"):
        samples = samples.astype(np.float32)
    impossible = ~(np.abs(samples) <= LOUDEST)  # NaN, too
    if impossible.any():
        first = int(np.flatnonzero(impossible)[0])
        raise UserError(
            f"clip {index} holds {samples[first]} at sample {first}; expected finite samples in -1 to 1."
        )
    return resample(samples, sampling_rate, model_rate_hz)
