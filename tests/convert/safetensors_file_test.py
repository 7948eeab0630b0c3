import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from muq_jax.convert import safetensors_file

TYPES = [
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    np.int64,
    np.int32,
    np.int16,
    np.int8,
    np.uint8,
]


def arrays():
    shapes = st.lists(st.integers(0, 4), max_size=3)
    return st.tuples(st.sampled_from(TYPES), shapes, st.integers(0, 99)).map(
        lambda drawn: np.random.default_rng(drawn[2]).integers(0, 9, drawn[1]).astype(drawn[0])
    )


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5).filter(lambda n: n != "__metadata__"), arrays()))
def test_the_library_and_ours_read_each_other(tmp_path_factory, tensors):
    folder = tmp_path_factory.mktemp("files")
    safetensors_file.write(folder / "ours", tensors)
    assert_equal(load_file(folder / "ours"), tensors)
    assert_equal(safetensors_file.read(folder / "ours"), tensors)
    save_file(tensors, folder / "theirs")
    assert_equal(safetensors_file.read(folder / "theirs"), tensors)


def test_booleans_and_other_orders(tmp_path):
    tensors = {"mask": np.array([True, False]), "turned": np.arange(6.0).reshape(2, 3).T}
    tensors["big"] = np.arange(3, dtype=">f4")
    safetensors_file.write(tmp_path / "x", tensors)
    found = safetensors_file.read(tmp_path / "x")
    np.testing.assert_array_equal(found["mask"], tensors["mask"])
    np.testing.assert_array_equal(found["turned"], tensors["turned"])
    np.testing.assert_array_equal(found["big"], [0, 1, 2])


def test_tensors_are_mapped_not_read(tmp_path):
    safetensors_file.write(tmp_path / "x", {"w": np.ones((2, 3), np.float32)})
    array = safetensors_file.read(tmp_path / "x")["w"]
    assert not array.flags.writeable
    assert isinstance(array, np.memmap)


def damaged(entry):
    header = json.dumps({"w": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


def two_entries(first, second, shape=2):
    entries = [{"dtype": "F32", "shape": [shape], "data_offsets": place} for place in (first, second)]
    header = json.dumps({"a": entries[0], "b": entries[1]}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{]",
        (2).to_bytes(8, "little") + b"\xff\xfe",
        (2).to_bytes(8, "little") + b"{}" + bytes(4),
        damaged({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}),
        damaged({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}),
        damaged({"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}),
        damaged({"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}),
        damaged({"dtype": "F7", "shape": [2], "data_offsets": [0, 8]}),
        damaged({"dtype": "F32", "shape": [2], "data_offsets": [0]}),
        damaged({"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}),
        damaged(["F32"]),
        (40_000).to_bytes(8, "little") + b"[" * 40_000,
        two_entries([0, 8], [0, 8]),
        two_entries([0, 4], [4, 8], shape=1)[:-8] + bytes(9),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError):
        safetensors_file.read(tmp_path / "x")
