"""Writing over what is there: only a model is ever replaced, and at no moment is it lost."""

import errno
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from muq_jax.convert import folder as model_folder
from muq_jax.convert.licence import Licence, licence_of
from muq_jax.convert.reader import read_tensors
from muq_jax.errors import UserError

CONFIG = {"model_type": "mel_rvq"}
DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save(folder, value, **options):
    model_folder.write(folder, CONFIG, {"x": np.full(3, value)}, "digest", **options)


def saved_value(folder):
    return read_tensors(folder)["x"][0]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "entries, says",
    [
        (["config.json", "metrics.jsonl", "checkpoints/7/params"], "is a training run's work directory"),
        (["config.json", "model.safetensors", "src/main.py"], "holds src, which is no file of a model"),
        (["config.json", "package.json", "README.md"], "holds package.json, which"),
        (["config.json", "LICENSE/main.py"], "holds LICENSE, which"),
        (["README.md"], "holds README.md, which"),
    ],
)
def test_what_is_no_model_is_left_alone(tmp_path, entries, says):
    for entry in entries:
        (tmp_path / "mine" / entry).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / entry).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=says):
        save(tmp_path / "mine", 1.0)
    assert contents(tmp_path) == before


def test_a_model_of_any_form_is_replaced_and_its_licence_stays(tmp_path):
    save(tmp_path / "model", 1.0)
    for name in ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "tokenizer.json"):
        (tmp_path / "model" / name).write_text("old")
    (tmp_path / "model" / "LICENSE.md").write_text("theirs")
    save(tmp_path / "model", 2.0)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        *("config.json", "model.safetensors", "README.md", "LICENSE.md")
    }
    assert saved_value(tmp_path / "model") == 2
    assert (tmp_path / "model" / "LICENSE.md").read_text() == "theirs"


def test_the_licence_of_what_is_saved_goes_before_the_one_that_is_there(tmp_path):
    save(tmp_path / "model", 1.0, licence=Licence("mit", {"LICENSE.md": b"old"}))
    save(tmp_path / "model", 2.0)
    assert licence_of(tmp_path / "model") == Licence("mit", {"LICENSE.md": b"old"})
    save(tmp_path / "model", 3.0, licence=Licence("cc-by-nc-4.0", {"LICENSE": b"new"}))
    assert licence_of(tmp_path / "model") == Licence("cc-by-nc-4.0", {"LICENSE": b"new"})


def test_a_model_that_cannot_take_its_place_leaves_the_old_one_there(tmp_path, monkeypatch):
    save(tmp_path / "model", 1.0)
    rename = Path.rename

    def fails_for_the_new_one(path, target):
        if path.name.endswith(".unfinished"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(UserError, match="Nothing was changed there"):
        save(tmp_path / "model", 2.0)
    assert saved_value(tmp_path / "model") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def killed(tmp_path):
    """Returns the place of a model after a save was killed between moving the old one and the new one."""
    save(tmp_path / "model", 1.0)
    program = f"""
        import os
        from pathlib import Path
        import numpy as np
        from muq_jax.convert import folder
        rename = Path.rename
        def killed_at_the_new_one(path, target):
            if path.name.endswith(".unfinished"):
                os._exit(9)
            return rename(path, target)
        Path.rename = killed_at_the_new_one
        folder.write({str(tmp_path / "model")!r}, {CONFIG!r}, {{"x": np.full(3, 2.0)}}, "digest")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=300, check=False)
    assert done.returncode == 9
    assert not (tmp_path / "model").exists()
    return tmp_path / "model"


def test_a_model_that_a_killed_save_hid_is_pointed_at(killed):
    with pytest.raises(UserError, match=r"model\.\d+\.replaced is the model that was there") as caught:
        model_folder.local(killed)
    hidden = next(path for path in killed.parent.iterdir() if path.suffix == ".replaced")
    assert str(hidden) in str(caught.value)
    assert saved_value(hidden) == 1
    with pytest.raises(UserError, match="Give a model folder"):
        model_folder.local(killed.with_name("mode"))


def test_a_model_that_a_killed_save_hid_comes_back_even_if_the_next_save_fails(killed, monkeypatch):
    def fails(path, tensors):
        raise DISK_FULL

    with monkeypatch.context() as patched:
        patched.setattr(model_folder, "write_tensors", fails)
        with pytest.raises(UserError, match="the disk is full"):
            save(killed, 3.0)
    assert saved_value(model_folder.local(killed)) == 1
    save(killed, 3.0)
    assert saved_value(killed) == 3


def test_what_a_kill_left_half_written_is_swept_a_day_later(tmp_path):
    for pid, age in ((1, 2), (2, 0)):
        (left := tmp_path / f".model.{pid}.unfinished").mkdir()
        (left / "model.safetensors").write_bytes(b"half")
        os.utime(left, (time.time() - 86_400 * age,) * 2)
    (tmp_path / ".other.1.unfinished").mkdir()
    save(tmp_path / "model", 1.0)
    assert {path.name for path in tmp_path.iterdir()} == {
        "model",
        ".model.2.unfinished",
        ".other.1.unfinished",
    }


def test_a_link_to_a_model_stays_one(tmp_path):
    save(tmp_path / "real", 1.0)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save(tmp_path / "link", 2.0)
    assert (tmp_path / "link").is_symlink() and saved_value(tmp_path / "real") == 2


def test_the_proof_stays_with_the_weights_that_it_is_of(tmp_path):
    save(tmp_path / "model", 1.0, beside={"conversion.json": b'{"params_sha256": "digest"}'})
    save(tmp_path / "model", 1.0)
    assert (tmp_path / "model" / "conversion.json").is_file()
    model_folder.write(tmp_path / "model", CONFIG, {"x": np.zeros(3)}, "another digest")
    assert not (tmp_path / "model" / "conversion.json").exists()


def test_a_damaged_proof_goes(tmp_path):
    save(tmp_path / "model", 1.0, beside={"conversion.json": b'{"params_sha256": "dig'})
    save(tmp_path / "model", 2.0)
    assert saved_value(tmp_path / "model") == 2 and not (tmp_path / "model" / "conversion.json").exists()


def test_a_name_that_can_be_no_path_is_refused():
    with pytest.raises(UserError, match="File name too long"):
        model_folder.local("x" * 300)
    with pytest.raises(UserError, match=r"cannot be written: .*File name too long"):
        save("x" * 300, 1.0)
    for name, says in (("a\0b", "null byte"), ("", "the name is empty")):
        with pytest.raises(UserError, match=says):
            model_folder.local(name)


def test_every_file_is_on_the_disk_before_the_swap(tmp_path, monkeypatch):
    synced, swap, fsync = set(), model_folder._swap, os.fsync

    def note(number):
        synced.add(os.fstat(number).st_ino)
        fsync(number)

    def check(new, place):
        assert {path.stat().st_ino for path in new.iterdir()} <= synced
        swap(new, place)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(model_folder, "_swap", check)
    save(tmp_path / "model", 1.0, beside={"LICENSE": b"x"})
    assert saved_value(tmp_path / "model") == 1
