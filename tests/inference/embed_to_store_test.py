import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from experiments.make_goldens import noise_wave
from experiments.original import random_tensors
from muq_jax import MuQ
from muq_jax.cli import main
from muq_jax.convert import muq as muq_names
from muq_jax.convert import rules
from muq_jax.errors import UserError
from muq_jax.inference.embed_to_store import embed_to_store
from muq_jax.inference.journal import Journal
from muq_jax.inference.store import JOURNAL, load_vectors
from muq_jax.models.config import muq_config

ROOT = Path(__file__).parents[2]
ONE_DEVICE = {**os.environ, "XLA_FLAGS": ""}


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """A folder of eight short files, one of them no audio."""
    folder = tmp_path_factory.mktemp("music")
    (folder / "a").mkdir()
    for i in range(7):
        wave = noise_wave(3)[: 6000 * (i + 2)]
        soundfile.write(folder / ("a" if i % 2 else ".") / f"{i}.wav", wave, 24_000, "FLOAT")
    (folder / "bad.mp3").write_text("no audio")
    return folder


OPTIONS = dict(window_seconds=1.0, batch_size=2)


def contents(store):
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(muq_folder, music, tmp_path_factory):
    """A store that nothing has disturbed."""
    store = tmp_path_factory.mktemp("whole") / "store"
    summary = embed_to_store(muq_folder, [music], store, **OPTIONS)
    assert (summary.embedded, len(summary.failures), summary.new) == (7, 1, 8)
    return store


def test_a_store_holds_what_the_model_hears(muq_folder, music, whole):
    found = load_vectors(whole)
    assert found.ids == ["0.wav", "2.wav", "4.wav", "6.wav", "a/1.wav", "a/3.wav", "a/5.wav"]
    assert found.space.layers == (2,) and found.layers.tolist() == [2] * 7
    muq = MuQ.from_pretrained(muq_folder)
    for name, end, vector in zip(found.ids, found.ends, found.matrix, strict=True):
        wave, _ = soundfile.read(music / name, dtype="float32")
        out = muq([wave], sampling_rate=24_000, window_seconds=1.0)
        np.testing.assert_allclose(vector, out.last_hidden_state[0].mean(axis=0), atol=2e-5)
        assert end == pytest.approx(len(wave) / 24_000)
    [failure] = [json.loads(line) for line in (whole / "failures.jsonl").read_text().splitlines()]
    assert failure["id"] == "bad.mp3" and "cannot be decoded" in failure["reason"]


def test_the_same_again_changes_nothing(muq_folder, music, whole):
    before = contents(whole)
    assert embed_to_store(muq_folder, [music], whole, **OPTIONS).new == 0
    assert contents(whole) == before


def test_files_that_are_new_are_added(muq_folder, music, tmp_path, whole):
    two = [music / "0.wav", music / "2.wav"]
    embed_to_store(muq_folder, two, tmp_path / "store", **OPTIONS)
    assert load_vectors(tmp_path / "store").ids == ["0.wav", "2.wav"]
    assert embed_to_store(muq_folder, [music], tmp_path / "store", **OPTIONS).new == 6
    assert contents(tmp_path / "store") == contents(whole)


@pytest.mark.parametrize("after", [0, 3, 7])
def test_a_run_that_ended_anywhere_goes_on_to_the_same_store(
    muq_folder, music, whole, tmp_path, monkeypatch, after
):
    """The journal's last record is cut, as by a kill in the middle of a write."""
    real, added = Journal.append, []

    def append(self, described, array):
        if len(added) == after:
            raise KeyboardInterrupt
        added.append(described["id"])
        return real(self, described, array)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", append)
        with pytest.raises(KeyboardInterrupt):
            embed_to_store(muq_folder, [music], tmp_path / "store", **OPTIONS)
    journal = tmp_path / "store" / JOURNAL
    if after:
        data = journal.read_bytes()
        journal.write_bytes(data + data[: len(data) // after - 1])
        with pytest.raises(UserError, match="is not finished"):
            load_vectors(tmp_path / "store")
    assert embed_to_store(muq_folder, [music], tmp_path / "store", **OPTIONS).new == 8 - after
    assert contents(tmp_path / "store") == contents(whole)


def test_a_kill_while_the_tables_are_written_loses_nothing(muq_folder, music, whole, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    store = tmp_path / "store"
    with monkeypatch.context() as patched:
        patched.setattr("pyarrow.parquet.write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            embed_to_store(muq_folder, [music], store, **OPTIONS)
    assert embed_to_store(muq_folder, [music], store, **OPTIONS).new == 0
    assert contents(store) == contents(whole)


def test_a_name_that_is_not_utf8_is_written_out(muq_folder, music, tmp_path):
    odd = os.path.join(os.fsencode(tmp_path / "odd"), b"caf\xe9.wav")
    os.makedirs(os.path.dirname(odd))
    with open(odd, "wb") as file:
        file.write((music / "0.wav").read_bytes())
    embed_to_store(muq_folder, [tmp_path / "odd"], tmp_path / "s", **OPTIONS)
    assert load_vectors(tmp_path / "s").ids == [r"caf\xe9.wav"]


def test_all_layers_and_frames(muq_folder, music, tmp_path):
    embed_to_store(
        muq_folder, [music / "4.wav"], tmp_path / "s", layers="all", frames=True, window_seconds=1.0
    )
    found = load_vectors(tmp_path / "s")
    assert found.layers.tolist() == [0, 1, 2] and found.ids == ["4.wav"] * 3
    frames = np.load(tmp_path / "s/frames/4.wav.npz")
    wave, _ = soundfile.read(music / "4.wav", dtype="float32")
    out = MuQ.from_pretrained(muq_folder)([wave], sampling_rate=24_000, window_seconds=1.0)
    for layer in range(3):
        np.testing.assert_allclose(frames[f"layer_{layer}"], out.hidden_states[layer][0], atol=2e-5)
        np.testing.assert_allclose(found.matrix[layer], frames[f"layer_{layer}"].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(frames["times_seconds"], out.times_seconds)


def test_shards_share_the_files(muq_folder, music, tmp_path):
    shards = [tmp_path / str(index) for index in range(3)]
    for index, shard in enumerate(shards):
        embed_to_store(muq_folder, [music], shard, shard=(index, 3), **OPTIONS)
    ids = load_vectors(*shards).ids
    assert ids == [name for shard in shards for name in load_vectors(shard).ids]
    assert sorted(ids) == sorted(p.relative_to(music).as_posix() for p in music.rglob("*.wav"))


def test_two_spaces_do_not_mix(muq_folder, music, whole):
    with pytest.raises(UserError, match=r"holds vectors of layers \(2,\); those of \(0,\) are another"):
        embed_to_store(muq_folder, [music], whole, layers=0, **OPTIONS)
    with pytest.raises(UserError, match=r"holds vectors of window_seconds 1\.0; those of 30\.0 are another"):
        embed_to_store(muq_folder, [music], whole)
    with pytest.raises(UserError, match=r"holds vectors of pool mean; those of max are another"):
        embed_to_store(muq_folder, [music], whole, pool="max", **OPTIONS)


def test_the_largest_value_of_each_feature_may_be_kept(muq_folder, music, tmp_path):
    files = [music / "4.wav", music / "6.wav"]
    embed_to_store(muq_folder, files, tmp_path / "s", pool="max", frames=True, **OPTIONS)
    found = load_vectors(tmp_path / "s")
    for name, vector in zip(found.ids, found.matrix, strict=True):
        frames = np.load(tmp_path / "s" / "frames" / f"{name}.npz")["layer_2"]
        np.testing.assert_array_equal(vector, frames.max(axis=0))


def test_a_damaged_line_of_the_failures_is_named(muq_folder, music, tmp_path):
    embed_to_store(muq_folder, [music], tmp_path / "s", **OPTIONS)
    failures = tmp_path / "s" / "failures.jsonl"
    for damaged in (b'{"id": "x"', b'{"id": "x"}', b"[]", b"\xff\xfe"):
        failures.write_bytes(failures.read_bytes().splitlines()[0] + b"\n" + damaged + b"\n")
        with pytest.raises(UserError, match=r"failures\.jsonl, line 2 is damaged"):
            embed_to_store(muq_folder, [music], tmp_path / "s", **OPTIONS)
    assert len(load_vectors(tmp_path / "s").ids) == 7, "who only reads vectors does without"


def test_a_file_of_the_same_name_is_not_taken_for_the_one_that_is_there(muq_folder, music, tmp_path, capsys):
    for name, sign in (("a", 1), ("b", -1)):  # of one size
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "01.wav", sign * noise_wave(1)[:20_000] ** 2, 24_000)
    store = tmp_path / "s"
    command = ["embed", str(muq_folder), str(tmp_path / "a"), "--out", str(store), "--window_seconds", "1"]
    assert main(command) == 0
    first = load_vectors(store).matrix
    command[2] = str(tmp_path / "b")
    assert main(command) == 3
    assert "1 were left alone: the store has other files" in capsys.readouterr().out
    np.testing.assert_array_equal(load_vectors(store).matrix, first)
    assert main([*command, "--retry"]) == 0
    assert load_vectors(store).ids == ["01.wav"] and not np.array_equal(load_vectors(store).matrix, first)
    (tmp_path / "b" / "01.wav").write_text("no audio now")
    assert main([*command, "--retry"]) == 0
    assert load_vectors(store).ids == ["01.wav"], "a file that was well keeps its vectors"


def test_a_file_that_failed_is_tried_again_when_it_has_changed_or_on_demand(muq_folder, music, tmp_path):
    folder, store = tmp_path / "music", tmp_path / "s"
    folder.mkdir()
    (folder / "0.wav").write_bytes((music / "0.wav").read_bytes())
    (folder / "1.wav").write_text("no audio")
    assert len(embed_to_store(muq_folder, [folder], store, **OPTIONS).failures) == 1
    again = embed_to_store(muq_folder, [folder], store, **OPTIONS)
    assert (again.new, again.failures[0].id) == (0, "1.wav")
    assert embed_to_store(muq_folder, [folder], store, retry=True, **OPTIONS).new == 1
    (folder / "1.wav").write_bytes((music / "2.wav").read_bytes())
    mended = embed_to_store(muq_folder, [folder], store, **OPTIONS)
    assert (mended.new, mended.embedded, mended.failures) == (1, 2, [])
    assert not (store / "failures.jsonl").read_text()


def test_frames_may_be_asked_for_later(muq_folder, music, tmp_path):
    files = [music / "0.wav", music / "2.wav"]
    embed_to_store(muq_folder, files, tmp_path / "s", **OPTIONS)
    before = load_vectors(tmp_path / "s").matrix
    assert embed_to_store(muq_folder, files, tmp_path / "s", frames=True, **OPTIONS).new == 2
    assert (tmp_path / "s/frames/2.wav.npz").is_file()
    np.testing.assert_array_equal(load_vectors(tmp_path / "s").matrix, before)
    assert embed_to_store(muq_folder, files, tmp_path / "s", frames=True, **OPTIONS).new == 0


def test_the_folder_one_is_in_has_its_name(muq_folder, music, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "0.wav").write_bytes((music / "0.wav").read_bytes())
    monkeypatch.chdir(tmp_path / "here")
    embed_to_store(muq_folder, [".", music / "a"], tmp_path / "s", frames=True, **OPTIONS)
    assert load_vectors(tmp_path / "s").ids == ["0.wav", "1.wav", "3.wav", "5.wav"]
    assert (tmp_path / "s/frames/0.wav.npz").is_file()


def test_samples_that_overflow_are_no_vectors(muq_folder, music, tmp_path):
    soundfile.write(tmp_path / "loud.wav", np.full(24_000, 1e20, np.float32), 24_000, "FLOAT")
    done = embed_to_store(muq_folder, [tmp_path / "loud.wav", music / "0.wav"], tmp_path / "s", **OPTIONS)
    assert done.embedded == 1 and "features are not finite" in done.failures[0].reason


def test_a_link_to_nowhere_fails_alone(muq_folder, music, tmp_path):
    (tmp_path / "music").mkdir()
    (tmp_path / "music/0.wav").write_bytes((music / "0.wav").read_bytes())
    (tmp_path / "music/1.wav").symlink_to(tmp_path / "nowhere.wav")
    done = embed_to_store(muq_folder, [tmp_path / "music"], tmp_path / "s", **OPTIONS)
    assert done.embedded == 1


def test_mistakes_are_named(muq_folder, music, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    (tmp_path / "file").touch()
    copy = tmp_path / "0.wav"
    copy.write_bytes((music / "0.wav").read_bytes())
    for audio, out, options, message in (
        ([tmp_path / "none"], "s", {}, "no such file or folder"),
        ([tmp_path / "empty"], "s", {}, "no audio file in this folder"),
        ([music], "full", {}, "full is not a store and not empty"),
        ([music], "file", {}, "file is a file; a store is a folder"),
        ([music], "s", {"batch_size": 10**20}, "at least 1 and at most 4096"),
        ([music], "s", {"window_seconds": 1e9}, "at most 3600"),
        ([music], "s", {"batch_size": 0}, "batch_size must be at least 1 and at most 4096, found 0"),
        ([music], "s", {"workers": 0}, "workers must be at least 1 and .*found 0"),
        ([music], "s", {"shard": (2, 2)}, "shard 2/2 does not exist"),
        ([music / "0.wav", copy], "s", {}, r"would both be 0\.wav; give the folder above both"),
        ([music], "s", {"pool": "median"}, "pool is 'median'; expected one of mean, max"),
        ([music], "s", {"layers": 7}, "layers are numbered 0 to 2"),
    ):
        with pytest.raises(UserError, match=message):
            embed_to_store(muq_folder, audio, tmp_path / out, **options)
    assert not (tmp_path / "s").exists()


def test_the_command(muq_folder, music, tmp_path, capsys):
    command = ["embed", str(muq_folder), str(music), "--out", str(tmp_path / "s"), "--window_seconds", "1"]
    assert main(command) == 3
    assert "embedded: 7 files in" in (printed := capsys.readouterr().out)
    assert "1 failed, listed in" in printed and "bad.mp3: " in printed
    assert main(command) == 0
    assert "already embedded: 7 files in" in (printed := capsys.readouterr().out)
    assert "earlier; --retry tries again" in printed and "bad.mp3: " in printed
    bad = ["embed", str(muq_folder), str(music / "bad.mp3"), "--out", str(tmp_path / "t")]
    assert main(bad) == 1


@pytest.mark.slow
def test_killed_at_random_it_ends_with_the_same_store(muq_folder, tmp_path, wait_for):
    """The process itself, by SIGKILL, ten times; each time after it has done something."""
    rng = np.random.default_rng(0)
    (tmp_path / "music").mkdir()
    for i in range(150):
        wave = 0.1 * rng.standard_normal(rng.integers(24_000, 96_000))
        soundfile.write(tmp_path / "music" / f"{i}.wav", wave, 24_000)
    (tmp_path / "music" / "text.wav").write_text("no audio")

    def command(store):
        embed = [sys.executable, "-m", "muq_jax", "embed", muq_folder, tmp_path / "music", "--out", store]
        return [*embed, "--window_seconds", "1", "--batch_size", "2", "--frames"]

    def size():
        journal = tmp_path / "killed" / JOURNAL
        return journal.stat().st_size if journal.is_file() else 0

    for _ in range(10):
        enough = size() + rng.integers(1, 2_000)
        process = subprocess.Popen(command(tmp_path / "killed"), cwd=ROOT, env=ONE_DEVICE)
        wait_for(process, lambda enough=enough: size() >= enough, look_every=0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert subprocess.run(command(tmp_path / "killed"), cwd=ROOT, env=ONE_DEVICE).returncode == 3
    assert subprocess.run(command(tmp_path / "left_alone"), cwd=ROOT, env=ONE_DEVICE).returncode == 3
    killed, left_alone = contents(tmp_path / "killed"), contents(tmp_path / "left_alone")
    assert {path for path in killed if path.suffix != ".unfinished"} == left_alone.keys()
    assert all(killed[path] == data for path, data in left_alone.items() if path.suffix != ".npz")
    for path in left_alone:
        if path.suffix == ".npz":  # zip archives hold the time
            frames = [np.load(tmp_path / store / path)["layer_2"] for store in ("killed", "left_alone")]
            np.testing.assert_array_equal(*frames)


# Linux counts what the starting process holds as the started one's, so a small one stands between.
MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak_bytes(command):
    """Runs a command and returns the most memory that it held."""
    measured = [sys.executable, "-c", MEASURE, *map(str, command)]
    done = subprocess.run(measured, cwd=ROOT, env=ONE_DEVICE, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_ten_minutes(tmp_path):
    """A `tiny`, with the command's defaults."""
    config = muq_config("tiny")
    shapes = rules.state_dict_shapes(muq_names.muq_table(config), muq_names.template(config))
    MuQ(config, muq_names.from_torch_names(random_tensors(shapes), config)).save_pretrained(tmp_path / "tiny")
    peaks = []
    for minutes in (10, 60):
        rng, path = np.random.default_rng(0), tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 24_000, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(0.1 * rng.standard_normal(60 * 24_000))
        store = tmp_path / f"store_{minutes}"
        command = [sys.executable, "-m", "muq_jax", "embed", tmp_path / "tiny", path, "--out", store]
        peaks.append(peak_bytes(command))
        assert load_vectors(store).ends == 60 * minutes
    assert peaks[1] < 1.2e9
    assert peaks[1] < peaks[0] + 100e6
