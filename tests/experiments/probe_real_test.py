import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from experiments import probe_real
from muq_jax.data.manifest import Clip
from muq_jax.errors import UserError
from muq_jax.inference.pretrained import MuQ
from muq_jax.models.config import muq_config
from muq_jax.models.muq import MuQModel
from muq_jax.probe.features import LOG_MEL
from muq_jax.probe.run import MOST_FREQUENT, UNTRAINED

SPLITS = ("train", "train", "val", "test")


def write_manifest(path, labels):
    """Writes a manifest with a short tone for each split and each of two rows of labels."""
    path.parent.mkdir(parents=True)
    rows = []
    for number, row in enumerate(labels):
        for place, split in enumerate(SPLITS):
            name = f"{number}-{place}.wav"
            time_s = np.arange(12_000) / 24_000
            soundfile.write(path.parent / name, 0.3 * np.sin(440 * 2**number * np.pi * time_s), 24_000)
            rows.append({"path": name, "split": split, **row})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_labels_come_from_the_manifest_s_fields(tmp_path):
    clip = Clip("x", tmp_path, labels={"genre": "folk", "programs": [25, 0], "pitch": 61})
    assert probe_real.labels_of(clip) == {
        **{"genre": "folk", "key": None, "instrument_class": None},
        **{"instrument family": "guitar", "pitch class": "Db"},
    }
    assert set(probe_real.labels_of(Clip("x", tmp_path)).values()) == {None}


@pytest.mark.slow
def test_every_task_is_probed_and_every_encoder_compared(tmp_path, monkeypatch, capsys):
    write_manifest(
        tmp_path / "corpus" / "audio.jsonl",
        [
            {"genre": "folk", "key": "C:maj", "programs": [0]},
            {"genre": "jazz", "key": "A:min", "programs": [40]},
        ],
    )
    write_manifest(
        tmp_path / "notes" / "notes.jsonl",
        [{"instrument_class": "flute", "pitch": 60}, {"instrument_class": "oboe", "pitch": 72 + 7}],
    )
    short = tuple((manifest, 0.5, tasks) for manifest, _, tasks in probe_real.CORPORA)
    monkeypatch.setattr(probe_real, "CORPORA", short)
    config = dataclasses.replace(muq_config("smoke"), rvq=None)
    variables = jax.jit(MuQModel(config).init)(jax.random.key(0), jnp.zeros((1, 24_000)))
    model, out = str(tmp_path / "model"), tmp_path / "probe.json"
    MuQ(config, variables).save_pretrained(model)

    probe_real.main([str(tmp_path), "--models", model, "--seeds", "1", "--out", str(out)])
    content = json.loads(out.read_text())
    assert {row["task"] for row in content["rows"]} == {
        *("kind of music", "key", "instrument family", "note instrument", "note pitch class", "mean"),
    }
    assert {row["encoder"] for row in content["rows"]} == {MOST_FREQUENT, LOG_MEL, UNTRAINED, model}
    counts = {(row["num_train"], row["num_val"], row["num_test"]) for row in content["rows"]}
    assert counts == {(4, 2, 2), (20, 10, 10)}
    [octaves] = [
        row
        for row in content["rows"]
        if (row["task"], row["encoder"], row["metric"]) == ("kind of music", LOG_MEL, "accuracy")
    ]
    assert octaves["value"] == 1.0
    assert "| note pitch class | accuracy | 2 |" in capsys.readouterr().out


def test_a_missing_corpus_is_named(tmp_path):
    with pytest.raises(UserError, match=r"audio\.jsonl: no such manifest"):
        probe_real.main([str(tmp_path)])
