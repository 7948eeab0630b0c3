import io
import os
import pickle
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from muq_jax.convert.torch_file import is_torch_zip, read_state_dict
from muq_jax.errors import UserError

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.ones(3, np.float16),
    "b.weight": np.full((2,), 0.5, ml_dtypes.bfloat16),
    "counter": np.array(4, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


def assert_equal(found, wanted=TENSORS):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_state_dict(torch_format, tmp_path, compression):
    torch_format(tmp_path / "x.bin", TENSORS, compression=compression)
    assert is_torch_zip(tmp_path / "x.bin")
    assert_equal(read_state_dict(tmp_path / "x.bin"))


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_a_checkpoint_around_it(torch_format, tmp_path, wrapper):
    torch_format(tmp_path / "x.ckpt", {"epoch": 3, wrapper: TENSORS, "optimizer": {"lr": 0.1}})
    assert_equal(read_state_dict(tmp_path / "x.ckpt"))


def test_a_view_of_a_storage_is_read_as_torch_sees_it(torch_format, tmp_path):
    storage = np.arange(12, dtype=np.float32)
    transposed = types.SimpleNamespace(storage=storage, offset=1, size=(2, 3), stride=(1, 4))
    torch_format(tmp_path / "x.pt", {"w": transposed})
    np.testing.assert_array_equal(read_state_dict(tmp_path / "x.pt")["w"], [[1, 5, 9], [2, 6, 10]])


def test_tensors_are_mapped_not_read(torch_format, tmp_path):
    torch_format(tmp_path / "x.pt", TENSORS)
    array = read_state_dict(tmp_path / "x.pt")["a.weight"]
    assert not array.flags.writeable
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert isinstance(array, np.memmap)


class Harmful:
    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


def test_a_pickle_that_would_run_something_is_refused_and_does_not(tmp_path):
    witness = tmp_path / "witness"
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"w": Harmful(os.system, f"touch {witness}")}, 2))
    with pytest.raises(UserError, match=r"asks for (posix|nt|os)\.system.*Nothing in it was run"):
        read_state_dict(tmp_path / "x.bin")
    assert not witness.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",  # GLOBAL, REDUCE
        b"(X\x03\x00\x00\x001+1ibuiltins\neval\n.",  # INST
        b"\x80\x04X\x08\x00\x00\x00builtinsX\x04\x00\x00\x00eval\x93.",  # STACK_GLOBAL
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__call__K\x01sb.",  # BUILD on an allowed name
        b"ccollections\nOrderedDict\n}X\x08\x00\x00\x00__call__K\x01sb.",
        b"ctorch\nFloatStorage\n}X\x05\x00\x00\x00dtypeK\x01sb.",
        b"\x82\x01.",  # EXT1
    ],
)
def test_no_opcode_reaches_or_changes_a_name(tmp_path, opcodes):
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("x/data.pkl", opcodes)
    with pytest.raises(UserError):
        read_state_dict(tmp_path / "x.bin")


@pytest.mark.parametrize(
    "offset, size, stride",
    [
        (0, (4,), (2,)),
        (5, (1,), (1,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
        (2**62, (1,), (1,)),
        (0, (2**62,), (4,)),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(torch_format, tmp_path, offset, size, stride):
    storage = np.zeros(5, np.float32)
    view = types.SimpleNamespace(storage=storage, offset=offset, size=size, stride=stride)
    torch_format(tmp_path / "x.pt", {"w": view})
    with pytest.raises(UserError, match=r"x\.pt is not a whole PyTorch file"):
        read_state_dict(tmp_path / "x.pt")


def test_a_storage_cut_short_is_refused(torch_format, tmp_path):
    torch_format(tmp_path / "x.pt", {"w": np.ones(3, np.float32)}, cut=1)
    with pytest.raises(UserError, match="has 11 bytes, too few"):
        read_state_dict(tmp_path / "x.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_cut_short_is_refused(torch_format, tmp_path, share):
    torch_format(tmp_path / "x.pt", TENSORS)
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="not a whole PyTorch file"):
        read_state_dict(tmp_path / "x.pt")


def test_garbage_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    rng = np.random.default_rng(0)
    for _ in range(50):
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr("x/data.pkl", rng.bytes(int(rng.integers(1, 60))))
        path.write_bytes(whole.getvalue())
        with pytest.raises(UserError):
            read_state_dict(path)


def test_what_is_no_state_dict_is_named(torch_format, tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(UserError, match="does not exist"):
        read_state_dict(path)
    torch_format(path, {"epoch": 3, "w": np.ones(2, np.float32)})
    with pytest.raises(UserError, match="it has 'epoch', which is no tensor"):
        read_state_dict(path)
    torch_format(path, {})
    with pytest.raises(UserError, match="it has nothing in it"):
        read_state_dict(path)
    torch_format(path, np.ones(2, np.float32))
    with pytest.raises(UserError, match=r"holds a \w+; a state dict"):
        read_state_dict(path)
    torch_format(path, TENSORS, byteorder=b"big")
    with pytest.raises(UserError, match="big-endian"):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(UserError, match=r"none that torch.save wrote: no data\.pkl"):
        read_state_dict(path)
