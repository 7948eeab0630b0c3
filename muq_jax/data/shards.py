"""One record of a shard: a small JSON header and up to a minute of mono audio, as FLAC or plain PCM, 16 bits.

4 bytes  length of the header, little endian
header   JSON: id, clip, start_seconds, num_samples, sample_rate_hz, codec
rest     the samples
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from muq_jax.errors import UserError

CODECS = ("flac", "pcm16")
SHARD_SUFFIX = ".array_record"
SLICE_PREFIX = "slice-"
_SHARD_BYTES = 256 * 2**20
# Samples beyond full scale, which resampling and lossy codecs make, are clipped.
_FULL_SCALE = 32768.0
_LENGTH = struct.Struct("<I")


def encode_record(header: dict[str, Any], wave: np.ndarray, codec: str) -> bytes:
    """Returns the record's bytes.

    Args:
        header: what to keep beside the samples; must have `sample_rate_hz`; gets `codec` and `num_samples`.
        wave: float32 [S], full scale is 1; 16 bits are kept.
        codec: "flac" (about half the size) or "pcm16" (nothing to decode).
    """
    pcm = np.clip(np.round(wave * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype("<i2")
    if codec == "flac":
        buffer = io.BytesIO()
        soundfile.write(buffer, pcm, header["sample_rate_hz"], format="FLAC", subtype="PCM_16")
        samples = buffer.getvalue()
    elif codec == "pcm16":
        samples = pcm.tobytes()
    else:
        raise ValueError(f"codec is {codec!r}, expected one of {CODECS}")
    head = json.dumps({**header, "num_samples": len(pcm), "codec": codec}, ensure_ascii=False)
    # A file's name that is not in UTF-8 comes here with surrogates, which JSON holds as escapes.
    head_bytes = head.encode("utf-8", "backslashreplace")
    return _LENGTH.pack(len(head_bytes)) + head_bytes + samples


def decode_record(record: bytes, where: str = "record") -> tuple[dict[str, Any], np.ndarray]:
    """Returns the header and the wave, float32 [S].

    Raises:
        UserError: these are not the bytes of such a record; `where` names them.
    """
    try:
        (length,) = _LENGTH.unpack_from(record)
        header = json.loads(record[_LENGTH.size : _LENGTH.size + length])
        samples = record[_LENGTH.size + length :]
        if header["codec"] == "flac":
            pcm, _ = soundfile.read(io.BytesIO(samples), dtype="int16")
        else:
            pcm = np.frombuffer(samples, "<i2")
        if len(pcm) != header["num_samples"]:
            raise ValueError(f"{len(pcm)} samples, its header says {header['num_samples']}")
    except (struct.error, ValueError, KeyError, TypeError, soundfile.LibsndfileError) as error:
        raise UserError(
            f"{where}: not a record that `prepare` wrote ({error}); prepare the corpus again"
        ) from error
    return header, pcm.astype(np.float32) / np.float32(_FULL_SCALE)


def is_shards(folder: Path) -> bool:
    """Whether `prepare` wrote this folder: its shards are in it, or in slices."""
    patterns = (f"*{SHARD_SUFFIX}", f"{SLICE_PREFIX}*/*{SHARD_SUFFIX}")
    return (folder / "manifest.jsonl").exists() and any(any(folder.glob(each)) for each in patterns)


def sha256_of(path: Path) -> str:
    """Returns the digest of a local file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShardWriter:
    """Writes records into numbered shards in a folder, all of one clip into the same shard.

    The caller closes a shard that `is_full`; the next record begins another one. Every method raises
    UserError if the disk is full or fails.

    Args:
        folder: where to write.
        first: the number of the first shard.
    """

    def __init__(self, folder: Path, first: int = 0):
        self._folder = folder
        self._numbers = itertools.count(first)
        self._writer: ArrayRecordWriter | None = None
        self._path = Path()
        self._num_records = self._num_bytes = 0

    def write(self, records: Iterable[bytes]) -> str:
        """Returns the name of the shard that took a clip's records."""
        with self._named_errors():
            if self._writer is None:
                self._path = self._folder / f"shard-{next(self._numbers):05d}{SHARD_SUFFIX}"
                # One record a group: random access reads nothing else. FLAC does not compress any further.
                self._writer = ArrayRecordWriter(str(self._path), "group_size:1,uncompressed")
            for record in records:
                self._writer.write(record)
                self._num_records += 1
                self._num_bytes += len(record)
        return self._path.name

    @property
    def is_full(self) -> bool:
        return self._num_bytes > _SHARD_BYTES

    def close(self) -> dict[str, str]:
        """Ends the shard, sees it to the disk, reads its index back, and returns {its name: its SHA-256}."""
        if self._writer is None:
            return {}
        writer, self._writer = self._writer, None
        with self._named_errors():
            writer.close()
            reader = ArrayRecordReader(str(self._path))
            if reader.num_records() != self._num_records:
                raise RuntimeError(f"{reader.num_records()} of {self._num_records} records arrived")
            reader.close()
            with self._path.open("rb") as shard:
                os.fsync(shard.fileno())
        self._num_records = self._num_bytes = 0
        return {self._path.name: sha256_of(self._path)}

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """ArrayRecord says everything, a full disk too, by RuntimeError, with the system's words in it."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).split(";")[0]
            raise UserError(
                f"{self._path}: cannot be written ({reason}); mend that and run the same command again"
            ) from error

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.close()
