"""Audio files to mono float32, without JAX.

libsndfile decodes wav, flac, ogg, opus, mp3, aiff and their kin, PyAV (the extra `av`) m4a and what else
ffmpeg knows. A file is decoded from its start to its end: after a seek into a VBR MP3 up to 94 ms of samples
are wrong.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile
import soxr

from muq_jax.audio import mp3
from muq_jax.audio.truncation import missing_end
from muq_jax.errors import UserError

SAMPLE_RATE_HZ = 24_000
AV_EXTENSIONS = frozenset({".m4a", ".m4b", ".aac", ".wma"})
"""Suffixes that need the extra `av`."""
AUDIO_EXTENSIONS = AV_EXTENSIONS | {
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"),
}
"""Lower-case suffixes by which a folder is searched; a file named outright may have any."""

BLOCK_SAMPLES = 1 << 18
# What may be missing before a file counts as cut short: encoders disagree by a frame or two (26 ms each).
TRUNCATION_TOLERANCE_SECONDS = 0.05

# From the lowest that speech was stored at to the highest that converters give; others are damaged headers,
# and one of 1 Hz would become 24,000 times its size.
_SAMPLE_RATES_HZ = (1_000, 768_000)

PathLike = str | os.PathLike
Channel = Literal["mean"] | int


class AudioInfo(NamedTuple):
    """What a file's header says.

    Attributes:
        num_samples: per channel, at the file's own rate; None if the file does not say.
        format: the container, such as "WAV", "MP3" or "mov,mp4,m4a,3gp,3g2,mj2".
    """

    sample_rate_hz: int
    num_channels: int
    num_samples: int | None
    format: str


def audio_info(path: PathLike) -> AudioInfo:
    """Reads a file's header.

    Raises:
        UserError: not a file, empty, not audio, or the extra `av` is needed.
    """
    with _open(path) as (info, _):
        return info


def load_audio(
    path: PathLike,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    channel: Channel = "mean",
    require_complete: bool = False,
) -> np.ndarray:
    """Decodes a whole file to one channel.

    Args:
        path: a file of any format that `AUDIO_EXTENSIONS` names.
        sample_rate_hz: the rate to resample to.
        channel: "mean" of all channels, or the number of one, from 0 (MuQ was trained on one at random).
        require_complete: refuse a file that was cut short, as far as it shows: less was decoded than the
            header of an MP3 or MP4 promises, or the end of a WAV, AIFF, AU or Ogg file is missing. (A FLAC
            cut short is always refused. An MP3 without a length in its first frame is as long as it is.)

    Returns:
        [S] float32, round(samples * sample_rate_hz / the file's rate) within one. Full scale is 1.0; a float
        file may exceed it.

    Raises:
        UserError: not a file, empty, not decodable to its end, no samples, NaN or infinite samples, no such
            channel, or the extra `av` is needed. The message names the file.
    """
    blocks = stream_audio(
        path, sample_rate_hz=sample_rate_hz, channel=channel, require_complete=require_complete
    )
    return np.concatenate(list(blocks))


def stream_audio(
    path: PathLike,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    channel: Channel = "mean",
    require_complete: bool = False,
) -> Iterator[np.ndarray]:
    """`load_audio` in pieces, in constant memory: concatenated, they are its result to the bit.

    Errors, too, are those of `load_audio`, raised when the decoder comes to them.
    """
    with _open(path) as (info, blocks):
        _check_channel(path, info, channel)
        resampler = None
        if info.sample_rate_hz != sample_rate_hz:
            resampler = soxr.ResampleStream(
                info.sample_rate_hz, sample_rate_hz, 1, dtype="float32", quality="HQ"
            )
        num_decoded, num_out = 0, 0
        for block in blocks:  # [n, channels]
            mono = block.mean(axis=1) if channel == "mean" else np.ascontiguousarray(block[:, channel])
            _check_finite(path, mono, num_decoded, info.sample_rate_hz)
            num_decoded += len(mono)
            if resampler:
                mono = resampler.resample_chunk(mono)
            num_out += len(mono)
            yield mono
        if resampler:
            rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            num_out += len(rest)
            yield rest
        if not num_out:
            raise UserError(f"{path}: holds no samples ({info.format}, {info.sample_rate_hz} Hz)")
        if require_complete:
            _check_complete(path, info, num_decoded)


def resample(wave: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resamples along the last axis: [..., S] to [..., round(S * to_hz / from_hz) within one], float32.

    soxr's HQ is the default of `librosa.load`, which MuQ's own example uses: the same samples come out. Its
    alias rejection (139 dB, measured) and pass-band error (2e-6 at most) are under what 16 bits hold.
    """
    wave = np.asarray(wave, np.float32)
    if from_hz == to_hz or not wave.size:
        return wave
    rows = wave.reshape(-1, wave.shape[-1])
    out = soxr.resample(np.ascontiguousarray(rows.T), from_hz, to_hz, quality="HQ").T
    return np.ascontiguousarray(out).reshape(*wave.shape[:-1], -1)


def _check_channel(path: PathLike, info: AudioInfo, channel: Channel) -> None:
    if channel == "mean":
        return
    if not isinstance(channel, int):
        raise ValueError(f"channel is {channel!r}; expected 'mean' or a channel's number")
    if not 0 <= channel < info.num_channels:
        raise UserError(
            f"{path}: has no channel {channel}; it has {info.num_channels}, numbered from 0. "
            "Choose one of them, or the mean"
        )


def _check_finite(path: PathLike, mono: np.ndarray, offset: int, sample_rate_hz: int) -> None:
    finite = np.isfinite(mono)
    if not finite.all():
        at = int(np.argmin(finite))
        raise UserError(
            f"{path}: sample {offset + at} ({(offset + at) / sample_rate_hz:.3f} s) is {mono[at]}; "
            "expected finite samples. Export the file again, or leave it out"
        )


def _check_complete(path: PathLike, info: AudioInfo, num_decoded: int) -> None:
    lost = missing_end(path)
    if lost is None and info.num_samples is not None:
        promised, decoded = (n / info.sample_rate_hz for n in (info.num_samples, num_decoded))
        if promised - decoded > TRUNCATION_TOLERANCE_SECONDS:
            lost = f"its header promises {promised:.3f} s and {decoded:.3f} s could be decoded"
    if lost:
        raise UserError(f"{path}: was cut short: {lost}. Copy or download it again, or leave it out")


@contextlib.contextmanager
def _open(path: PathLike) -> Iterator[tuple[AudioInfo, Iterator[np.ndarray]]]:
    """The header and the samples, float32 [n, channels] at a time, first to last."""
    file = Path(path)
    if file.is_dir():
        raise UserError(f"{path}: is a folder; expected an audio file")
    if not file.is_file():
        raise UserError(f"{path}: no such file")
    with file.open("rb") as stream:
        head = stream.read(12)
    if not head:
        raise UserError(f"{path}: is empty (0 bytes)")
    if file.suffix.lower() == ".raw":
        raise UserError(
            f"{path}: raw samples do not say their rate or width; convert the file to wav or flac"
        )
    is_mp4 = head[4:8] == b"ftyp"
    with _open_av(path) if is_mp4 or file.suffix.lower() in AV_EXTENSIONS else _open_sndfile(path) as opened:
        lowest, highest = _SAMPLE_RATES_HZ
        if not lowest <= (rate := opened[0].sample_rate_hz) <= highest:
            raise UserError(
                f"{path}: its header says {rate} Hz; expected {lowest} to {highest} Hz. "
                "Export the file again, or leave it out"
            )
        yield opened


class _ForwardOnly(soundfile.SoundFile):
    """A file that soundfile believes it cannot seek in.

    It seeks after every read otherwise, which spoils VBR MP3.
    """

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _open_sndfile(path: PathLike) -> Iterator[tuple[AudioInfo, Iterator[np.ndarray]]]:
    try:
        with contextlib.ExitStack() as stack:
            # As bytes: a name that is not in UTF-8 opens, too.
            file = stack.enter_context(_ForwardOnly(os.fsencode(path)))
            # A FLAC written to a pipe has no length; libsndfile then gives the largest integer.
            num_samples = file.frames if file.frames < 1 << 62 else None
            if file.format == "MP3" and not mp3.states_length(path):
                with_length = mp3.with_length(Path(path).read_bytes())
                file = stack.enter_context(_ForwardOnly(io.BytesIO(with_length)))
                num_samples = None
            yield AudioInfo(file.samplerate, file.channels, num_samples, file.format), _sndfile_blocks(file)
    except soundfile.LibsndfileError as error:
        # 7 is what MP3 files give whose bytes are something else, with a text about pipes.
        reason = "Format not recognised." if error.code == 7 else error.error_string or f"error {error.code}."
        raise UserError(
            f"{path}: cannot be decoded: {reason} The file is damaged, cut short or not audio "
            "(wav, flac, ogg, opus, mp3, aiff; m4a, aac and wma by their suffix)"
        ) from error


def _sndfile_blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    while len(block := file.read(BLOCK_SAMPLES, "float32", always_2d=True)):
        yield block


@contextlib.contextmanager
def _open_av(path: PathLike) -> Iterator[tuple[AudioInfo, Iterator[np.ndarray]]]:
    try:
        import av
    except ImportError as error:
        raise UserError(f"{path}: this format needs PyAV: pip install av") from error
    try:
        # Tags in another encoding than UTF-8 are common, and nothing here reads them; nor does PyAV 19.
        needs_option = int(av.__version__.split(".")[0]) < 19
        options: dict[str, Any] = {"metadata_errors": "replace"} if needs_option else {}
        container = av.open(os.fspath(path), **options)
    except (av.FFmpegError, ValueError) as error:
        raise _undecodable(path, error) from error
    try:
        with container:
            stream = next(iter(container.streams.audio), None)
            # A stream that ffmpeg knows no codec for has no context, and no rate.
            if stream is None or stream.codec_context is None:
                raise UserError(
                    f"{path}: holds no audio that can be decoded; it is damaged, cut short, protected or "
                    "a video"
                )
            num_samples = None
            # Only MP4 states its length; elsewhere ffmpeg guesses from the bit rate.
            if "mp4" in container.format.name and stream.duration and stream.time_base:
                num_samples = round(stream.duration * stream.time_base * stream.rate)
            info = AudioInfo(stream.rate, stream.channels, num_samples, container.format.name)
            yield info, _av_blocks(container, av.AudioResampler(format="fltp"))
    except av.FFmpegError as error:
        raise _undecodable(path, error) from error


def _undecodable(path: PathLike, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path}: cannot be decoded: {reason}. The file is damaged, cut short or not audio")


def _av_blocks(container, to_float32) -> Iterator[np.ndarray]:
    for frame in container.decode(audio=0):
        for planar in to_float32.resample(frame):
            yield planar.to_ndarray().T
