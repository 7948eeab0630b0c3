"""Every task of MARBLE from the command to its page, on small folders in the published layouts."""

import json

import pytest

from muq_jax.cli import DONE, main
from muq_jax.probe.tasks import TASKS
from tests.probe import marble_folders, marble_folders_more

MAKERS = {
    "gtzan_genre": marble_folders.make_gtzan,
    "gtzan_beat": marble_folders.make_gtzan_beat,
    "giantsteps_key": marble_folders.make_giantsteps,
    "emomusic": marble_folders.make_emomusic,
    "magnatagatune": marble_folders.make_magnatagatune,
    "mtg_jamendo_top50": marble_folders.make_mtg_jamendo,
    "mtg_jamendo_genre": marble_folders.make_mtg_jamendo,
    "mtg_jamendo_instrument": marble_folders.make_mtg_jamendo,
    "mtg_jamendo_mood": marble_folders.make_mtg_jamendo,
    "nsynth_pitch": marble_folders_more.make_nsynth,
    "nsynth_instrument": marble_folders_more.make_nsynth,
    "vocalset_singer": marble_folders_more.make_vocalset,
    "vocalset_technique": marble_folders_more.make_vocalset,
    "chords1217": marble_folders_more.make_chords1217,
    "hooktheory_key": marble_folders_more.make_hooktheory,
    "hooktheory_structure": marble_folders_more.make_hooktheory_structure,
    "harmonix_structure": marble_folders_more.make_harmonix,
}
# Above what the most frequent class, or no knowledge, gives: the sounds of the folders tell the labels.
LEARNED = {"accuracy", "weighted_key_score", "frame_accuracy"}


def test_every_task_is_run():
    assert list(MAKERS) == [name for name in TASKS]


@pytest.mark.parametrize("task", MAKERS)
def test_a_task_runs_from_its_published_layout_to_its_page(task, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    MAKERS[task](data)
    command = ["probe", "logmel", "--task", task, "--data", str(data), "--out", str(out), "--seeds", "1"]
    command += ["--cache", str(tmp_path / "cache"), "--learning_rates", "5e-3"]
    assert main(command) == DONE
    printed = capsys.readouterr()
    result = json.loads((out / "result.json").read_text())
    assert result["task"] == task and result["encoder"] == "logmel" and result["seeds"] == [0]
    assert min(result["num_train"], result["num_val"], result["num_test"]) > 0
    assert list(result["test"]) == list(TASKS[task].metrics)
    for metric, value in result["test"].items():
        assert value <= 1 and f"{metric} {value:.3f}" in printed.out
        if metric in LEARNED:
            assert value > result["baseline"][metric], (metric, value, result["baseline"])
    if TASKS[task].counts is not None:
        assert "note: " in printed.err, "a part of a data set is not comparable, which is said"
    assert f"page: {out / 'index.html'}" in printed.out
    before = (out / "result.json").read_bytes()
    assert main(command) == DONE
    assert "already done" in capsys.readouterr().out
    assert (out / "result.json").read_bytes() == before


@pytest.mark.parametrize("task", MAKERS)
def test_a_missing_data_set_says_what_to_get_from_where_and_where_to_put_it(task, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["probe", "logmel", "--task", task, "--data", str(tmp_path / "empty"), "--out", "out"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(tmp_path / "empty") in error
    assert TASKS[task].source in error
    assert main(["probe", "logmel", "--task", task]) == 1
    assert TASKS[task].source in capsys.readouterr().err


def run(task, data, folder):
    command = ["probe", "logmel", "--task", task, "--data", str(data), "--out", str(folder / "out")]
    options = ["--seeds", "1", "--cache", str(folder / "cache"), "--learning_rates", "5e-3"]
    assert main([*command, *options]) == DONE
    return json.loads((folder / "out/result.json").read_text())


@pytest.mark.parametrize(("task", "name"), [("gtzan_beat", "GTZANBeatTracking"), ("emomusic", "EMO")])
def test_marble_s_own_lists_run_by_the_same_command(task, name, tmp_path):
    marble_folders_more.make_marble_jsonl(tmp_path / "data", name)
    result = run(task, tmp_path / "data", tmp_path)
    assert result["task"] == task and result["num_train"] == marble_folders_more.NUM_TRAIN


def test_tfds_runs_by_the_same_command(tmp_path):
    data = marble_folders_more.make_tfds_nsynth(tmp_path / "data")
    result = run("nsynth_instrument", data, tmp_path)
    assert result["test"]["accuracy"] > result["baseline"]["accuracy"]


def test_tfds_of_a_task_that_it_does_not_have(tmp_path, capsys):
    assert main(["probe", "logmel", "--task", "emomusic", "--data", "tfds:emomusic"]) == 1
    assert "TFDS has no such data set" in capsys.readouterr().err
