import json
from pathlib import Path

import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.inference import store_writer
from muq_jax.inference.store import FAILURES, HEADER, Failure, Space, load_vectors
from muq_jax.inference.store_writer import StoreWriter

SPACE = Space("0" * 64, "muq", (1, 3), "mean", 30.0)


class Killed(BaseException):
    pass


def vectors(name):
    return np.repeat(np.float32([[float(name)], [float(name) + 0.5]]), 4, axis=1)


def fill(folder, names):
    with StoreWriter(folder, SPACE) as store:
        for name in names:
            store.add(name, f"print {name}", 1.0, vectors(name))
        store.finish()


def check(folder, names):
    found = load_vectors(folder)
    assert found.ids == [name for name in sorted(names) for _ in SPACE.layers]
    assert found.layers.tolist() == list(SPACE.layers) * len(names)
    np.testing.assert_array_equal(found.matrix, np.concatenate([vectors(name) for name in sorted(names)]))


@pytest.fixture(autouse=True)
def small_tables(monkeypatch):
    monkeypatch.setattr(store_writer, "ROWS_PER_TABLE", 4)  # two files


OLD, NEW = ["20", "30", "40", "50", "60"], ["10", "25", "35", "70"]


def test_a_store_may_grow_at_either_end_and_between(tmp_path):
    fill(tmp_path / "s", OLD)
    check(tmp_path / "s", OLD)
    fill(tmp_path / "s", NEW)
    check(tmp_path / "s", OLD + NEW)
    fill(tmp_path / "whole", OLD + NEW)
    for path in (tmp_path / "whole").rglob("*"):
        other = tmp_path / "s" / path.relative_to(tmp_path / "whole")
        assert path.is_dir() or path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("moved", range(6))
def test_a_kill_between_any_two_files_that_are_moved_loses_nothing(tmp_path, monkeypatch, moved):
    """Killed once or twice; the rows of every moment are read by who goes on."""
    fill(tmp_path / "s", OLD)
    real, count = Path.replace, 0

    def replace(self, target):
        nonlocal count
        if count == moved:
            raise Killed
        count += 1
        return real(self, target)

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", replace)
            with pytest.raises(Killed):
                fill(tmp_path / "s", NEW)
        count = 0
    with StoreWriter(tmp_path / "s", SPACE) as store:
        assert store.num_files == len(OLD) + len(NEW)
        store.finish()
    check(tmp_path / "s", OLD + NEW)


def test_a_file_that_is_replaced_has_its_new_vectors(tmp_path):
    fill(tmp_path / "s", OLD)
    with StoreWriter(tmp_path / "s", SPACE) as store:
        store.add("30", "7", 1.0, vectors("99"))
        store.finish()
        assert store.fingerprint("30") == "7" and store.fingerprint("x") is None
    found = load_vectors(tmp_path / "s")
    np.testing.assert_array_equal(found.matrix[2:4], vectors("99"))
    assert found.ids[2:4] == ["30", "30"] and len(found.ids) == 10


def test_failures_are_kept_until_the_file_is_well(tmp_path):
    failure = Failure("30", "5", "no audio")
    with StoreWriter(tmp_path / "s", SPACE) as store:
        store.add("20", "1", 1.0, vectors("20"))
        store.add_failure(failure)
        store.add_failure(Failure("20", "5", "it is there already"))
        store.finish()
    with StoreWriter(tmp_path / "s", SPACE) as store:
        assert store.failures == {"30": failure}
        store.add("30", "1", 1.0, vectors("30"))
        store.finish()
    assert not (tmp_path / "s" / FAILURES).read_bytes()
    check(tmp_path / "s", ["20", "30"])


def test_one_at_a_time(tmp_path):
    with StoreWriter(tmp_path / "s", SPACE), pytest.raises(UserError, match="another process adds to"):
        StoreWriter(tmp_path / "s", SPACE)
    with StoreWriter(tmp_path / "s", SPACE):
        pass


def test_a_kill_while_the_header_is_written_is_gone_over(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / f".{HEADER}.unfinished").write_text('{"params')
    fill(tmp_path / "s", OLD)
    check(tmp_path / "s", OLD)
    assert json.loads((tmp_path / "s" / HEADER).read_text())["layers"] == [1, 3]


def test_frames_stay_inside_the_store(tmp_path):
    with StoreWriter(tmp_path / "s", SPACE) as store:
        for name in ("/x", "../x", "a/../../x"):
            with pytest.raises(AssertionError, match="outside the store"):
                store.write_frames(name, {})


def test_a_full_disk_is_said_and_what_was_there_is_kept(tmp_path, monkeypatch):
    fill(tmp_path / "s", OLD)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with StoreWriter(tmp_path / "s", SPACE) as store:
        store.add("10", "1", 1.0, vectors("10"))
        with monkeypatch.context() as patched:
            patched.setattr("pyarrow.parquet.write_table", full)
            with pytest.raises(UserError, match=r"the disk is full\. What was finished is kept"):
                store.finish()
            patched.setattr("os.fsync", full)
            with pytest.raises(UserError, match="the disk is full"):
                store.add("11", "1", 1.0, vectors("11"))
    with StoreWriter(tmp_path / "s", SPACE) as store:
        assert store.fingerprint("10") == "1"
        store.finish()
    assert set(OLD) | {"10"} <= set(load_vectors(tmp_path / "s").ids)
