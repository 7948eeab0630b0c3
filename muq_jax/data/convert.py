"""One clip to the records of a shard: decoded, resampled, checked, cut into pieces and encoded."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from muq_jax.audio.decode import SAMPLE_RATE_HZ, Channel, audio_info, load_audio
from muq_jax.data.manifest import Clip
from muq_jax.data.paths import local_copy
from muq_jax.data.shards import CODECS, encode_record
from muq_jax.data.statistics import MelMoments
from muq_jax.errors import UserError

# What 16 bits round to zero.
_SILENT_PEAK = 2.0**-16
# Encoders pad by up to 50 ms (MP3, AAC), which tools count or not; a length further off is a mistake.
_SLACK_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the bytes of the shards.

    Attributes:
        channel: "mean" of all channels, or the number of one (upstream trained on single channels).
        piece_seconds: longer clips are cut into equal pieces of at most this; so a piece of a long clip is
            never shorter than half of it, and a 30 s crop of a default piece is a full one.
        codec: "flac" or "pcm16".
        min_seconds: shorter clips are rejected.
    """

    channel: Channel = "mean"
    piece_seconds: float = 60.0
    codec: str = "flac"
    min_seconds: float = 0.05


@dataclasses.dataclass(frozen=True)
class Converted:
    """One clip's records, its samples at 24 kHz and the moments of its mels."""

    records: list[bytes]
    num_samples: int
    moments: MelMoments


def convert(clip: Clip, settings: Settings) -> Converted | str:
    """Returns one clip's records, or the reason why it is rejected.

    Raises:
        UnreachableError: its store does not answer, which says nothing about the clip.
    """
    try:
        with local_copy(clip.path) as path:
            try:
                return _convert_file(clip, path, settings)
            except UserError as error:
                return str(error).removeprefix(f"{path}: ")
    except FileNotFoundError:  # of a store; a local file's is told by the decoder
        return "no such file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except MemoryError:
        return "too long: it does not fit into memory"


def _convert_file(clip: Clip, path: Path, settings: Settings) -> Converted | str:
    info = audio_info(path)
    wave = load_audio(path, channel=settings.channel, require_complete=True)
    seconds = len(wave) / SAMPLE_RATE_HZ
    if np.abs(wave).max() < _SILENT_PEAK:
        return f"silent: all of its {seconds:.3f} s are zero"
    if seconds < settings.min_seconds:
        return f"too short: {seconds:.3f} s, at least {settings.min_seconds:g} s are asked for"
    if reason := _lie(clip, info.sample_rate_hz, seconds):
        return reason

    num_pieces = math.ceil(seconds / settings.piece_seconds)
    records, start = [], 0
    for piece in np.array_split(wave, num_pieces):
        start_seconds = start / SAMPLE_RATE_HZ
        header = {
            "id": clip.id if num_pieces == 1 else f"{clip.id}@{start_seconds:.2f}",
            "clip": clip.id,
            "start_seconds": start_seconds,
            "sample_rate_hz": SAMPLE_RATE_HZ,
        }
        records.append(encode_record(header, piece, settings.codec))
        start += len(piece)
    return Converted(records, len(wave), MelMoments.of(wave))


def _lie(clip: Clip, sample_rate_hz: int, seconds: float) -> str | None:
    """Says how the manifest's row differs from the file, if it does."""
    if clip.sample_rate_hz not in (None, sample_rate_hz):
        return f"the manifest says {clip.sample_rate_hz} Hz, the file has {sample_rate_hz} Hz"
    if clip.num_samples is None:
        return None
    stated = clip.num_samples / sample_rate_hz
    if abs(stated - seconds) > _SLACK_SECONDS:
        found = round(seconds * sample_rate_hz)
        return (
            f"the manifest says {clip.num_samples} samples ({stated:.3f} s), "
            f"the file has {found} ({seconds:.3f} s)"
        )
    return None


def check_settings(settings: Settings) -> None:
    """Raises UserError if a setting is out of its range."""
    if settings.codec not in CODECS:
        raise UserError(f"codec is {settings.codec!r}; expected one of {', '.join(CODECS)}")
    if not settings.piece_seconds >= 1:
        raise UserError(f"piece_seconds is {settings.piece_seconds}; expected at least 1")
