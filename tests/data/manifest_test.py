import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from muq_jax.data.manifest import Clip, read_manifest, scan_folder, select_split, with_header, write_manifest
from muq_jax.errors import UserError


def write(folder, *rows):
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_a_full_row(tmp_path):
    row = {
        "id": "a",
        "path": "x/a.wav",
        "sample_rate_hz": 44100,
        "num_samples": 7,
        "split": "val",
        "key": "C:maj",
    }
    clip = read_manifest(write(tmp_path, row))[0]
    assert clip == Clip("a", tmp_path / "x/a.wav", 44100, 7, "val", {"key": "C:maj"})


@pytest.mark.parametrize("field", ["path", "file", "audio_path", "audio_filepath"])
def test_the_path_has_synonyms(tmp_path, field):
    clip = read_manifest(write(tmp_path, {field: "sub/song.tar.flac", "sample_rate": 48000.0}))[0]
    assert (clip.id, clip.path, clip.sample_rate_hz) == (
        "sub/song.tar",
        tmp_path / "sub/song.tar.flac",
        48000,
    )
    assert clip.num_samples is clip.split is None and clip.labels == {}


def test_absolute_paths_and_blank_lines(tmp_path):
    clips = read_manifest(write(tmp_path, {"path": "/music/a.wav", "id": 3}, "", {"path": "b.wav"}))
    assert [(clip.id, clip.path) for clip in clips] == [
        ("3", Path("/music/a.wav")),
        ("b", tmp_path / "b.wav"),
    ]


def test_default_ids_keep_the_suffix_where_they_would_clash(tmp_path):
    clips = read_manifest(write(tmp_path, {"path": "a.wav"}, {"path": "a.mp3"}, {"path": "b.mp3"}))
    assert [clip.id for clip in clips] == ["a.wav", "a.mp3", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("path,id", "not JSON"),
        ("[1]", "list"),
        ('{"path": "a.wav", "tempo": ' + "9" * 5000 + "}", "not JSON that can be read"),
        ('{"path": "a.wav", "tags": ' + "[" * 100_000, "not JSON that can be read"),
        ('{"id": "x"}', "field `path`"),
        ('{"path": 3}', "field `path`"),
        ('{"path": "a.wav", "file": "b.wav"}', "mean the same"),
        ('{"path": "a.wav", "sample_rate": 24000, "sample_rate_hz": 44100}', "mean the same"),
        ('{"path": "a.wav", "sample_rate": "44.1k"}', "sample_rate_hz"),
        ('{"path": "a.wav", "sample_rate": 0}', "at least 1"),
        ('{"path": "a.wav", "num_samples": -1}', "num_samples"),
        ('{"path": "a.wav", "num_samples": 1.5}', "num_samples"),
        ('{"path": "a.wav", "num_samples": NaN}', "num_samples"),
        ('{"path": "a.wav", "num_samples": true}', "num_samples"),
        ('{"path": "a.wav", "split": 1}', "split"),
        ('{"path": "a.wav", "id": ""}', "`id`"),
        ('{"path": "c.wav", "id": "first"}', "line 1"),
    ],
)
def test_an_error_names_the_line(tmp_path, line, message):
    path = write(tmp_path, {"path": "ok.wav", "id": "first"}, line)
    with pytest.raises(UserError, match=message) as error:
        read_manifest(path)
    assert "manifest.jsonl, line 2" in str(error.value)


def test_no_manifest_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="no such manifest"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="no clip"):
        read_manifest(write(tmp_path, "", " "))
    (tmp_path / "song.wav").write_bytes(b"RIFF\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_manifest(tmp_path / "song.wav")


def test_scan_is_recursive_sorted_and_sees_only_audio(tmp_path):
    for name in [
        "b/z.WAV",
        "b/a.flac",
        "a.mp3",
        "a.ogg",
        ".hidden.wav",
        "._a.mp3",
        ".cache/x.wav",
        "notes.txt",
        "c.d/e.wav",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clips = scan_folder(tmp_path)
    assert [clip.id for clip in clips] == ["a.mp3", "a.ogg", "b/a", "b/z", "c.d/e"]
    assert [clip.path for clip in clips[2:]] == [
        tmp_path / "b/a.flac",
        tmp_path / "b/z.WAV",
        tmp_path / "c.d/e.wav",
    ]


def test_scan_follows_links_once(tmp_path):
    music, elsewhere = tmp_path / "music", tmp_path / "elsewhere"
    music.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.wav").touch()
    (music / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(music)
    assert [clip.id for clip in scan_folder(music)] == ["link/a"]


def test_a_missing_or_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        scan_folder(tmp_path / "none")
    (tmp_path / "readme.txt").touch()
    with pytest.raises(UserError, match="not a folder"):
        scan_folder(tmp_path / "readme.txt")
    with pytest.raises(UserError, match=r"no audio file.*\.flac"):
        scan_folder(tmp_path)


def test_what_a_manifest_leaves_out_is_in_the_header(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((441, 2)), 44100)
    clip = Clip("a", tmp_path / "a.wav")
    assert with_header(clip) == Clip("a", tmp_path / "a.wav", 44100, 441)
    stated = Clip("a", tmp_path / "gone.wav", 8000, 5)
    assert with_header(stated) is stated


def test_splits():
    clips = [Clip("a", Path("a"), split="train"), Clip("b", Path("b"), split="test"), Clip("c", Path("c"))]
    assert select_split(clips, "test", "m") == clips[1:2]
    assert select_split(clips, None, "m") == clips
    with pytest.raises(UserError, match="m: no clip of split 'val'; found test, train"):
        select_split(clips, "val", "m")


def test_clips_without_a_split_are_left_out_and_counted_once(tmp_path, caplog):
    whole = [Clip("a", Path("a"), split="train"), Clip("b", Path("b"), split="val")]
    clips = [*whole, Clip("c", Path("c")), Clip("d", Path("d"))]
    where = str(tmp_path)
    with caplog.at_level(logging.WARNING):
        select_split(whole, "train", where)
        select_split(clips, None, where)
        assert caplog.messages == []
        for split in ("train", "val"):
            assert len(select_split(clips, split, where)) == 1
    assert caplog.messages == [f"{where}: 2 of 4 clips have no split and are left out"]


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [{"path": "a.wav"}])
    with pytest.raises(TypeError):
        write_manifest(tmp_path / "m.jsonl", [{"path": "b.wav"}, {"path": object()}])
    assert [clip.id for clip in read_manifest(tmp_path / "m.jsonl")] == ["a"]


def test_names_that_are_not_utf8_are_read_back(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [{"path": "caf\udce9.wav"}])
    assert read_manifest(tmp_path / "m.jsonl")[0].path == tmp_path / "caf\udce9.wav"


def test_written_rows_are_read_back(tmp_path):
    rows = [{"path": "ü.wav", "id": "ü", "labels": [1]}, {"path": "b.wav", "id": "b\n"}]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert [(clip.id, clip.path.name) for clip in read_manifest(tmp_path / "m.jsonl")] == [
        ("ü", "ü.wav"),
        ("b\n", "b.wav"),
    ]
