"""Apache Beam makes the parts that runs with `--shard` make, to the byte."""

import hashlib
import importlib.util
import shutil
import sys

import numpy as np
import pytest
import soundfile

from muq_jax.cli import FAILED, WRONG_USAGE, main
from muq_jax.data.check import check
from muq_jax.data.prepare import Settings, prepare
from muq_jax.data.prepare_beam import prepare_on_beam
from muq_jax.data.slices import Slice
from muq_jax.errors import UserError

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="needs the extra `beam` (apache-beam)"
)


@pytest.fixture
def music(tmp_path):
    (tmp_path / "music").mkdir()
    for i in range(7):
        wave = np.random.default_rng(i).normal(0, 0.1 * (i != 3), 8000 + i)
        soundfile.write(tmp_path / f"music/{i}.wav", wave, 24000)
    return tmp_path / "music"


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@needs_beam
def test_beam_makes_the_same_bytes_as_runs_without_it(tmp_path, music):
    for i in range(3):
        alone = prepare(music, tmp_path / "alone", part=Slice(i, 3))
    report = prepare_on_beam(music, tmp_path / "beam", num_parts=3)
    assert (report.num_clips, report.rejects, report.hours) == (6, alone.rejects, alone.hours)
    assert digests(tmp_path / "beam") == digests(tmp_path / "alone")
    assert check(tmp_path / "beam").damage == []
    assert prepare_on_beam(music, tmp_path / "beam", num_parts=3).already


@pytest.mark.slow
@needs_beam
def test_beam_makes_what_is_missing_in_processes_of_its_own(tmp_path, music):
    for i in range(3):
        prepare(music, tmp_path / "out", part=Slice(i, 3))
    expected = digests(tmp_path / "out")
    kept = tmp_path / "out/slice-00000-of-00003/stats.json"
    written = kept.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "out/slice-00002-of-00003")
    (tmp_path / "out/manifest.jsonl").unlink()
    options = "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"
    prepare_on_beam(music, tmp_path / "out", num_parts=3, beam_options=options)
    assert digests(tmp_path / "out") == expected and kept.stat().st_mtime_ns == written


def test_without_beam_it_is_said_what_to_install(tmp_path, music, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert main(["prepare", str(music), str(tmp_path / "out"), "--beam", "3"]) == FAILED
    assert 'pip install "muq-jax[beam]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs_beam
def test_a_mistake_is_told_before_a_pipeline_begins(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        prepare_on_beam(tmp_path / "nowhere", tmp_path / "out", num_parts=2)
    with pytest.raises(UserError, match="codec is 'mp3'"):
        prepare_on_beam(tmp_path, tmp_path / "out", num_parts=2, settings=Settings(codec="mp3"))


@pytest.mark.parametrize(
    "options", [["--beam", "2", "--shard", "0/2"], ["--beam_options=--runner=DirectRunner"]]
)
def test_options_that_do_not_go_together(options):
    with pytest.raises(SystemExit) as status:
        main(["prepare", "music", "out", *options])
    assert status.value.code == WRONG_USAGE
