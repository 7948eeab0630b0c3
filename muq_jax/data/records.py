"""One record of a shard: a small JSON header and up to a minute of mono audio, as FLAC or plain PCM, 16 bits.

    4 bytes  length of the header, little endian
    header   JSON: id, clip, start_seconds, num_samples, sample_rate_hz, codec
    rest     the samples
"""

import io
import json
import struct
from typing import Any

import numpy as np
import soundfile

from muq_jax.errors import UserError

CODECS = ("flac", "pcm16")
SHARD_SUFFIX = ".array_record"
# A whole number of ones is what int16 can hold; louder samples, which resampling and lossy codecs make, are clipped.
_FULL_SCALE = 32768.0
_LENGTH = struct.Struct("<I")


def encode_record(header: dict[str, Any], wave: np.ndarray, codec: str) -> bytes:
    """Returns the record's bytes.

    Args:
      header: what to keep beside the samples; must have `sample_rate_hz`. `codec` and `num_samples` are added.
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
    head = json.dumps({**header, "num_samples": len(pcm), "codec": codec}, ensure_ascii=False).encode()
    return _LENGTH.pack(len(head)) + head + samples


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
        raise UserError(f"{where}: not a record that `prepare` wrote ({error}); prepare the corpus again") from error
    return header, pcm.astype(np.float32) / np.float32(_FULL_SCALE)
