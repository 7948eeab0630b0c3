"""A MuQ-MuLan from its training to a search: resumed to the bit, exported, and asked in words."""

import contextlib

import jax
import numpy as np
import pytest
import soundfile

from experiments import train
from experiments.configs import mulan
from muq_jax import MuQ, MuQMuLan
from muq_jax.cli import DONE, main
from muq_jax.errors import UserError
from muq_jax.inference.load import params_sha256
from muq_jax.models.config import muq_config
from muq_jax.models.muq import MuQModel
from muq_jax.train import loop
from muq_jax.train.metrics import read_rows

STEPS, STOP = 12, 5


@pytest.fixture(scope="module")
def muq(tmp_path_factory):
    config = muq_config("smoke", rvq=None)
    variables = jax.jit(MuQModel(config).init)(jax.random.key(5), np.zeros((1, 2000), np.float32))
    folder = tmp_path_factory.mktemp("muq") / "model"
    MuQ(config, variables).save_pretrained(folder)
    return folder


def config_of(muq, **changes):
    config = mulan.get_config("smoke")
    config.targets.muq, config.train.num_steps, config.train.eval_every = str(muq), STEPS, 6
    config.data.batch_size, config.optim.accumulate, config.mesh.data, config.mesh.fsdp = 16, 2, 4, 2
    config.data.text.update(caption_dropout=0.5)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def run(muq, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mulan") / "run"
    return workdir, train.run(config_of(muq), workdir)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bits(run, muq, tmp_path, monkeypatch):
    workdir, whole = run
    steps = iter(range(1, STEPS + 1))

    @contextlib.contextmanager
    def stopping():
        yield lambda: next(steps) == STOP

    with monkeypatch.context() as patch:
        patch.setattr(loop, "stops", stopping)
        first = train.run(config_of(muq), tmp_path / "run")
    assert (first.status, first.step, first.params_sha256) == ("interrupted", STOP, None)
    assert train.run(config_of(muq), tmp_path / "run") == whole
    kept = [
        [
            {name: row[name] for name in row if name.startswith(("loss", "accuracy", "text_to", "music_to"))}
            for row in read_rows(folder / "metrics.jsonl")
            if row["split"] == "valid"
        ]
        for folder in (workdir, tmp_path / "run")
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 2
    with pytest.raises(UserError, match=r"targets\.tokenizer_sha256|data\.source"):
        train.run(config_of(muq, **{"data.source": "toy_music:60"}), tmp_path / "run")


@pytest.mark.slow
def test_the_model_searches_and_tags_files_that_it_has_not_seen(run, tmp_path, capsys):
    workdir, result = run
    music = tmp_path / "music"
    music.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).uniform(-0.3, 0.3, 24_000 * (number + 1))
        soundfile.write(music / f"{number}.wav", noise, 24_000)
    model = str(tmp_path / "model")
    assert main(["convert", str(workdir), model]) == DONE
    mulan = MuQMuLan.from_pretrained(model)
    assert params_sha256(mulan) == result.params_sha256 and mulan.config.clip_seconds == 2
    store = str(tmp_path / "store")
    assert main(["embed", model, str(music), "--out", store]) == DONE
    capsys.readouterr()
    assert main(["search", store, "--model", model, "--text", "a slow piano 🎹 piece"]) == DONE
    assert len(capsys.readouterr().out.splitlines()) == 3
    (tmp_path / "labels.txt").write_text("piano\nflute\n", encoding="utf-8")
    assert main(["tag", str(workdir), str(music), "--labels", str(tmp_path / "labels.txt")]) == DONE
    assert capsys.readouterr().out.count("piano") == 3
