"""Safetensors files, mapped and streamed: neither reading nor writing holds a whole model in memory.

The library `safetensors` copies every tensor that it reads and gathers all bytes before it writes. The format
(an 8-byte length, a JSON header, the tensors' bytes without gaps) is its own; the tests read with each what
the other has written.
"""

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_LENGTH = 8  # bytes of the header's length
_LARGEST_HEADER = 100 * 2**20  # as the library: a damaged length must not ask for terabytes


class _Place(NamedTuple):
    dtype: np.dtype
    shape: list[int]
    first: int  # byte of the file
    stop: int


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name, as read-only arrays mapped from it.

    Raises:
        ValueError: the file is not a whole one.
        OSError: it cannot be read.
    """
    places = _places(path)
    data = np.memmap(path, np.uint8, "r")
    return {
        name: data[place.first : place.stop].view(place.dtype).reshape(place.shape)
        for name, place in places.items()
    }


class Stored(Mapping[str, np.ndarray]):
    """Some tensors of a file, each read from the disk when it is asked for, and not kept."""

    def __init__(self, path: Path, names: Collection[str]) -> None:
        """The errors are those of `read`."""
        self._path, self._names, self._places = path, names, _places(path)

    def __getitem__(self, name: str) -> np.ndarray:
        place = self._places[name]
        with self._path.open("rb") as file:
            file.seek(place.first)
            data = file.read(place.stop - place.first)
        return np.frombuffer(data, place.dtype).reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file that PyTorch reads as its own, a tensor at a time."""
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # wide types first: aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        array = tensors[name]
        header[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(_LENGTH, "little") + text)
        for name in names:
            array = tensors[name].astype(tensors[name].dtype.newbyteorder("<"), order="C", copy=False)
            file.write(array.reshape(-1).view(np.uint8).data)


def _places(path: Path) -> dict[str, _Place]:
    """Where each tensor of a file lies, by its header."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH), "little")
        if size < _LENGTH or length > min(size - _LENGTH, _LARGEST_HEADER):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        try:
            header = json.loads(file.read(length).decode("utf-8"))
        except RecursionError:
            raise ValueError("a header nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("a header that is no object")
    header.pop("__metadata__", None)
    start = end = _LENGTH + length
    places = {name: _place(name, entry, start) for name, entry in header.items()}
    for place in sorted(places.values(), key=lambda place: (place.first, place.stop)):
        if place.first != end:
            raise ValueError(f"tensors that overlap or leave a gap at byte {end}")
        end = place.stop
    if end != size:
        raise ValueError(f"{size} bytes where the header lists {end}")
    return places


def _place(name: str, entry: Any, start: int) -> _Place:
    """Type, shape, first and last byte that a header gives a tensor."""
    try:
        dtype, shape, (first, stop) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        counts = [first, stop, *shape]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"an entry for {name} that cannot be") from None
    if any(type(n) is not int or n < 0 for n in counts):
        raise ValueError(f"an entry for {name} that cannot be")
    if stop - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{stop - first} bytes for {name}, of shape {shape}")
    return _Place(dtype, shape, start + first, start + stop)
