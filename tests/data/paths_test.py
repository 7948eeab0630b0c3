"""Corpora in an object store: the same shards, whole once `manifest.jsonl` is there."""

import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from etils import epath
from etils.epath import backend, gpath, stat_utils

from muq_jax.data import sources as sources_module
from muq_jax.data import workers as workers_module
from muq_jax.data.check import check
from muq_jax.data.manifest import read_manifest, scan_folder
from muq_jax.data.paths import as_path, is_remote
from muq_jax.data.prepare import Settings, prepare
from muq_jax.data.slices import Slice
from muq_jax.data.sources import make_source
from muq_jax.data.splits import split_names
from muq_jax.data.statistics import load_statistics
from muq_jax.errors import UserError

SMALL = Settings(codec="pcm16")


class Store(backend.Backend):
    """gs:// in a local folder, with what a store can do: no renaming, no appending, no empty folders."""

    def __init__(self, root):
        self.root, self.written, self.fail_at = root, [], ""

    def _at(self, path):
        path = os.fspath(path)
        assert path.startswith("gs://"), path
        return self.root / path.removeprefix("gs://")

    def open(self, path, mode):
        if self.fail_at and os.fspath(path).endswith(self.fail_at):
            raise RuntimeError("503 try again")
        if mode in ("r", "rb"):
            return open(self._at(path), mode)
        assert mode == "wb", mode
        return _Object(self, self._at(path))

    def exists(self, path):
        return self._at(path).exists()

    def isdir(self, path):
        return self._at(path).is_dir()

    def listdir(self, path):
        return os.listdir(self._at(path))

    def glob(self, path):
        return [
            f"gs://{found.relative_to(self.root)}" for found in self.root.glob(path.removeprefix("gs://"))
        ]

    def walk(self, top, *, top_down=True, on_error=None):
        for parent, folders, files in os.walk(self._at(top)):  # as fsspec, without the scheme
            yield os.path.relpath(parent, self.root), folders, files

    def remove(self, path):
        self._at(path).unlink()

    def stat(self, path):
        found = self._at(path).stat()
        return stat_utils.StatResult(is_directory=False, length=found.st_size, mtime=int(found.st_mtime))

    def refuse(self, *_, **__):
        raise AssertionError("a store cannot do this")

    makedirs = mkdir = rmtree = rename = replace = copy = refuse


class _Object(io.BytesIO):
    def __init__(self, store, at):
        super().__init__()
        self._store, self._at = store, at

    def close(self):
        if not self.closed:
            self._at.parent.mkdir(parents=True, exist_ok=True)
            self._at.write_bytes(self.getvalue())
            self._store.written.append(self._at.name)
        super().close()


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A bucket with music: five clips, one of them silent, and a manifest; the local twin is tmp_path/gs."""
    store = Store(tmp_path / "gs")
    monkeypatch.setattr(
        gpath.PosixGPath,
        "_backend",
        property(lambda path: store if path._uri_scheme else backend.os_backend),
    )
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    music = tmp_path / "gs/bucket/music"
    (music / "live/.trash").mkdir(parents=True)
    for i, name in enumerate(("a.wav", "b.flac", "live/c.wav", "live/d.ogg", "live/e.wav")):
        soundfile.write(music / name, np.random.default_rng(i).normal(0, 0.1 * (i != 2), 8000), 24000)
    (music / "live/.trash/old.wav").touch()
    (music / "live/._a.wav").touch()
    (music / "notes.txt").touch()
    rows = [
        {"path": "music/a.wav", "split": "val"},
        {"path": "gs://bucket/music/b.flac", "split": "train"},
        {"path": "music/live/c.wav"},
        {"path": "music/live/gone.wav"},
        {"path": "music/live/e.wav", "id": "E"},
    ]
    (tmp_path / "gs/bucket/m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return store


def shard_digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.array_record")
    }


def left_over(tmp_path):
    return [str(path) for path in (tmp_path / "tmp").rglob("*") if path.is_file()]


def test_names_tell_which_is_which():
    assert is_remote("gs://b/x") and not is_remote("/a/b:c") and not is_remote(Path("x"))
    assert isinstance(as_path("a/b"), Path)
    assert isinstance(as_path("gs://b/x"), epath.Path) and str(as_path("gs://b/x")) == "gs://b/x"


def test_a_folder_in_a_store_is_the_same_corpus(tmp_path, store):
    local = prepare(tmp_path / "gs/bucket/music", tmp_path / "local", settings=SMALL)
    remote = prepare("gs://bucket/music", "gs://bucket/out", settings=SMALL)
    assert [reject.id for reject in remote.rejects] == [reject.id for reject in local.rejects] == ["live/c"]
    assert (remote.num_clips, remote.num_pieces, remote.hours) == (4, 4, local.hours)
    assert shard_digests(tmp_path / "gs/bucket/out") == shard_digests(tmp_path / "local") != {}
    assert sorted(os.listdir(tmp_path / "gs/bucket/out")) == sorted(os.listdir(tmp_path / "local"))
    assert store.written[-1] == "manifest.jsonl" and left_over(tmp_path) == []
    rows = read_manifest("gs://bucket/out/manifest.jsonl")
    assert rows[0].labels["original"] == "gs://bucket/music/a.wav"
    store.written.clear()
    assert prepare("gs://bucket/music", "gs://bucket/out", settings=SMALL).already and store.written == []


def test_hidden_and_other_files_of_a_store_are_left_out(store):
    clips = scan_folder("gs://bucket/music/")
    assert [clip.id for clip in clips] == ["a", "b", "live/c", "live/d", "live/e"]
    assert str(clips[2].path) == "gs://bucket/music/live/c.wav"
    with pytest.raises(UserError, match=r"gs://bucket/nothing: no audio file"):
        scan_folder("gs://bucket/nothing")


def test_a_manifest_in_a_store(tmp_path, store):
    report = prepare("gs://bucket/m.jsonl", tmp_path / "out", settings=SMALL)
    assert {reject.id: reject.reason[:12] for reject in report.rejects} == {
        "music/live/c": "silent: all ",
        "music/live/gone": "no such file",
    }
    source = make_source(tmp_path / "out")
    assert [source[i]["id"] for i in range(3)] == ["music/a", "music/b", "E"]


def test_a_local_manifest_of_files_in_a_store(tmp_path, store):
    (tmp_path / "m.jsonl").write_text('{"path": "gs://bucket/music/a.wav"}\n')
    (clip,) = read_manifest(tmp_path / "m.jsonl")
    assert clip.id == "bucket/music/a" and str(clip.path) == "gs://bucket/music/a.wav"
    assert prepare(tmp_path / "m.jsonl", tmp_path / "out").num_clips == 1


def test_parts_in_a_store(tmp_path, store):
    for i in (1, 0, 2):
        remote = prepare("gs://bucket/music", "gs://bucket/out", settings=SMALL, part=Slice(i, 3))
        prepare(tmp_path / "gs/bucket/music", tmp_path / "local", settings=SMALL, part=Slice(i, 3))
    assert remote.num_clips == 4 and remote.missing == ()
    assert shard_digests(tmp_path / "gs/bucket/out") == shard_digests(tmp_path / "local")
    assert store.written[-1] == "manifest.jsonl" and left_over(tmp_path) == []
    assert check("gs://bucket/out").damage == []


def test_reading_a_corpus_in_a_store(tmp_path, store, monkeypatch):
    prepare("gs://bucket/m.jsonl", "gs://bucket/out", settings=SMALL)
    local_reader = sources_module.ArrayRecordDataSource

    def reader(paths):  # ArrayRecord's own reads gs:// in C++
        assert all(path.startswith("gs://bucket/out/shard-") for path in paths)
        return local_reader([str(store._at(path)) for path in paths])

    monkeypatch.setattr(sources_module, "ArrayRecordDataSource", reader)
    source = make_source("gs://bucket/out", split="val")
    assert [source[i]["id"] for i in range(len(source))] == ["music/a"]
    assert split_names("gs://bucket/out") == {"train", "val"}
    assert load_statistics("gs://bucket/out")["count"] > 0
    for spec in ("gs://bucket/music", "gs://bucket/m.jsonl"):
        with pytest.raises(UserError, match="only a folder written by `prepare` is read"):
            make_source(spec)


def test_check_names_what_is_damaged_in_a_store(tmp_path, store):
    prepare("gs://bucket/music", "gs://bucket/out", settings=SMALL)
    assert check("gs://bucket/out").damage == []
    store.fail_at = "out/shard-00000.array_record"
    with pytest.raises(UserError, match=r"shard-00000\.array_record: .*503 try again\); run the check again"):
        check("gs://bucket/out")
    store.fail_at = ""
    shard = tmp_path / "gs/bucket/out/shard-00000.array_record"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert check("gs://bucket/out").damage[0].startswith("shard-00000.array_record: its SHA-256")


@pytest.mark.parametrize("name", ["shard-00000.array_record", "stats.json", "manifest.jsonl"])
def test_copies_that_were_stopped_go_on_without_decoding_again(tmp_path, store, monkeypatch, name):
    store.fail_at = f"out/{name}"
    with pytest.raises(
        UserError, match=rf"{name} \(RuntimeError: 503 try again\); mend that and run the same"
    ):
        prepare("gs://bucket/music", "gs://bucket/out", settings=SMALL)
    assert not (tmp_path / "gs/bucket/out/manifest.jsonl").exists()
    store.fail_at = ""
    monkeypatch.setattr(workers_module, "convert", lambda *_: pytest.fail("it decodes"))
    assert prepare("gs://bucket/music", "gs://bucket/out", settings=SMALL).num_clips == 4
    assert check("gs://bucket/out").damage == [] and left_over(tmp_path) == []


def test_a_copy_that_ctrl_c_cut_short_does_not_stay(tmp_path, store, monkeypatch):
    def interrupted(source, sink, _):
        sink.write(source.read(20))
        if getattr(sink, "_at", Path()).name == "manifest.jsonl":
            raise KeyboardInterrupt
        sink.write(source.read())

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", interrupted)
        prepare("gs://bucket/music", "gs://bucket/out", settings=SMALL)
    assert "stats.json" in store.written and not (tmp_path / "gs/bucket/out/manifest.jsonl").exists()
    assert prepare("gs://bucket/music", "gs://bucket/out", settings=SMALL).num_clips == 4
    assert check("gs://bucket/out").damage == []


def test_a_store_that_fails_is_not_a_clip_to_reject(tmp_path, store):
    store.fail_at = "live/d.ogg"
    with pytest.raises(UserError, match=r"live/d\.ogg: .*503 try again\); mend that and run the same"):
        prepare("gs://bucket/music", tmp_path / "out", settings=SMALL)
    assert not (tmp_path / "out").exists()


def test_too_many_rejects_of_a_store(tmp_path, store):
    with pytest.raises(UserError, match=r"2 of 5 .*listed in gs://bucket/out\.rejects\.jsonl"):
        prepare("gs://bucket/m.jsonl", "gs://bucket/out", max_rejects=0.1)
    assert len((tmp_path / "gs/bucket/out.rejects.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "gs/bucket/out").exists()


def test_an_out_in_a_store_that_holds_something_else(tmp_path, store):
    with pytest.raises(UserError, match="gs://bucket/music: already there and not made by"):
        prepare("gs://bucket/music", "gs://bucket/music")


def test_a_store_that_cannot_be_reached(tmp_path, store, monkeypatch):
    def exists(self, path):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(Store, "exists", exists)
    with pytest.raises(UserError, match=r"ImportError: Please install gcsfs\); gs:// needs .*muq-jax\[gcs\]"):
        prepare("gs://bucket/music", tmp_path / "out")
    with pytest.raises(UserError, match="this store cannot be reached"):
        make_source("gs://bucket/out")
    with pytest.raises(UserError, match="https://bucket/music: not a store that is known; expected gs:// or"):
        prepare("https://bucket/music", tmp_path / "out")
    (tmp_path / "m.jsonl").write_text('{"path": "ftp://a.wav"}')
    with pytest.raises(UserError, match=r"m\.jsonl, line 1: ftp://a\.wav: not a store that is known"):
        prepare(tmp_path / "m.jsonl", tmp_path / "out")


def test_a_store_that_fails_before_anything_is_decoded(tmp_path, store, monkeypatch):
    monkeypatch.setattr(Store, "stat", lambda *_: {}["503"])
    with pytest.raises(UserError, match=r"gs://bucket/music/a\.wav: nothing is known of it \(KeyError"):
        prepare("gs://bucket/music", tmp_path / "out")


def test_a_file_written_anew_is_decoded_again(tmp_path, store):
    store.fail_at = "out/manifest.jsonl"
    with pytest.raises(UserError, match="503"):
        prepare("gs://bucket/music", "gs://bucket/out", settings=SMALL)
    soundfile.write(tmp_path / "gs/bucket/music/a.wav", np.ones(9000) / 3, 24000)
    store.fail_at = ""
    prepare("gs://bucket/music", "gs://bucket/out", settings=SMALL)
    assert read_manifest("gs://bucket/out/manifest.jsonl")[0].num_samples == 9000
