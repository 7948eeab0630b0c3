import io
import os
import pickle
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from muq_jax.convert.torch_file import read_state_dict
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


def tensor_opcodes(then=b""):
    """A tensor of six numbers of the storage 0, memoised as 1, and what is to follow."""
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("
        b"X\x07\x00\x00\x00storagectorch\nBFloat16Storage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
        b"K\x00K\x06\x85K\x01\x85\x89}tRq\x01" + then
    )


@pytest.mark.parametrize(
    "attack",
    [
        b"}X\x05\x00\x00\x00shapeK\x09sb",  # BUILD on a tensor: a dict for its attributes
        b"(K\x01K\x06\x85cbuiltins\nbytes\n\x89Ntb",
        b"(K\x01(K\x06tctorch\nBFloat16Storage\n\x89X\x0c\x00\x00\x00" + bytes(12) + b"tb",  # ndarray's state
        b"K\x00K\x01s",  # SETITEM into a tensor
        b"K\x01a",  # APPEND to one
    ],
)
def test_a_tensor_on_the_stack_cannot_be_changed(tmp_path, attack):
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}X\x01\x00\x00\x00w" + tensor_opcodes(attack)[2:] + b"s.")
        archive.writestr("x/data/0", bytes(12))
    with pytest.raises(UserError):
        read_state_dict(tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "y.bin", "w") as archive:  # the same without the attack is a state dict
        archive.writestr("x/data.pkl", b"\x80\x02}X\x01\x00\x00\x00w" + tensor_opcodes()[2:] + b"s.")
        archive.writestr("x/data/0", bytes(12))
    assert read_state_dict(tmp_path / "y.bin")["w"].shape == (6,)


def test_the_types_of_storages_cannot_be_changed(tmp_path):
    """torch._utils._rebuild_parameter once handed out what BUILD could write to."""
    before = np.dtype(ml_dtypes.bfloat16).itemsize
    pickled = b"\x80\x02ctorch._utils\n_rebuild_parameter\n(ctorch\nBFloat16Storage\n\x89}tR}b."
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("x/data.pkl", pickled)
    with pytest.raises(UserError, match="a parameter that is no tensor"):
        read_state_dict(tmp_path / "x.bin")
    assert np.dtype(ml_dtypes.bfloat16).itemsize == before == 2


def test_many_tensors_take_one_file(torch_format, tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    torch_format(tmp_path / "x.pt", {f"w{i}": np.full(2, i, np.float32) for i in range(400)})
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        found = read_state_dict(tmp_path / "x.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found["w399"].tolist() == [399, 399]


def test_an_archive_is_not_inflated_beyond_what_its_tensors_need(torch_format, tmp_path):
    import tracemalloc

    torch_format(tmp_path / "x.pt", {"w": np.ones(4, np.float32)}, compression=zipfile.ZIP_DEFLATED)
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as whole,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name) + (bytes(200 * 2**20) if name.endswith("data/0") else b""))
    tracemalloc.start()
    assert read_state_dict(tmp_path / "y.pt")["w"].tolist() == [1, 1, 1, 1]
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()
    with zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("x/data.pkl", bytes(101 * 2**20))
    with pytest.raises(UserError, match="has more than"):
        read_state_dict(tmp_path / "z.pt")


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
