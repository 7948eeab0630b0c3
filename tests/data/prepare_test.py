"""Folders and manifests become shards; what cannot be used is skipped, counted and listed by name."""

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from muq_jax.data import contents as contents_module
from muq_jax.data import convert as convert_module
from muq_jax.data import corpus as corpus_module
from muq_jax.data import shards as shards_module
from muq_jax.data import workers as workers_module
from muq_jax.data.manifest import read_manifest, scan_folder
from muq_jax.data.prepare import Settings, prepare
from muq_jax.data.sources import FileSource, make_source
from muq_jax.data.statistics import load_statistics, mel_statistics
from muq_jax.errors import UserError


def tone(seconds, rate=24000, channels=1, hz=440.0):
    t = np.arange(round(seconds * rate)) / rate
    wave = (0.3 * np.sin(2 * np.pi * hz * t) * (1 + t)).astype(np.float32)
    return wave if channels == 1 else np.stack([wave * (1 - i / channels) for i in range(channels)], 1)


def write(path, wave, rate=24000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **options)
    return path


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def music(tmp_path):
    """Five good files of several kinds; one of them is 2.5 s long, the others less than a second."""
    folder = tmp_path / "music"
    write(folder / "a.wav", tone(0.5))
    write(folder / "albüm/b.flac", tone(0.7, 44100, channels=2), 44100)
    write(folder / "albüm/c.ogg", tone(0.6, 22050), 22050)
    write(folder / "d.mp3", tone(0.8, 48000), 48000)
    write(folder / "long.wav", tone(2.5, hz=300.0))
    return folder


def add_bad_files(folder):
    """Returns a word of the reason for which each file must be rejected."""
    (folder / "corrupt.flac").write_bytes(np.random.default_rng(0).bytes(5000))
    for suffix in ("wav", "flac", "ogg", "mp3"):
        cut(write(folder / f"cut_{suffix}.{suffix}", np.random.default_rng(1).normal(0, 0.1, 48000)), 0.5)
    (folder / "empty.wav").touch()
    write(folder / "no_samples.wav", np.zeros(0))
    write(folder / "silent.wav", np.zeros(24000))
    write(folder / "nan.wav", np.where(np.arange(24000) == 999, np.nan, 0.1), subtype="FLOAT")
    write(folder / "blip.wav", tone(0.01))
    return {
        "corrupt": "decoded",
        "cut_wav": "cut",
        "cut_flac": "cut",
        "cut_ogg": "cut",
        "cut_mp3": "cut",
        "empty": "0 bytes",
        "no_samples": "no samples",
        "silent": "silent",
        "nan": "nan",
        "blip": "too short",
    }


def test_a_folder_becomes_shards_with_the_same_audio(tmp_path, music):
    report = prepare(music, tmp_path / "out", settings=Settings(piece_seconds=1.0))
    assert (report.num_clips, report.num_pieces, report.rejects, report.already) == (5, 7, [], False)
    assert report.hours == pytest.approx((0.5 + 0.7 + 0.6 + 0.8 + 2.5) / 3600, rel=0.02)
    assert sorted(os.listdir(tmp_path)) == ["music", "out"]
    assert sorted(os.listdir(tmp_path / "out")) == [
        "SHA256SUMS",
        "manifest.jsonl",
        "rejects.jsonl",
        "shard-00000.array_record",
        "stats.json",
    ]

    files = make_source(music)
    shards = make_source(tmp_path / "out")
    assert [shards[i]["id"] for i in range(7)] == [
        "a",
        "albüm/b",
        "albüm/c",
        "d",
        "long@0.00",
        "long@0.83",
        "long@1.67",
    ]
    for i in range(4):
        np.testing.assert_allclose(shards[i]["wave"], np.clip(files[i]["wave"], -1, 1), atol=2**-15)
    pieces = np.concatenate([shards[i]["wave"] for i in (4, 5, 6)])
    np.testing.assert_allclose(pieces, np.clip(files[4]["wave"], -1, 1), atol=2**-15)


def test_the_manifest_tells_what_is_in_the_shards(tmp_path, music):
    (tmp_path / "m.jsonl").write_text(
        '{"path": "music/a.wav", "split": "train", "key": "C", "sample_rate": 24000, "num_samples": 12000}'
        "\n"
        '{"path": "music/long.wav", "split": "val", "id": "L"}\n'
    )
    prepare(tmp_path / "m.jsonl", tmp_path / "out", settings=Settings(piece_seconds=2.0))
    assert rows_of(tmp_path / "out/manifest.jsonl") == [
        {
            "key": "C",
            "id": "music/a",
            "path": "shard-00000.array_record",
            "sample_rate_hz": 24000,
            "num_samples": 12000,
            "split": "train",
            "num_pieces": 1,
            "original": str(tmp_path / "music/a.wav"),
        },
        {
            "id": "L",
            "path": "shard-00000.array_record",
            "sample_rate_hz": 24000,
            "num_samples": 60000,
            "split": "val",
            "num_pieces": 2,
            "original": str(tmp_path / "music/long.wav"),
        },
    ]
    val = make_source(tmp_path / "out", split="val")
    assert [val[i]["id"] for i in range(len(val))] == ["L@0.00", "L@1.25"]


def test_statistics_are_those_of_the_mels(tmp_path, music):
    prepare(music, tmp_path / "out")
    stats, expected = load_statistics(tmp_path / "out"), mel_statistics(make_source(music))
    assert stats == pytest.approx(expected, rel=1e-12)


def test_several_shards(tmp_path, music, monkeypatch):
    monkeypatch.setattr(shards_module, "_SHARD_BYTES", 20_000)
    prepare(music, tmp_path / "out", settings=Settings(piece_seconds=1.0, codec="pcm16"))
    assert len(list((tmp_path / "out").glob("*.array_record"))) > 2
    shards, files = make_source(tmp_path / "out"), make_source(music)
    for i in range(4):
        np.testing.assert_allclose(shards[i]["wave"], np.clip(files[i]["wave"], -1, 1), atol=2**-15)
    assert [shards[i]["id"] for i in (4, 5, 6)] == ["long@0.00", "long@0.83", "long@1.67"]


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path, music):
    add_bad_files(music)
    for n in (1, 3):
        prepare(music, tmp_path / f"out{n}", num_processes=n, max_rejects=0.9)
    one, three = digests(tmp_path / "out1"), digests(tmp_path / "out3")
    assert one == three


def test_bytes_are_the_same_again(tmp_path, music):
    prepare(music, tmp_path / "one")
    prepare(music, tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_what_cannot_be_used_is_listed_by_name(tmp_path, music):
    expected = add_bad_files(music)
    report = prepare(music, tmp_path / "out", max_rejects=0.9)
    assert report.num_clips == 5
    assert {reject.id for reject in report.rejects} == set(expected)
    for reject in report.rejects:
        assert expected[reject.id] in reject.reason, reject
        assert Path(reject.path).is_file() and reject.path not in reject.reason
    assert rows_of(tmp_path / "out/rejects.jsonl") == [vars(reject) for reject in report.rejects]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"num_samples": 24000}, r"says 24000 samples \(1.000 s\), the file has 12000 \(0.500 s\)"),
        ({"num_samples": 6000}, "says 6000 samples"),
        ({"sample_rate_hz": 48000}, "says 48000 Hz, the file has 24000 Hz"),
        ({"path": "gone.wav"}, "no such file"),
    ],
)
def test_rows_that_lie(tmp_path, music, row, reason):
    lines = [{"path": "music/a.wav", "id": "liar", **row}, {"path": "music/d.mp3"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (reject,) = prepare(tmp_path / "m.jsonl", tmp_path / "out").rejects
    assert reject.id == "liar"
    assert re.search(reason, reject.reason)


def test_honest_rows_of_every_codec_pass(tmp_path, music):
    lines = []
    for clip in FileSource(scan_folder(music))._clips:
        info = soundfile.info(clip.path)
        lines.append({"path": str(clip.path), "num_samples": info.frames, "sample_rate": info.samplerate})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert prepare(tmp_path / "m.jsonl", tmp_path / "out").rejects == []


def test_too_many_rejects_fail_and_leave_the_list(tmp_path, music):
    add_bad_files(music)
    with pytest.raises(
        UserError, match=r"10 of 15 clips were rejected.*more than the share of 0.6.*listed in"
    ):
        prepare(music, tmp_path / "out", max_rejects=0.6)
    assert sorted(os.listdir(tmp_path)) == ["music", "out.rejects.jsonl"]
    assert len(rows_of(tmp_path / "out.rejects.jsonl")) == 10
    prepare(music, tmp_path / "out", max_rejects=0.7)
    assert sorted(os.listdir(tmp_path)) == ["music", "out"]


def test_nothing_decodable(tmp_path):
    (tmp_path / "music").mkdir()
    (tmp_path / "music/a.mp3").write_bytes(b"no" * 99)
    with pytest.raises(UserError, match=r"1 of 1 clips were rejected, none could be used.*a\.mp3"):
        prepare(tmp_path / "music", tmp_path / "out", max_rejects=1.0)


def test_the_same_again_changes_nothing(tmp_path, music):
    add_bad_files(music)
    first = prepare(music, tmp_path / "out", max_rejects=0.9)
    before = {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "out").iterdir()
    }
    (music / "a.wav").unlink()
    again = prepare(music, tmp_path / "out", max_rejects=0.9)
    assert again.already and again.rejects == first.rejects
    assert (again.num_clips, again.num_pieces, again.hours) == (
        first.num_clips,
        first.num_pieces,
        first.hours,
    )
    assert before == {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "out").iterdir()
    }


def test_other_settings_for_the_same_out(tmp_path, music):
    prepare(music, tmp_path / "out")
    with pytest.raises(UserError, match="already prepared with codec 'flac', asked for is 'pcm16'"):
        prepare(music, tmp_path / "out", settings=Settings(codec="pcm16"))


def test_an_out_that_holds_something_else(tmp_path, music):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("ten years of work")
    with pytest.raises(UserError, match="not made by `prepare`"):
        prepare(music, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]


def test_a_folder_that_happens_to_be_named_like_ours(tmp_path, music):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/thesis.tex").write_text("ten years of work")
    with pytest.raises(UserError, match=r"out\.partial: not made by"):
        prepare(music, tmp_path / "out")
    assert os.listdir(tmp_path / "out.partial") == ["thesis.tex"]


def test_an_out_that_cannot_be(tmp_path, music):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out: cannot be written \(Not a directory\)"):
        prepare(music, tmp_path / "file/out")


def test_a_file_named_like_the_folder_at_work(tmp_path, music):
    (tmp_path / "out.partial").write_text("ten years of work")
    with pytest.raises(UserError, match=r"out\.partial: not made by"):
        prepare(music, tmp_path / "out")
    assert (tmp_path / "out.partial").read_text() == "ten years of work"


def test_a_mount_point_is_refused_before_anything_is_decoded(tmp_path, music, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
    monkeypatch.setattr(workers_module, "convert", lambda *_: pytest.fail("it decodes"))
    with pytest.raises(UserError, match=r"out: a mount point.*give a folder inside it"):
        prepare(music, tmp_path / "out")


def test_the_folder_one_is_in(tmp_path, music, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert prepare(music, ".").out == tmp_path / "here"
    assert (tmp_path / "here/manifest.jsonl").is_file()
    assert sorted(os.listdir(tmp_path)) == ["here", "music"]


def test_a_link_to_an_empty_folder(tmp_path, music):
    (tmp_path / "disk/corpus").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk/corpus")
    prepare(music, tmp_path / "out")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk/corpus/manifest.jsonl").is_file()
    assert prepare(music, tmp_path / "out").already
    assert os.listdir(tmp_path / "disk") == ["corpus"]


def test_a_file_that_may_not_be_read(tmp_path, music, monkeypatch):
    def load_audio(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(convert_module, "load_audio", load_audio)
    with pytest.raises(UserError, match=r"5 of 5 .*cannot be read \(Permission denied\)"):
        prepare(music, tmp_path / "out")


def test_a_clip_that_memory_does_not_hold(tmp_path, music, monkeypatch):
    def moments_of(wave):
        raise MemoryError

    monkeypatch.setattr(convert_module.MelMoments, "of", moments_of)
    with pytest.raises(UserError, match=r"5 of 5 .*does not fit into memory"):
        prepare(music, tmp_path / "out")


def test_names_that_are_not_utf8(tmp_path, music):
    (music / "a.wav").rename(music / "caf\udce9.wav")
    write(music / "silent.flac", np.zeros(24000)).rename(music / "sil\udce9nt.flac")
    (reject,) = prepare(music, tmp_path / "out").rejects
    assert reject.id == "sil\udce9nt" and "silent" in reject.reason
    clips = read_manifest(tmp_path / "out/manifest.jsonl")
    assert Path(clips[2].labels["original"]) == music / "caf\udce9.wav"
    source = make_source(tmp_path / "out")
    assert "caf\udce9" in [source[i]["id"] for i in range(5)]


def test_an_empty_out_and_a_trailing_slash(tmp_path, music):
    (tmp_path / "out").mkdir()
    assert prepare(f"{music}/", f"{tmp_path}/out/").num_clips == 5


def test_no_audio(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        prepare(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio file"):
        prepare(tmp_path / "empty", tmp_path / "out")
    assert os.listdir(tmp_path) == ["empty"]


@pytest.mark.parametrize(
    ("settings", "max_rejects", "message"),
    [
        (Settings(codec="mp3"), 0.5, "codec is 'mp3'"),
        (Settings(piece_seconds=0), 0.5, "piece_seconds is 0"),
        (Settings(), 20, "max_rejects is 20"),
    ],
)
def test_settings_out_of_range(tmp_path, music, settings, max_rejects, message):
    with pytest.raises(UserError, match=message):
        prepare(music, tmp_path / "out", settings=settings, max_rejects=max_rejects)


def python(program, *arguments):
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("codec", ["flac", "pcm16"])
def test_a_disk_that_takes_no_more(tmp_path, music, codec):
    # A limit on the size of a file fails a write as a full disk does: in the middle, by errno.
    program = (
        "import resource, sys\n"
        "from muq_jax.data.prepare import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: prepare(sys.argv[1], sys.argv[2], settings=Settings(codec=sys.argv[3]))\n"
        "except UserError as error: sys.exit(f'told: {error}')\n"
    )
    result = python(program, music, tmp_path / "out", codec)
    assert result.returncode == 1
    assert re.fullmatch(r"told: .*File too large.*run the same command again", result.stderr.strip())
    assert os.listdir(tmp_path) == ["music"]


def test_a_full_disk_at_the_manifest(tmp_path, music, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(contents_module, "write_manifest", no_space)
    with pytest.raises(UserError, match=r"No space left on device\); mend that and run the same"):
        prepare(music, tmp_path / "out")
    assert os.listdir(tmp_path) == ["music"]


def test_a_shard_that_lost_records(tmp_path, music, monkeypatch):
    class Forgetful(shards_module.ArrayRecordReader):
        def num_records(self):
            return 2

    monkeypatch.setattr(shards_module, "ArrayRecordReader", Forgetful)
    with pytest.raises(UserError, match="2 of 5 records arrived"):
        prepare(music, tmp_path / "out")
    assert os.listdir(tmp_path) == ["music"]


def test_what_a_killed_run_left_is_not_taken_for_whole(tmp_path, music):
    program = (
        "import sys, os, muq_jax.data.prepare as p, muq_jax.data.shards as s\n"
        "write = s.ShardWriter.write\n"
        "def die(self, records):\n"
        "    write(self, records)\n"
        "    os.kill(os.getpid(), 9)\n"
        "s.ShardWriter.write = die\n"
        "p.prepare(sys.argv[1], sys.argv[2])\n"
    )
    out = tmp_path / "out"
    died = python(program, music, out)
    assert died.returncode == -9 and not out.exists() and (tmp_path / "out.partial").exists()
    assert prepare(music, out).num_clips == 5
    assert sorted(os.listdir(tmp_path)) == ["music", "out"]


SMALL = Settings(codec="pcm16")  # and shards of 30 kB: the clips a and b, c and d, long


@pytest.fixture
def converted(monkeypatch, music):
    """The clips that are converted, in their order, into small shards; among them is one to reject."""
    write(music / "cold.wav", np.zeros(24000))
    names, convert = [], workers_module.convert

    def counted(clip, settings):
        names.append(clip.id)
        return convert(clip, settings)

    monkeypatch.setattr(shards_module, "_SHARD_BYTES", 30_000)
    monkeypatch.setattr(workers_module, "convert", counted)
    return names


WHERE = {
    "convert": workers_module,
    "add_part": corpus_module,
    "write_lists": corpus_module,
    "write_manifest": contents_module,
    "publish": corpus_module,
}


def stop_in_call(monkeypatch, name, number, *arguments):
    """Runs `prepare` with Ctrl-C in that call of one of its functions."""
    original, calls = getattr(WHERE[name], name), itertools.count(1)

    def function(*args, **options):
        if next(calls) == number:
            raise KeyboardInterrupt
        return original(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(WHERE[name], name, function)
        prepare(*arguments, settings=SMALL)


@pytest.mark.parametrize(
    ("name", "number", "again"),
    [
        ("convert", 1, "a albüm/b albüm/c cold d long"),
        ("convert", 2, "a albüm/b albüm/c cold d long"),
        ("convert", 3, "albüm/c cold d long"),
        ("convert", 4, "albüm/c cold d long"),
        ("convert", 5, "albüm/c cold d long"),
        ("convert", 6, "long"),
        ("add_part", 1, "a albüm/b albüm/c cold d long"),
        ("add_part", 2, "albüm/c cold d long"),
        ("add_part", 3, "long"),
        ("write_lists", 1, ""),
        ("write_manifest", 2, ""),
        ("publish", 1, ""),
    ],
)
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path, music, monkeypatch, converted, name, number, again
):
    whole = prepare(music, tmp_path / "whole", settings=SMALL)
    stop_in_call(monkeypatch, name, number, music, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    converted.clear()
    report = prepare(music, tmp_path / "out", settings=SMALL)
    assert converted == again.split()
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert len(digests(tmp_path / "out")) == 7
    assert (report.num_clips, report.hours, report.rejects) == (whole.num_clips, whole.hours, whole.rejects)
    assert sorted(os.listdir(tmp_path)) == ["music", "out", "whole"]


def test_a_run_stopped_again_and_again(tmp_path, music, monkeypatch, converted):
    prepare(music, tmp_path / "whole", settings=SMALL)
    for _ in range(2):
        stop_in_call(monkeypatch, "convert", 4, music, tmp_path / "out")
    prepare(music, tmp_path / "out", settings=SMALL)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_where_no_shard_was_finished_nothing_stays(tmp_path, music, monkeypatch, converted):
    stop_in_call(monkeypatch, "convert", 2, music, tmp_path / "out")
    assert os.listdir(tmp_path) == ["music"]


def test_unfinished_shards_do_not_stay(tmp_path, music, monkeypatch, converted):
    stop_in_call(monkeypatch, "convert", 5, music, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out.partial")) == ["progress.jsonl", "shard-00000.array_record"]


@pytest.mark.parametrize("change", ["touched", "written", "another", "settings"])
def test_what_was_made_from_something_else_is_made_again(tmp_path, music, monkeypatch, converted, change):
    stop_in_call(monkeypatch, "convert", 5, music, tmp_path / "out")
    settings = SMALL
    if change == "touched":
        os.utime(music / "a.wav", (1, 1))
    elif change == "written":
        write(music / "a.wav", tone(0.4))
    elif change == "another":
        write(music / "zebra.wav", tone(0.4))
    else:
        settings = Settings(codec="pcm16", piece_seconds=1.0)
    converted.clear()
    prepare(music, tmp_path / "out", settings=settings)
    assert converted[0] == "a"
    prepare(music, tmp_path / "whole", settings=settings)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_a_higher_share_of_rejects_goes_on(tmp_path, music, converted):
    add_bad_files(music)
    with pytest.raises(UserError, match="11 of 16 clips were rejected"):
        prepare(music, tmp_path / "out", settings=SMALL)
    converted.clear()
    assert prepare(music, tmp_path / "out", settings=SMALL, max_rejects=0.7).num_clips == 5
    assert len(converted) < 16
    assert sorted(os.listdir(tmp_path)) == ["music", "out"]


@pytest.mark.slow
def test_a_killed_run_of_several_processes_goes_on_with_the_same_bytes(tmp_path, music):
    add_bad_files(music)
    program = (
        "import sys, os, muq_jax.data.prepare as p, muq_jax.data.shards as s\n"
        "s._SHARD_BYTES = 30_000\n"
        "write = s.ShardWriter.write\n"
        "def die(self, records):\n"
        "    if self._path.name == sys.argv[3]: os.kill(os.getpid(), 9)\n"
        "    return write(self, records)\n"
        "s.ShardWriter.write = die\n"
        "if __name__ == '__main__':\n"
        "    settings = p.Settings(codec='pcm16')\n"
        "    p.prepare(sys.argv[1], sys.argv[2], settings=settings, max_rejects=0.9, num_processes=3)\n"
    )
    for out, dies_at in (("out", "shard-00000.array_record"), ("out", "shard-00001.array_record")):
        assert python(program, music, tmp_path / out, dies_at).returncode == -9
    for out in ("out", "whole"):
        assert python(program, music, tmp_path / out, "never").returncode == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert len(list((tmp_path / "out").glob("*.array_record"))) == 3


@pytest.mark.slow
def test_workers_end_with_a_parent_that_was_killed(tmp_path, music):
    program = (
        "import sys, os\n"
        "from muq_jax.data.workers import *\n"
        "from muq_jax.data.manifest import scan_folder\n"
        "if __name__ == '__main__':\n"
        "    for _ in convert_all(scan_folder(sys.argv[1]), Settings(), 2):\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    # The workers hold this pipe, too: its end is theirs.
    assert python(program, music).returncode == -9


@pytest.mark.slow
def test_a_worker_leaves_signals_to_its_parent_and_one_that_dies_is_an_error(tmp_path, music):
    clips = scan_folder(music) * 10
    results = workers_module.convert_all(clips, Settings(), 2)
    first = next(results)
    for worker in multiprocessing.active_children():
        worker.terminate()
    assert len([first, *results]) == len(clips)
    results = workers_module.convert_all(clips, Settings(), 2)
    next(results)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(UserError, match="died"):
        list(results)
