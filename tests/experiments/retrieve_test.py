import json

import numpy as np
import pytest
import soundfile

from experiments import excerpts, retrieve
from muq_jax.errors import UserError
from muq_jax.inference.search import search

RATE = 24_000


@pytest.fixture
def data(tmp_path):
    """Pieces of three excerpts of half a second, each a tone of its own with noise; a clip in two formats."""
    rng = np.random.default_rng(0)

    def write(path, frequency_hz, seconds):
        path.parent.mkdir(parents=True, exist_ok=True)
        time_s = np.arange(round(seconds * RATE)) / RATE
        wave = 0.3 * np.sin(2 * np.pi * frequency_hz * time_s) + 0.01 * rng.standard_normal(time_s.size)
        soundfile.write(path, wave, RATE)
        return path.name

    corpus, clips = tmp_path / "data" / "corpus", tmp_path / "data" / "clips"
    rows = [
        {
            "id": f"{split}{i}",
            "path": write(corpus / f"{split}{i}.wav", 200 + 300 * i, 2.0),
            **{"split": split, "source": "s", "genre": "folk" if i else "pop", "programs": [i // 2, 3]},
        }
        for split in ("train", "val", "test")
        for i in range(3)
    ]
    (corpus / "audio.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [
        {"path": write(clips / name, frequency_hz, s), "duration_s": s, "description": name[:4]}
        for name, frequency_hz, s in (
            *(("long_start.wav", 900, 0.6), ("long.wav", 900, 2.0), ("long.flac", 900, 2.0)),
            ("bird.wav", 2000, 0.1),
        )
    ]
    (clips / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


@pytest.mark.slow
def test_the_command_answers_every_question(muq_folder, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(excerpts, "EXCERPT_SECONDS", 0.5)
    monkeypatch.setattr(excerpts, "GAP_SECONDS", 0.25)
    out = tmp_path / "out"
    retrieve.main([str(muq_folder), str(data), "--out", str(out), "--seeds", "2"])
    rows = json.loads((out / "results.json").read_text())["rows"]
    names = {row["question"] for row in rows}
    assert names == {question.name for question in retrieve.QUESTIONS} | {
        f"val split, layer {n}" for n in (0, 1, 2)
    }
    assert len({row["encoder"] for row in rows}) == 7
    assert all(0 <= row[metric] <= 1 for row in rows for metric in retrieve.METRICS)
    [log_mel] = [
        row
        for row in rows
        if (row["question"], row["kind"], row["encoder"]) == ("test split", "all", "logmel, standardised")
    ]
    assert log_mel["pieces"] == 3 and log_mel["recall@1"] == log_mel["MAP"] == 1.0  # a tone of its own each
    assert {row["kind"] for row in rows if row["question"] == "real clips"} == {"all", "long.wav"}
    kinds = {row["kind"]: row["pieces"] for row in rows if row["question"] == "whole corpus"}
    assert kinds == {"all": 9, "folk": 6, "pop": 3}
    assert "| test split | all | 3 |" in capsys.readouterr().out

    # The first answer of the product's own command is the one that was scored.
    trained = {
        row["kind"]: row for row in rows if (row["question"], row["encoder"]) == ("whole corpus", "MuQ")
    }["all"]
    hits = []
    for piece in (f"corpus/{split}{i}" for split in ("train", "val", "test") for i in range(3)):
        for n in range(3):
            matches = search(out / "store", audio=f"{piece}/00{n}.wav", k=99)
            first = next(match.id for match in matches if match.id.startswith("corpus/"))
            hits.append(first.startswith(f"{piece}/"))
    assert len(hits) == 27 and np.mean(hits) == pytest.approx(trained["recall@1"])

    with pytest.raises(UserError, match="exists; give a new folder"):
        retrieve.main([str(muq_folder), str(data), "--out", str(out)])


def test_mistakes_are_named(muq_folder, data, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match=r"audio\.jsonl: no such manifest"):
        retrieve.main([str(muq_folder), str(tmp_path), "--out", out, "--seeds", "1"])
    with pytest.raises(UserError, match="seeds must be at least 1, found 0"):
        retrieve.main([str(muq_folder), str(data), "--out", out, "--seeds", "0"])
    with pytest.raises(UserError, match="level_db must be from -80 to 0, found nan"):
        retrieve.main([str(muq_folder), str(data), "--out", out, "--level_db", "nan"])
    with pytest.raises(UserError, match="nowhere"):
        retrieve.main([str(tmp_path / "nowhere"), str(data), "--out", out])
    manifest = data / "corpus" / "audio.jsonl"
    manifest.write_text(manifest.read_text().replace('"test"', '"train"'))
    with pytest.raises(UserError, match="no clip of split 'test'; found train, val"):
        retrieve.main([str(muq_folder), str(data), "--out", out, "--seeds", "1"])
