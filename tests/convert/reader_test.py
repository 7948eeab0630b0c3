import errno
import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from muq_jax.convert import reader
from muq_jax.errors import UserError

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.ones(3, np.float16),
    "b.weight": np.full((2,), 0.5, ml_dtypes.bfloat16),
    "counter": np.array(4, np.int64),
}


def assert_equal(found):
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


def write_shards(folder):
    names = sorted(TENSORS)
    placed = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(placed.values()):
        save_file({name: TENSORS[name] for name in names if placed[name] == file}, folder / file)
    (folder / reader.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return placed


def test_one_file(tmp_path):
    reader.write_tensors(tmp_path / reader.WEIGHTS, TENSORS)
    assert_equal(reader.read_tensors(tmp_path))


def test_transposed_arrays_are_written_in_their_own_order(tmp_path):
    array = np.arange(6.0).reshape(2, 3).T
    reader.write_tensors(tmp_path / reader.WEIGHTS, {"x": array})
    np.testing.assert_array_equal(reader.read_tensors(tmp_path)["x"], array)


def test_shards(tmp_path):
    write_shards(tmp_path)
    assert_equal(reader.read_tensors(tmp_path))


def test_a_missing_shard_is_named(tmp_path):
    placed = write_shards(tmp_path)
    (tmp_path / placed["counter"]).unlink()
    with pytest.raises(UserError, match=placed["counter"]):
        reader.read_tensors(tmp_path)


def test_a_tensor_that_no_shard_holds_is_named(tmp_path):
    placed = write_shards(tmp_path) | {"ghost": "model-00001-of-00002.safetensors"}
    (tmp_path / reader.INDEX).write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(UserError, match="ghost"):
        reader.read_tensors(tmp_path)


def test_a_tensor_in_another_shard_than_the_index_says_is_named(tmp_path):
    placed = write_shards(tmp_path)
    other = next(file for file in placed.values() if file != placed["counter"])
    rest = {name: TENSORS[name] for name in TENSORS if placed[name] == other}
    save_file(rest | {"counter": np.array(5)}, tmp_path / other)
    with pytest.raises(UserError, match=f"{other} holds counter, which {reader.INDEX} does not say"):
        reader.read_tensors(tmp_path)


def test_shards_of_pytorchs_own(torch_format, tmp_path):
    placed = {}
    for i, (name, tensor) in enumerate(TENSORS.items()):
        placed[name] = f"pytorch_model-{i + 1:05}-of-00004.bin"
        torch_format(tmp_path / placed[name], {name: tensor})
    (tmp_path / reader.TORCH_INDEX).write_text(json.dumps({"weight_map": placed}))
    assert_equal(reader.read_tensors(tmp_path))


def test_an_index_that_leaves_its_folder_is_refused(tmp_path):
    (tmp_path / reader.INDEX).write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(UserError, match="plain file name"):
        reader.read_tensors(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-5], lambda b: b[:4], lambda b: b"", lambda b: b"not weights at all"]
)
def test_a_damaged_file_is_an_error(tmp_path, damage):
    path = tmp_path / reader.WEIGHTS
    reader.write_tensors(path, TENSORS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="not a whole safetensors file"):
        reader.read_tensors(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
def test_pytorchs_own_files(torch_format, tmp_path, name):
    torch_format(tmp_path / name, TENSORS)
    assert_equal(reader.read_tensors(tmp_path))


def test_safetensors_come_first_and_two_others_are_a_question(torch_format, tmp_path):
    for name in ("a.pt", "b.pt"):
        torch_format(tmp_path / name, {"x": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=r"has a\.pt and b\.pt, and neither .* give the path of one"):
        reader.read_tensors(tmp_path)
    reader.write_tensors(tmp_path / reader.WEIGHTS, TENSORS)
    assert_equal(reader.read_tensors(tmp_path))


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no model\.safetensors.*not a model folder"):
        reader.read_tensors(tmp_path)


@pytest.mark.parametrize(
    "text, says", [(None, "does not exist"), ("{", "not readable as JSON"), ("[]", "JSON list")]
)
def test_configuration_errors(tmp_path, text, says):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=says):
        reader.read_json(tmp_path / "config.json")


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    reader.write_tensors(tmp_path / reader.WEIGHTS, TENSORS)
    (tmp_path / reader.CONFIG).write_text("{}")

    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(UserError, match=r"model\.safetensors could not be read: Permission denied"):
        reader.read_tensors(tmp_path)
    with pytest.raises(UserError, match=r"config\.json could not be read: Permission denied"):
        reader.read_json(tmp_path / reader.CONFIG)
