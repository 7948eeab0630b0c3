import os
import pickle

import ml_dtypes
import numpy as np
import pytest

from muq_jax.convert import legacy
from muq_jax.convert.reader import read_file
from muq_jax.errors import UserError

NUMBER = 0x1950A86A20F9469CFC6C  # of torch.serialization: what such a file's first pickle holds


@pytest.fixture
def header():
    return pickle.dumps(NUMBER, protocol=2)


def test_without_torch_the_file_is_known_and_the_extra_named(header, tmp_path, without):
    (tmp_path / "old.pt").write_bytes(header + b"more")
    without("torch")
    with pytest.raises(UserError, match=r'old.pt was written by a torch before 1\.6.*"muq-jax\[torch\]"'):
        read_file(tmp_path / "old.pt")


def test_other_files_are_not_legacy(header, tmp_path):
    (tmp_path / "cut.pt").write_bytes(header[:-1])
    (tmp_path / "zip.pt").write_bytes(b"PK\x03\x04")
    assert not any(legacy.is_legacy(tmp_path / name) for name in ("cut.pt", "zip.pt", "none.pt"))


@pytest.mark.torch
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_tensors_are_read_through_torch(tmp_path, wrap):
    import torch

    state = {
        "a": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "b": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "c": torch.tensor(7),
    }
    torch.save(wrap(state), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    found = read_file(tmp_path / "old.bin")
    np.testing.assert_array_equal(found["a"], np.arange(6.0).reshape(2, 3).T)
    assert found["b"].dtype == ml_dtypes.bfloat16 and found["b"].tolist() == [1, 1]
    assert found["c"] == 7


class Payload:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


@pytest.mark.torch
def test_a_pickle_that_would_run_something_does_not(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"a": Payload()}, "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"old\.pt was not read by torch"):
        read_file(tmp_path / "old.pt")
    assert not (tmp_path / "made_by_a_pickle").exists()


@pytest.mark.torch
def test_what_holds_no_state_dict_is_refused(tmp_path):
    import torch

    torch.save(torch.ones(2), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="holds a tensor; a state dict"):
        read_file(tmp_path / "old.pt")
