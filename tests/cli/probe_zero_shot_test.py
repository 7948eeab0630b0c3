"""The command `probe` without learning: labels and captions as words, on folders as they are published."""

import json

import numpy as np
import pytest
import soundfile

from muq_jax.cli import DONE, FAILED, SOME_FILES_FAILED, main
from muq_jax.probe.datasets import magnatagatune
from tests.probe.marble_folders import make_gtzan, make_magnatagatune

RATE_HZ = 24_000


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Nine tracks of a second, all but one in the test split; the last two have tags alone."""
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(0)
    rows = []
    for n in range(9):
        soundfile.write(
            folder / f"{n}.wav",
            0.2 * rng.standard_normal(RATE_HZ) * np.sin(np.arange(RATE_HZ) / (n + 1)),
            RATE_HZ,
        )
        row = {
            "path": f"{n}.wav",
            "split": "test",
            "mood": "calm" if n < 6 else "wild",
            "tags": ["calm", "piano"][n % 2 :],
        }
        rows.append(row | ({"caption": f"a calm piece, number {n // 2}"} if n < 7 else {}))
    rows[0]["split"] = "val"
    path = folder / "clips.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def probe(mulan_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*more, model=None):
        words = ["probe", str(model or mulan_folder), *map(str, more), "--out", str(tmp_path / "out")]
        status = main(words)
        return status, *capsys.readouterr()

    return run


def result(tmp_path):
    return json.loads((tmp_path / "out/result.json").read_text())


@pytest.mark.slow
def test_both_splits_of_magnatagatune(probe, tmp_path, monkeypatch):
    make_magnatagatune(tmp_path / "mtt", seconds=0.5)
    command = ["--task", "magnatagatune", "--data", tmp_path / "mtt", "--protocol", "zero_shot"]
    status, out, err = probe(*command)
    assert status == DONE
    content = result(tmp_path)
    assert [(part["name"], part["num_items"]) for part in content["parts"]] == [
        ("test", 6),
        ("test, cleaned", 5),
    ]
    for part in content["parts"]:
        assert set(part["scores"]) == {"raw", "calibrated"} and part["chance"]["roc_auc"] == 0.5
        assert all(0 <= value <= 1 for scores in part["scores"].values() for value in scores.values())
    assert "test, cleaned (5)" in out and "published" not in out
    assert "6 clips were heard; published are 5,329" in err
    assert set(content["prompts"]["texts"]) == set(magnatagatune.TAGS) and content["versions"]["jax"]
    assert (tmp_path / "out/index.html").is_file()
    # The same command on a finished run says so, and changes nothing.
    before = (tmp_path / "out/result.json").stat().st_mtime_ns
    status, out, _ = probe(*command)
    assert status == DONE and out.startswith("already done: ")
    assert (tmp_path / "out/result.json").stat().st_mtime_ns == before
    # Other prompts are another result; what was heard is not heard again.
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"magnatagatune": {"templates": ["the sound of {}"]}}))
    status, _, err = probe(*command, "--prompts", own)
    assert status == FAILED and "holds a result whose prompts_sha256" in err
    (tmp_path / "out/result.json").unlink()
    monkeypatch.setattr("muq_jax.probe.tracks.embed_files", None)
    assert probe(*command, "--prompts", own)[0] == DONE
    assert result(tmp_path)["prompts"]["texts"]["flute"] == ["the sound of flute"]
    assert result(tmp_path)["prompts_sha256"] != content["prompts_sha256"]


@pytest.mark.slow
def test_genres(probe, tmp_path):
    make_gtzan(tmp_path / "gtzan", seconds=0.5)
    (tmp_path / "gtzan/genres/pop/pop.00003.wav").write_text("no music")
    command = ["--task", "gtzan_genre", "--data", tmp_path / "gtzan", "--protocol", "zero_shot"]
    status, out, err = probe(*command)
    assert status == SOME_FILES_FAILED
    (part,) = result(tmp_path)["parts"]
    assert part["num_items"] == 9 and part["chance"] == {"accuracy": pytest.approx(0.1)}
    assert part["majority"] == {"accuracy": pytest.approx(1 / 9)} and "most frequent label" in out
    assert list(result(tmp_path)["failures"]) == ["pop.00003"] and "1 clips could not be heard" in err


@pytest.mark.slow
def test_captions_and_labels_of_one_s_own(probe, manifest, tmp_path):
    status, out, _ = probe("--task", "retrieval", "--manifest", manifest, "--cache", tmp_path / "own cache")
    assert status == DONE and "text to music (6)" in out and "music to text (8)" in out
    content = result(tmp_path)
    assert content["num_tracks"] == 8 and content["left_out"] == {} and content["split"] == "test"
    # Six texts of eight tracks; two of them belong to two.
    assert content["parts"][0]["chance"]["recall_at_1"] == pytest.approx((4 * 1 + 2 * 2) / 8 / 6)
    assert content["parts"][1]["chance"]["recall_at_1"] == pytest.approx(1 / 6)
    (tmp_path / "out/result.json").unlink()
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    mute = {**next(row for row in rows if row["split"] == "test"), "id": "mute", "caption": None, "tags": []}
    some = manifest.with_name("some.jsonl")
    some.write_text("".join(json.dumps(row) + "\n" for row in [*rows, mute]))
    _, _, err = probe("--task", "retrieval", "--manifest", some, "--cache", tmp_path / "own cache")
    assert "note: retrieval: left out 1 (no text)" in err
    assert (tmp_path / "own cache").is_dir() and not (tmp_path / "cache/muq_jax/features").exists()
    (tmp_path / "out/result.json").unlink()
    own = [
        "--task",
        "custom",
        "--manifest",
        manifest,
        "--protocol",
        "zero_shot",
        "--cache",
        tmp_path / "own cache",
    ]
    assert probe(*own, "--label", "mood", "--kind", "classification", "--classes", "wild,calm,sad")[0] == DONE
    (part,) = result(tmp_path)["parts"]
    assert part["majority"] == {"accuracy": pytest.approx(5 / 8)} and part["chance"][
        "accuracy"
    ] == pytest.approx(1 / 3)
    (tmp_path / "out/result.json").unlink()
    assert probe(*own, "--label", "tags", "--kind", "multilabel")[0] == DONE
    assert result(tmp_path)["label_counts"] == {"calm": 4, "piano": 8}


CUSTOM = ["--task", "custom", "--kind", "classification", "--label", "mood", "--protocol", "zero_shot"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([*CUSTOM, "--seeds", "3"], "--seeds does not go with --protocol zero_shot"),
        ([*CUSTOM, "--finetune"], "--finetune does not go with"),
        ([*CUSTOM, "--layers", "0,1"], "--layers does not go with"),
        ([*CUSTOM, "--window_seconds", "5"], "--window_seconds does not go with"),
        ([*CUSTOM, "--split", "train"], "found 0 train, 1 val, 8 test clips; expected at least two in train"),
        ([*CUSTOM, "--prompts", "nowhere.json"], "nowhere.json: no such file of prompts"),
        (
            [*CUSTOM, "--classes", "calm,sad"],
            "has the label 'wild', which is out of the vocabulary: calm, sad",
        ),
        ([*CUSTOM, "--label", "tags"], "classification takes one text or number"),
        (["--task", "retrieval", "--protocol", "v1"], "--task retrieval learns nothing"),
        (["--task", "retrieval", "--label", "mood"], "--label belongs to --task custom"),
        (["--task", "retrieval", "--data", "."], "--data does not go with --task retrieval"),
        (["--task", "retrieval", "--prompts", "own.json"], "--prompts does not go with --task retrieval"),
        (["--task", "retrieval", "--split", "train"], "no row of split 'train'; found test, val, expected"),
        (["--task", "retrieval", "--where", "mood=sad"], "no row has mood=sad"),
        (["--task", "retrieval", "--where", "mood"], "--where is 'mood'; expected COLUMN=VALUE"),
        ([*CUSTOM, "--protocol", "v1", "--split", "val"], "--split belongs to --protocol zero_shot"),
        ([*CUSTOM, "--protocol", "v1", "--prompts", "own.json"], "--prompts belongs to --protocol zero_shot"),
    ],
)
def test_what_is_refused(more, says, probe, manifest, tmp_path):
    status, _, err = probe(*more, "--manifest", manifest, model="logmel")
    assert status == FAILED and says in err and err.startswith("error: ") and not (tmp_path / "out").exists()


def test_what_the_command_lacks(probe, manifest, capsys):
    assert "--task retrieval needs --manifest" in probe("--task", "retrieval", model="logmel")[2]
    assert "gtzan_genre needs --data" in probe("--task", "gtzan_genre", "--protocol", "zero_shot")[2]
    assert main(["probe", "a", "b", "--task", "retrieval", "--manifest", str(manifest)]) == FAILED
    assert "2 models; --protocol zero_shot takes one" in capsys.readouterr().err
    assert main(["probe", "a", "--suite", "s.json", "--protocol", "zero_shot"]) == FAILED
    assert "--suite does not go with --protocol zero_shot" in capsys.readouterr().err


def test_models_without_words_are_refused(probe, manifest, muq_folder):
    status, _, err = probe(*CUSTOM, "--manifest", manifest, model="logmel")
    assert status == FAILED and "logmel has no text tower" in err
    status, _, err = probe("--task", "retrieval", "--manifest", manifest, model=muq_folder)
    assert status == FAILED and "muq has no text tower" in err and "needs a MuQ-MuLan" in err
