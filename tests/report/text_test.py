"""`info`: what a model folder or a work directory is said to hold."""

import json

import jax
import pytest

from muq_jax import MelRVQ
from muq_jax.errors import UserError
from muq_jax.models import mel_rvq
from muq_jax.models.config import MelRVQConfig
from muq_jax.quantize.rvq import RVQConfig
from muq_jax.report.text import describe


def test_a_model_folder_is_described(tmp_path):
    config = MelRVQConfig(rvq=RVQConfig(num_books=2, num_codes=64, num_projection_layers=2))
    model = MelRVQ(config, jax.jit(lambda key: mel_rvq.init(key, config))(jax.random.key(0)))
    model.save_pretrained(tmp_path / "rvq")
    assert "licence: not stated" in describe(tmp_path / "rvq")
    (tmp_path / "rvq" / "LICENSE").write_text("\n  CC BY-NC 4.0\nmore")
    said = describe(tmp_path / "rvq")
    assert said.startswith(f"{tmp_path / 'rvq'}: model folder, mel_rvq")
    assert "licence: CC BY-NC 4.0\n" in said and "num_codes 64" in said
    digest = said.split("params sha256 ")[1]
    assert digest in (tmp_path / "rvq" / "README.md").read_text()


@pytest.mark.parametrize("text, says", [(None, "does not exist"), ("{", "not readable as JSON")])
def test_a_folder_that_is_no_model_is_the_users_mistake(tmp_path, text, says):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=rf"config\.json.* {says}"):
        describe(tmp_path)


def test_a_run_with_a_broken_configuration_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not readable as JSON"):
        describe(tmp_path)


def test_a_run_is_called_healthy_only_once_it_was_measured(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert "newest checkpoint: none yet" in describe(tmp_path)
    assert "health: nothing was measured yet" in describe(tmp_path)

    row = {"split": "valid", "step": 3, "loss": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert "health: nothing found wrong" in describe(tmp_path)

    health = {"split": "health", "step": 3, "check": "x", "message": "the loss does not fall"}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(health) + "\n")
    said = describe(tmp_path)
    assert "health: step 3: the loss does not fall" in said and "nothing" not in said


def test_retrieval_stands_beside_its_chance(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    row = {"split": "valid", "step": 3, "loss": -0.5, "accuracy": 0.5, "accuracy_chance": 0.03125}
    for way, found in (("text_to_music", 0.778), ("music_to_text", None)):
        row |= {f"{way}_recall_at_10": found, f"{way}_recall_at_10_chance": 0.0304}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    said = " ".join(describe(tmp_path).split())
    assert "validation, step 3: loss -0.5000, nearest in its batch 50.0% (chance 3.1%)" in said
    assert "R@10 text to music 77.8% (chance 3.0%), R@10 music to text - (chance 3.0%)" in said
