"""Reads the tensors of a file that `torch.save` wrote, without torch and without running anything in it.

Since torch 1.6 such a file is a zip archive of `NAME/data.pkl`, a pickle in which every tensor is a call of a
rebuilding function on a storage, and of `NAME/data/KEY`, the bytes of each storage, uncompressed. The pickle
is read by an unpickler that knows the handful of names which tensors are made of; any other name is refused
before anything is imported or called.
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
    found = _load(path)
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
            break
    if not isinstance(found, Mapping):
        raise UserError(f"{path} holds a {type(found).__name__}; a state dict (name to tensor) is expected.")
    others = [repr(name) for name, value in found.items() if not isinstance(value, np.ndarray)]
    if others or not found:
        shown = f"{', '.join(others[:8])}, which {'is' if len(others) == 1 else 'are'} no tensor"
        raise UserError(f"{path} holds no state dict: it has {shown if others else 'nothing in it'}.")
    return {str(name): array for name, array in found.items()}


def is_torch_zip(path: Path) -> bool:
    """Whether a file is a zip archive, as torch has written since 1.6; older ones are bare pickles."""
    return zipfile.is_zipfile(path)


class _Storage(NamedTuple):
    dtype: np.dtype


class _Call:
    """A name of the pickle that may be called. Without attributes, so that no pickle can change it."""

    __slots__ = ()


class _Rebuild(_Call):
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
        if not isinstance(storage, np.ndarray):
            raise pickle.UnpicklingError("a tensor without a storage")
        width = storage.itemsize
        # numpy refuses what does not lie within its buffer.
        return np.ndarray(size, storage.dtype, storage, offset * width, [step * width for step in stride])


class _Parameter(_Call):
    """torch._utils._rebuild_parameter(tensor, requires_grad, hooks)."""

    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> Any:
        return data


class _Size(_Call):
    """torch.Size(numbers)."""

    __slots__ = ()

    def __call__(self, numbers: Any = ()) -> tuple[Any, ...]:
        return tuple(numbers)


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): _Size(),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    ("torch._utils", "_rebuild_parameter"): _Parameter(),
    **{("torch", name): _Storage(dtype) for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler of tensors only."""

    def __init__(self, pickled: bytes, path: Path, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(pickled))
        self._path, self._archive, self._root = path, archive, root
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise UserError(
                f"{self._path} was not read: it asks for {module}.{name}, and a file of weights needs "
                "nothing but tensors. Nothing in it was run. If you trust the file, save its state dict "
                "alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW_FILE)."
            ) from None

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, storage, key, _, num_elements = pid
        if kind != "storage" or not isinstance(storage, _Storage) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"a reference to {kind!r}")
        if key not in self._storages:
            self._storages[key] = self._map(f"{self._root}data/{key}", storage.dtype, num_elements)
        return self._storages[key]

    def _map(self, name: str, dtype: np.dtype, num_elements: int) -> np.ndarray:
        """The storage as an array mapped from the file, or read where somebody has compressed it."""
        info = self._archive.getinfo(name)
        if info.file_size < num_elements * dtype.itemsize:
            raise pickle.UnpicklingError(f"{name} has {info.file_size} bytes, too few")
        if info.compress_type != zipfile.ZIP_STORED:
            return np.frombuffer(self._archive.read(info), dtype, num_elements)
        if not num_elements:
            return np.zeros(0, dtype)
        with self._path.open("rb") as file:
            file.seek(info.header_offset + _LOCAL_HEADER - 4)
            lengths = np.frombuffer(file.read(4), "<u2")
        start = info.header_offset + _LOCAL_HEADER + int(lengths.sum())
        return np.memmap(self._path, dtype, "r", start, (num_elements,))


def _load(path: Path) -> Any:
    """Whatever a torch zip holds, its tensors as arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise UserError(f"{path} is a zip archive, but none that torch.save wrote: no data.pkl.")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
                raise UserError(f"{path} was written on a big-endian machine; save it anew on another.")
            return _Unpickler(archive.read(pickles[0]), path, archive, root).load()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except UserError:
        raise
    except Exception as error:  # a pickle of anything can fail in any way
        raise UserError(
            f"{path} is not a whole PyTorch file ({error}). Download or save it again."
        ) from error
