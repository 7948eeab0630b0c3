"""A file of records, each on the disk before the next; one that a kill has cut short is left out."""

import io
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# Before each record: bytes of its description and of its array, and a checksum of both.
_FRAME = struct.Struct("<III")
_SHAPE = struct.Struct("<II")


class Journal:
    """Records of a description, which JSON can hold, and a float32 array [N, D] or none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: io.FileIO | None = None

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the position and the description of every whole record, and cuts off what is after them."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            end = 0
            while (record := _read(file)) is not None:
                yield end, record[0]
                end = file.tell()
        if end < self.path.stat().st_size:
            os.truncate(self.path, end)

    def read(self, position: int) -> np.ndarray:
        """Returns the array of the record at a position of `records` or `append`."""
        with self.path.open("rb") as file:
            file.seek(position)
            record = _read(file)
        assert record is not None and record[1] is not None
        return record[1]

    def append(self, described: dict[str, Any], array: np.ndarray | None) -> int:
        """Adds a record and returns its position; it is on the disk when this returns."""
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)  # a buffer would be written once more when closed
        position = self._file.tell()
        text = json.dumps(described).encode()
        data = _SHAPE.pack(*((0, 0) if array is None else array.shape))
        data += b"" if array is None else np.ascontiguousarray(array, "<f4").tobytes()
        record = memoryview(_FRAME.pack(len(text), len(data), zlib.crc32(text + data)) + text + data)
        while record:
            record = record[self._file.write(record) :]
        os.fsync(self._file.fileno())
        return position

    def close(self) -> None:
        """Closes the file; the next record opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Deletes the file with all records."""
        self.close()
        self.path.unlink(missing_ok=True)


def _read(file: BinaryIO) -> tuple[dict[str, Any], np.ndarray | None] | None:
    """The record where a file stands; None if there is no whole one."""
    frame = file.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    num_text, num_data, check = _FRAME.unpack(frame)
    body = file.read(num_text + num_data)
    if len(body) < num_text + num_data or zlib.crc32(body) != check:
        return None
    shape = _SHAPE.unpack_from(body, num_text)
    array = np.frombuffer(body, "<f4", offset=num_text + _SHAPE.size).reshape(shape) if shape[0] else None
    return json.loads(body[:num_text]), array
