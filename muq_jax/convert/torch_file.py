"""Reads the tensors of a file that `torch.save` wrote, without torch and without running anything in it.

Since torch 1.6 such a file is a zip archive of `NAME/data.pkl`, a pickle in which every tensor is a call of a
rebuilding function on a storage, and of `NAME/data/KEY`, the bytes of each storage, uncompressed. The pickle
is read by an unpickler that knows the handful of names which tensors are made of; any other name is refused
before anything is imported or called. No array is made before the pickle has been read to its end: what it
can reach by then are texts, numbers and tuples of ours, none of which it could change.
"""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from muq_jax.errors import UserError

_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

# What a checkpoint wraps its state dict in: Lightning and most trainers; fairseq.
_WRAPPERS = ("state_dict", "model", "model_state_dict")

_LARGEST_PICKLE = 100 * 2**20  # bytes; a state dict of ten thousand tensors has two million
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name and extra field, whose lengths end it


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch file by name, as read-only arrays mapped from the file.

    The file holds a state dict, or a dict with one under "state_dict", "model" or "model_state_dict". Pages
    are read from the disk as they are needed.

    Raises:
        UserError: the file is no whole zip archive of torch's, refers to anything but tensors, or holds no
            state dict.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(path, archive)
            pickled = _member(archive, f"{root}data.pkl", _LARGEST_PICKLE)
            tensors = unwrapped(path, _Unpickler(pickled, path).load(), _TensorRef)
            storages = _Storages(path, archive, f"{root}data/")
            return {name: storages.tensor(tensor) for name, tensor in tensors.items()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except UserError:
        raise
    except Exception as error:  # a pickle of anything can fail in any way
        raise UserError(f"{path} is not a whole PyTorch file: {error}. Download or save it again.") from error


class _StorageType(NamedTuple):
    """torch.FloatStorage and its kin."""

    name: str


class _StorageRef(NamedTuple):
    type: str
    key: str
    num_elements: int


class _TensorRef(NamedTuple):
    storage: _StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Rebuild:
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _TensorRef:
        if type(storage) is not _StorageRef or any(type(n) is not int for n in (offset, *size, *stride)):
            raise pickle.UnpicklingError("a tensor of something else than a storage and numbers")
        return _TensorRef(storage, offset, tuple(size), tuple(stride))


class _Parameter:
    """torch._utils._rebuild_parameter(tensor, requires_grad, hooks)."""

    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> _TensorRef:
        if type(data) is not _TensorRef:
            raise pickle.UnpicklingError("a parameter that is no tensor")
        return data


class _Size:
    """torch.Size(numbers)."""

    __slots__ = ()

    def __call__(self, numbers: Any = ()) -> tuple[int, ...]:
        if any(type(n) is not int for n in numbers):
            raise pickle.UnpicklingError("a size that is no numbers")
        return tuple(numbers)


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): _Size(),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    ("torch._utils", "_rebuild_parameter"): _Parameter(),
    **{("torch", name): _StorageType(name) for name in _DTYPES},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler of references to tensors."""

    def __init__(self, pickled: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(pickled))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise UserError(
                f"{self._path} was not read: it asks for {module}.{name}, and a file of weights needs "
                "nothing but tensors. Nothing in it was run. If you trust the file, save its state dict "
                "alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW_FILE)."
            ) from None

    def persistent_load(self, pid: Any) -> _StorageRef:
        kind, storage, key, _, num_elements = pid
        if kind != "storage" or type(storage) is not _StorageType or type(key) is not str:
            raise pickle.UnpicklingError(f"a reference to {kind!r}")
        if type(num_elements) is not int or num_elements < 0:
            raise pickle.UnpicklingError("a storage of no whole number of elements")
        return _StorageRef(storage.name, key, num_elements)


class _Storages:
    """The storages of an archive, mapped from the file at once."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive, self._folder = archive, folder
        self._file = np.memmap(path, np.uint8, "r")

    def tensor(self, ref: _TensorRef) -> np.ndarray:
        """A tensor as a read-only view; numpy refuses one that does not lie within its storage."""
        storage = self._storage(ref.storage)
        width = storage.itemsize
        stride = [step * width for step in ref.stride]
        return np.ndarray(ref.size, storage.dtype, storage, ref.offset * width, stride)

    def _storage(self, ref: _StorageRef) -> np.ndarray:
        """A storage, mapped, or read where somebody has compressed it."""
        info, dtype = self._archive.getinfo(self._folder + ref.key), _DTYPES[ref.type]
        size = ref.num_elements * dtype.itemsize
        if info.file_size < size:
            raise ValueError(f"{info.filename} has {info.file_size} bytes, too few")
        if info.compress_type != zipfile.ZIP_STORED:
            return np.frombuffer(_member(self._archive, info.filename, size, exactly=True), dtype)
        # A local header repeats the name and has an extra field of its own.
        lengths = info.header_offset + _LOCAL_HEADER - 4
        start = lengths + 4 + int(self._file[lengths : lengths + 4].view("<u2").sum())
        data = self._file[start : start + size]
        if data.size < size:
            raise ValueError(f"{info.filename} lies beyond the end of the file")
        return data.view(dtype)


def _root(path: Path, archive: zipfile.ZipFile) -> str:
    """What torch has put before the names of an archive's members."""
    names = archive.namelist()
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(f"{path} is a zip archive, but none that torch.save wrote: no data.pkl.")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names and _member(archive, f"{root}byteorder", 16) != b"little":
        raise UserError(f"{path} was written on a big-endian machine; save it anew on another.")
    return root


def _member(archive: zipfile.ZipFile, name: str, most: int, *, exactly: bool = False) -> bytes:
    """A member's first bytes; an archive may say anything of how large it becomes."""
    with archive.open(name) as file:
        data = file.read(most if exactly else most + 1)
    if exactly and len(data) < most:
        raise ValueError(f"{name} has {len(data)} bytes, too few")
    if not exactly and len(data) > most:
        raise ValueError(f"{name} has more than {most} bytes")
    return data


def unwrapped(path: Path, found: Any, tensor_type: type) -> dict[str, Any]:
    """The tensors in what a file holds, by name.

    Raises:
        UserError: there is something else, or nothing.
    """
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
            break
    if not isinstance(found, Mapping):
        kind = "tensor" if isinstance(found, tensor_type) else type(found).__name__
        raise UserError(f"{path} holds a {kind}; a state dict (name to tensor) is expected.")
    others = [repr(name) for name, value in found.items() if not isinstance(value, tensor_type)]
    if others or not found:
        shown = f"{', '.join(others[:8])}, which {'is' if len(others) == 1 else 'are'} no tensor"
        raise UserError(f"{path} holds no state dict: it has {shown if others else 'nothing in it'}.")
    return {str(name): tensor for name, tensor in found.items()}
