"""The command `probe`: a task of one's own, several models in one table, and what it refuses."""

import json

import numpy as np
import pytest
import soundfile

from muq_jax.cli import DONE, FAILED, SOME_FILES_FAILED, WRONG_USAGE, main

RATE_HZ = 8000


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Tones and noises; one clip has no label, one is no audio."""
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        what = "tone" if i % 2 else "noise"
        t = np.arange(RATE_HZ) / RATE_HZ
        wave = np.sin(2 * np.pi * 400 * t) if what == "tone" else rng.normal(size=len(t)) / 4
        soundfile.write(folder / f"{i}.wav", 0.3 * wave + 0.01 * rng.normal(size=len(t)), RATE_HZ)
        split = ("train", "train", "train", "val", "test")[i // 2 % 5]
        rows.append({"path": f"{i}.wav", "split": split, "what": what, "part": "even" if i < 20 else "odd"})
    rows[0]["what"] = None
    path = folder / "clips.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def probe(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*more, model="logmel", file=manifest, label="what"):
        own = ["--task", "custom", "--manifest", str(file), "--label", label, "--kind", "classification"]
        quick = ["--learning_rates", "5e-3", "--seeds", "1", "--out", str(tmp_path / "out")]
        return main(["probe", model, *own, *quick, *more])

    return run


def test_labels_of_one_s_own(probe, tmp_path, capsys):
    assert probe() == DONE
    out, cache = tmp_path / "out", tmp_path / "cache/muq_jax/features"
    result = json.loads((out / "result.json").read_text())
    assert result["test"]["accuracy"] == 1.0 and result["left_out"] == {"no label": 1}
    assert (result["num_train"], result["num_val"], result["num_test"]) == (23, 8, 8)
    assert [path.name.split("-")[0] for path in cache.iterdir()] == ["logmel"]
    page = (out / "index.html").read_text()
    assert "logmel" in page and "http" not in page.replace("http://www.w3.org", "")
    assert "accuracy" in (out / "table.csv").read_text() and "toprule" in (out / "table.tex").read_text()
    assert "page: " in capsys.readouterr().out
    # Another model joins the table; the first one's result stays.
    assert probe(model="cqt") == DONE
    assert json.loads((out / "result.json").read_text())["encoder"] == "cqt"
    page = (out / "index.html").read_text()
    assert "cqt" in page and "logmel" in page
    capsys.readouterr()
    assert probe() == DONE
    assert "already done" in capsys.readouterr().out


def test_some_rows(probe, tmp_path):
    assert probe("--where", "part=even", "--name", "floor") == DONE
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["num_train"] + result["num_val"] + result["num_test"] == 19


def test_a_file_that_is_no_audio_is_left_out_and_said(manifest, probe, tmp_path, capsys):
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        row["path"] = str(manifest.parent / row["path"])
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF nothing")
    rows[5]["path"], rows[7]["path"] = str(bad), str(tmp_path / "missing.wav")
    file = tmp_path / "clips.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert probe(file=file) == SOME_FILES_FAILED
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["left_out"] == {"no label": 1, "could not be heard": 2}
    assert any("no such file" in why for why in result["failures"].values())
    assert "2 clips could not be heard" in capsys.readouterr().err
    assert probe(file=file) == DONE, "the same command on a finished run"


def test_features_of_another_model_in_the_cache_are_refused(probe, tmp_path, capsys):
    assert probe() == DONE
    (header,) = (tmp_path / "cache").rglob("space.json")
    content = json.loads(header.read_text())
    header.write_text(json.dumps({**content, "digest": "0" * 64}))
    assert probe("--shots", "3", "--out", str(tmp_path / "other")) == FAILED
    error = capsys.readouterr().err
    assert "features whose digest is '000" in error and "not mixed" in error


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--label", "colour"], "no row has a column 'colour'"),
        (["--kind", "guess"], "no kind 'guess'; expected one of classification"),
        (["--where", "part"], "--where is 'part'; expected COLUMN=VALUE"),
        (["--where", "part=third"], "no row has part=third"),
        (["--where", "what=tone"], "has 'tone' alone; with a single class"),
        (["--classes", "tone,noise,speech"], "no training clip has the class 'speech'"),
        (["--classes", "tone,speech"], "'speech'"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--protocol", "v3"], "no protocol 'v3'"),
        (["--manifest", "nowhere.jsonl"], "nowhere.jsonl: no such manifest"),
        (["--finetune"], "logmel: only a MuQ"),
        (["--metrics", "beat_f"], "'beat_f' is no metric of classification"),
    ],
)
def test_what_is_refused(more, says, probe, tmp_path, capsys):
    assert probe(*more) == FAILED
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["probe", "logmel"], "one of the arguments --task --suite is required"),
        (["probe", "logmel", "--task", "a", "--suite", "b"], "not allowed with"),
        (["probe", "--task", "custom"], "MODEL"),
        (["probe", "logmel", "--task", "custom", "--learning_rates", "fast"], "no list of numbers"),
    ],
)
def test_wrong_usage(command, says, capsys):
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == WRONG_USAGE and says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["logmel", "--task", "gtzan_gener"], "did you mean gtzan_genre?"),
        (
            ["logmel", "--task", "gtzan_genre", "--label", "x", "--data", "."],
            "--label belongs to --task custom",
        ),
        (["logmel", "--task", "custom", "--label", "x"], "--task custom needs --manifest"),
        (["logmel", "cqt", "--task", "custom", "--name", "x"], "--name names one model"),
        (["logmel", "--suite", "nowhere.json"], "nowhere.json: no such file"),
    ],
)
def test_arguments_that_do_not_go_together(command, says, capsys):
    assert main(["probe", *command]) == FAILED
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("random:huge", "no preset 'huge'"),
        ("random:smoke:x", "the seed is 'x'"),
        ("no/such/model", "no/such/model"),
    ],
)
def test_models_that_there_are_not(model, says, probe, capsys):
    assert probe(model=model) == FAILED
    assert says in capsys.readouterr().err
