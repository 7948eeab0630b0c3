"""Whether a file lost its end, where the decoder does not tell.

libsndfile refuses a FLAC or CAF that was cut short; of a WAV, AIFF, AU or Ogg file it decodes the rest
without a word.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

# The longest Ogg page: 27 bytes of header, 255 lacing values, 255 segments of 255 bytes.
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
# What a program that writes to a pipe leaves in the header: it cannot go back and fill the length in.
_UNKNOWN_LENGTHS = (0, 0xFFFFFFFF)


def missing_end(path: str | os.PathLike) -> str | None:
    """Says what is missing at the end of a WAV, AIFF, AU or Ogg file; None if nothing, and for others."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        head = file.read(12)
        match head[:4], head[8:]:
            case b"RIFF", b"WAVE":
                end = _chunk_end(file, b"data", "<I")
            case b"FORM", b"AIFF" | b"AIFC":
                end = _chunk_end(file, b"SSND", ">I")
            case b".snd", _:
                start, length = struct.unpack(">II", head[4:12])
                end = None if length in _UNKNOWN_LENGTHS else start + length
            case b"OggS", _:
                return (
                    None if _ogg_ends(file, size) else "its last Ogg page is cut or does not end the stream"
                )
            case _:
                return None
    if end is None or end <= size:
        return None
    return f"its header promises {end:,} bytes and it has {size:,}"


def _chunk_end(file: BinaryIO, name: bytes, length_format: str) -> int | None:
    """The byte after the chunk of that name, by the chunk's own header; None if the file does not say."""
    while len(header := file.read(8)) == 8:
        (length,) = struct.unpack(length_format, header[4:])
        if header[:4] == name:
            return None if length in _UNKNOWN_LENGTHS else file.tell() + length
        file.seek(length + length % 2, os.SEEK_CUR)
    return None


def _ogg_ends(file: BinaryIO, size: int) -> bool:
    """Whether the last page is whole and carries the end-of-stream flag."""
    file.seek(max(0, size - _OGG_PAGE_BYTES))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27:
        return False
    flags, num_segments = page[5], page[26]
    return bool(flags & 4) and len(page) >= 27 + num_segments + sum(page[27 : 27 + num_segments])
