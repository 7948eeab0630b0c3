"""Files in the format of `torch.save`, made without torch."""

import builtins
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
}


class _Tensor:
    """A tensor of a torch file: a storage's number, and where in it the tensor lies."""

    def __init__(self, storage, offset, size, stride):
        self.where = storage, offset, size, stride


class _Reference:
    """What a pickle's persistent id stands for."""

    def __init__(self, identity):
        self.identity = identity


@pytest.fixture
def torch_format(monkeypatch):
    """Returns a function that writes arrays nested in dicts, and `Tensor`s, as torch.save would.

    Names of torch are stand-ins, which the pickle only refers to.
    """
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in [*STORAGES.values(), "Size"]:
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    def _rebuild_tensor_v2():
        raise AssertionError("only its name is used")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return obj.identity if isinstance(obj, _Reference) else None

        def reducer_override(self, obj):
            if not isinstance(obj, _Tensor):
                return NotImplemented
            (dtype, key, count), *where = obj.where
            reference = _Reference(("storage", getattr(torch, STORAGES[dtype]), key, "cpu", count))
            return _rebuild_tensor_v2, (reference, *where, False, OrderedDict())

    def write(path, value, *, compression=zipfile.ZIP_STORED, cut=0, byteorder=b"little"):
        storages = []

        def with_tensors(part):
            if isinstance(part, dict):
                return OrderedDict((name, with_tensors(p)) for name, p in part.items())
            if isinstance(part, types.SimpleNamespace):
                return _Tensor(store(part.storage), part.offset, part.size, part.stride)
            if not isinstance(part, np.ndarray):
                return part
            stride = tuple(s // part.itemsize for s in np.ascontiguousarray(part).reshape(part.shape).strides)
            return _Tensor(store(part), 0, part.shape, stride)

        def store(array):
            storages.append(np.ascontiguousarray(array).tobytes())
            return array.dtype, str(len(storages) - 1), array.size

        tree = with_tensors(value)
        with monkeypatch.context() as patched, zipfile.ZipFile(path, "w", compression) as archive:
            patched.setitem(sys.modules, "torch", torch)
            patched.setitem(sys.modules, "torch._utils", utils)
            with archive.open("archive/data.pkl", "w") as file:
                Pickler(file, protocol=2).dump(tree)
            archive.writestr("archive/byteorder", byteorder)
            for number, data in enumerate(storages):
                archive.writestr(f"archive/data/{number}", data[: len(data) - cut])

    return write


@pytest.fixture
def without(monkeypatch):
    """Returns a function after which a package is as if it were not installed."""
    importing = builtins.__import__

    def remove(package):
        def imported(name, *rest, **more):
            if name == package:
                raise ImportError(name)
            return importing(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", imported)

    return remove
