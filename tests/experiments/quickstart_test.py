import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from experiments import quickstart, quickstart_corpus
from experiments.quickstart_corpus import MIN_CLIPS_A_CLASS, own_corpus, toy_corpus
from muq_jax.audio.decode import audio_info
from muq_jax.cli import DONE, FAILED, INTERRUPTED
from muq_jax.data.toy_music import ToyMusicSource
from muq_jax.inference.pretrained import MuQ
from muq_jax.probe.extract import load_wave

ROOT = Path(__file__).parents[2]
# A command's own process has the devices that its user has, not the eight that these tests simulate.
ONE_DEVICE = {**os.environ, "XLA_FLAGS": ""}


def music(folder: Path, names, seconds: float = 3.0) -> Path:
    """Short tones, each file another pitch."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        time_s = np.arange(round(seconds * 24_000)) / 24_000
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 30 * i) * time_s), 24_000)
    return folder


@pytest.fixture(scope="module")
def corpus():
    return toy_corpus(20, 12, 2.0)


def test_toy_corpus_keeps_what_is_probed_out_of_pretraining(corpus):
    assert corpus.source == "toy_music:20"
    assert [task.name for task, _ in corpus.probes] == ["key", "instrument", "style"]
    clips = {item.id: item for _, dataset in corpus.probes for item in dataset.items}
    assert Counter(item.split for item in clips.values()) == {"train": 6, "val": 2, "test": 4}
    pretraining = {np.asarray(clip["wave"]).tobytes() for clip in _source(corpus.source)}
    assert not pretraining & {item.audio().tobytes() for item in clips.values()}
    assert corpus.track.shape == (30 * 24_000,) and corpus.chords


def test_the_tasks_of_toy_music_have_the_labels_and_the_start_of_their_clips(corpus):
    source = ToyMusicSource(12, seed=1)
    for task, dataset in corpus.probes:
        labels = {f"probe-{i}": source[i]["labels"][task.name] for i in range(12)}
        assert {item.id: item.label for item in dataset.items} == {
            id: label for id, label in labels.items() if label is not None
        }
        assert set(dataset.classes) == {item.label for item in dataset.items}
        assert task.v1.window_seconds == 2.0
        assert {load_wave(item).shape for item in dataset.items} == {(48_000,)}
    key, _, style = (dataset.items[0] for _, dataset in corpus.probes)
    assert key.id == style.id and key.audio() is style.audio(), "a clip is synthesised once for all tasks"


def _source(spec):
    from muq_jax.data.sources import make_source

    source = make_source(spec)
    return (source[i] for i in range(len(source)))


def test_subfolders_are_labels_and_every_split_has_all_of_them(tmp_path):
    names = [f"{kind}/{i}.wav" for kind in ("folk", "jazz") for i in range(MIN_CLIPS_A_CLASS)]
    folder = music(tmp_path / "music", [*names, "rare/1.wav", "loose.wav"])
    corpus = own_corpus(folder, tmp_path / "run", 2.0)
    ((task, dataset),) = corpus.probes
    found = Counter((item.split, item.label) for item in dataset.items)
    assert set(found) == {(split, kind) for split in ("train", "val", "test") for kind in ("folk", "jazz")}
    assert sum(found.values()) == 2 * MIN_CLIPS_A_CLASS
    assert task.name == "subfolder" and "folk, jazz" in corpus.facts["labels"]
    assert corpus.track.shape == (72_000,)
    by_pitch = {np.abs(np.fft.rfft(item.audio())).argmax() for item in dataset.items}
    assert len(by_pitch) == len(dataset.items), "every clip loads its own audio"


def silence(path: Path) -> None:
    soundfile.write(path, np.zeros(24_000), 24_000)


@pytest.mark.parametrize("lost", ["a class", "val", "test"])
def test_a_probe_that_rejects_make_impossible_is_left_out_with_the_reason(tmp_path, lost):
    names = [f"{kind}/{i}.wav" for kind in ("folk", "jazz") for i in range(MIN_CLIPS_A_CLASS)]
    folder = music(tmp_path / "music", names)
    own_corpus(folder, tmp_path / "first", 2.0)
    rows = [json.loads(line) for line in (tmp_path / "first" / "clips.jsonl").read_text().splitlines()]
    for row in rows:
        if row["split"] == lost or (lost == "a class" and row["folder"] == "jazz"):
            silence(Path(row["path"]))
    corpus = own_corpus(folder, tmp_path / "run", 2.0)
    assert corpus.probes == ()
    assert corpus.why_no_probe.startswith("Too few labelled files could be used: probe skipped.")
    assert corpus.facts["labels"] == "the names of subfolders: " + (
        "folk" if lost == "a class" else "folk, jazz"
    )


def test_a_probe_that_rejects_leave_possible_runs_on_what_is_left(tmp_path, muq_folder, monkeypatch, capsys):
    names = [f"{kind}/{i}.wav" for kind in ("folk", "jazz") for i in range(MIN_CLIPS_A_CLASS + 1)]
    folder = music(tmp_path / "music", names)
    own_corpus(folder, tmp_path / "first", 2.0)
    rows = [json.loads(line) for line in (tmp_path / "first" / "clips.jsonl").read_text().splitlines()]
    (lost,) = (row["path"] for row in rows if row["split"] == "val" and row["folder"] == "folk")
    silence(Path(lost))
    corpus = own_corpus(folder, tmp_path / "run", 2.0)
    ((_, dataset),) = corpus.probes
    assert len(dataset.items) == 2 * MIN_CLIPS_A_CLASS + 1
    monkeypatch.setattr(quickstart, "untrained", lambda muq, seed: muq)  # which takes the longest
    probe = quickstart._probe(
        corpus, MuQ.from_pretrained(muq_folder), quickstart.SMOKE, tmp_path / "features"
    )
    assert "note: There is nothing to tell apart: the val split has 'jazz' alone." in capsys.readouterr().out
    counts = {(row["num_train"], row["num_val"], row["num_test"]) for row in probe.rows}
    assert counts == {(12, 1, 4)}


def test_the_cap_counts_files_that_do_not_say_how_long_they_are(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 240_000)
    for i in range(6):
        path = tmp_path / f"{i}.flac"
        soundfile.write(path, noise, 24_000)
        data = bytearray(path.read_bytes())
        data[21] &= 0xF0  # the low 36 bits of the stream information's total: zero is "unknown"
        data[22:26] = bytes(4)
        path.write_bytes(data)
        assert audio_info(path).num_samples is None
    at_128_kbit = path.stat().st_size / 16_000
    monkeypatch.setattr(quickstart_corpus, "MAX_HOURS", 2.5 * at_128_kbit / 3600)
    chosen, num_found = quickstart_corpus._choose(tmp_path)
    assert (len(chosen), num_found) == (3, 6)


def test_a_folder_with_a_name_that_is_not_utf8(tmp_path):
    folder = music(tmp_path / "music", ["a.wav", "b.wav", "c.wav"])
    silence(folder / "c.wav")
    for name in "bc":
        (folder / f"{name}.wav").rename(folder / f"caf\udce9 {name}.wav")
    corpus = own_corpus(folder, tmp_path / "run", 2.0)
    assert r"caf\udce9 c.wav: silent" in corpus.facts["left out"]


def test_a_flat_folder_has_no_labels_and_says_so(tmp_path):
    corpus = own_corpus(music(tmp_path / "music", ["a.wav", "b.flac", "c.wav"]), tmp_path / "run", 2.0)
    assert corpus.probes == ()
    assert corpus.why_no_probe.startswith("No labels: probe skipped.")
    rows = [json.loads(line) for line in (tmp_path / "run" / "clips.jsonl").read_text().splitlines()]
    assert all("split" not in row for row in rows), "three files are too few to hold some back"


def test_a_broken_file_is_left_out_and_named(tmp_path):
    folder = music(tmp_path / "music", [f"{i}.wav" for i in range(4)])
    (folder / "broken.mp3").write_bytes(b"not music")
    corpus = own_corpus(folder, tmp_path / "run", 2.0)
    assert "broken.mp3" in corpus.facts["left out"]
    assert corpus.facts["used"].startswith("4 files")


def test_a_folder_is_prepared_once(tmp_path):
    folder = music(tmp_path / "music", ["a.wav", "b.wav"])
    own_corpus(folder, tmp_path / "run", 2.0)
    before = (tmp_path / "run" / "corpus" / "manifest.jsonl").stat().st_mtime_ns
    own_corpus(folder, tmp_path / "run", 2.0)
    assert (tmp_path / "run" / "corpus" / "manifest.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", ["missing", "empty", "no audio"])
def test_a_bad_folder_ends_with_a_message(kind, tmp_path, capsys):
    folder = tmp_path / "music"
    if kind != "missing":
        folder.mkdir()
    if kind == "no audio":
        (folder / "song.mp3").write_bytes(b"not music")
    assert quickstart.main(["--audio", str(folder), "--workdir", str(tmp_path / "run")]) == FAILED
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    assert not (tmp_path / "run" / quickstart.REPORT).exists()


def test_another_quickstart_s_work_directory_is_refused(tmp_path, capsys):
    settings = {"audio": "/elsewhere", "muq_steps": 7}
    (tmp_path / quickstart.SETTINGS_FILE).write_text(json.dumps({"settings": settings, "summary": ""}))
    assert quickstart.main(["--smoke", "--workdir", str(tmp_path)]) == FAILED
    assert "/elsewhere" in capsys.readouterr().err


def test_a_full_disk_ends_with_a_message(tmp_path, monkeypatch, capsys):
    def run(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(quickstart, "run", run)
    assert quickstart.main(["--workdir", str(tmp_path)]) == FAILED
    assert f"{tmp_path}: the disk is full" in capsys.readouterr().err


def test_the_configurations_are_those_of_training_made_smaller(corpus, tmp_path):
    rvq = quickstart.rvq_configuration(quickstart.FULL, corpus)
    muq = quickstart.muq_configuration(quickstart.FULL, corpus, tmp_path)
    assert rvq.train.num_steps == quickstart.FULL.rvq_steps and rvq.data.source == "toy_music:20"
    assert muq.targets.rvq == str(tmp_path / "mel_rvq") and muq.model.conformer.width == 128
    assert muq.optim.schedule == "warmup_linear"


def command(workdir: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "experiments.quickstart", "--smoke", "--workdir", str(workdir), *more]


@pytest.mark.slow
def test_the_shortest_quickstart_ends_in_a_report_and_a_second_one_changes_nothing(tmp_path):
    workdir = tmp_path / "run"
    first = subprocess.run(command(workdir), cwd=ROOT, env=ONE_DEVICE, capture_output=True, text=True)
    assert first.returncode == DONE, first.stderr
    html = (workdir / "report" / "index.html").read_text()
    for title in ("Health", "Tokens: the Mel-RVQ", "Pretraining", "What the features know", "One track"):
        assert title in html
    assert "https://" not in html and html.count("<img") >= 10
    assert "cross-entropy" in first.stdout and str(workdir / "report" / "index.html") in first.stdout
    assert (workdir / "model" / "model.safetensors").exists()
    probe = json.loads((workdir / quickstart.SETTINGS_FILE).read_text())["probe"]
    assert {row["encoder"] for row in probe["rows"]} == {
        "most frequent class", "logmel", "untrained", quickstart.TRAINED
    }  # fmt: skip

    stamps = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    second = subprocess.run(command(workdir), cwd=ROOT, env=ONE_DEVICE, capture_output=True, text=True)
    assert second.returncode == DONE and "already done" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == stamps


@pytest.mark.slow
def test_one_s_own_music_without_labels_gets_a_report_without_a_probe(tmp_path):
    folder = music(tmp_path / "music", [f"{i}.wav" for i in range(12)])
    workdir = tmp_path / "run"
    done = subprocess.run(
        command(workdir, "--audio", str(folder)), cwd=ROOT, env=ONE_DEVICE, capture_output=True, text=True
    )
    assert done.returncode == DONE, done.stderr
    assert "No labels: probe skipped" in done.stdout
    assert "No labels: probe skipped" in (workdir / "report" / "index.html").read_text()


@pytest.mark.slow
def test_an_interrupted_quickstart_goes_on(tmp_path, wait_for):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        command(workdir), cwd=ROOT, env=ONE_DEVICE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    metrics = workdir / "mel_rvq" / "metrics.jsonl"
    wait_for(process, metrics.exists)
    os.kill(process.pid, signal.SIGINT)
    process.communicate()
    assert process.returncode == INTERRUPTED
    assert not (workdir / quickstart.REPORT).exists()
    done = subprocess.run(command(workdir), cwd=ROOT, env=ONE_DEVICE, capture_output=True, text=True)
    assert done.returncode == DONE, done.stderr
    assert (workdir / quickstart.REPORT).exists()
