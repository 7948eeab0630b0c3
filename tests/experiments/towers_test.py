"""What a MuQ-MuLan begins with, and what is said before anything is written where it cannot."""

import json

import jax
import numpy as np
import pytest
import soundfile

from experiments import build, stages, train
from experiments.configs import mulan
from muq_jax import MuQ
from muq_jax.errors import UserError
from muq_jax.inference.load import params_sha256
from muq_jax.models import mel_rvq
from muq_jax.models.config import muq_config
from muq_jax.models.muq import MuQModel
from muq_jax.parallel import make_mesh
from muq_jax.train.optim import make_optimizer
from muq_jax.train.state import init_state
from tests.convert.xlm_roberta_test import CONFIG as XLM
from tests.convert.xlm_roberta_test import folder, params  # noqa: F401  # the fixtures of a released encoder


@pytest.fixture(scope="module")
def muq(tmp_path_factory):
    """Returns a model folder."""
    config = muq_config("smoke", conformer={"num_layers": 3})
    wave = np.zeros((1, 2000), np.float32)
    path = tmp_path_factory.mktemp("muq") / "model"
    variables = dict(jax.jit(MuQModel(config).init)(jax.random.key(5), wave))
    MuQ(config, {**variables, "rvq": mel_rvq.init(jax.random.key(6), config.mel_rvq)}).save_pretrained(path)
    return path


def config_of(muq, **changes):
    config = mulan.get_config("smoke")
    config.targets.muq = str(muq)
    config.update_from_flattened_dict(changes)
    return config


def test_a_run_begins_with_the_muq_as_it_is(muq):
    config = config_of(muq)
    towers = stages.before(config).maker
    trained = MuQ.from_pretrained(muq)
    assert config.targets.sha256 == params_sha256(trained)
    trainee = build.make_trainee(config, towers)
    assert trainee.beside == {"tokenizer.json": towers.tokenizer}
    mesh = make_mesh(1, 1, devices=jax.devices()[:1])
    optimizer = make_optimizer(build.optim_config(config, trainee.lr_factors))
    state = init_state(trainee.objective, optimizer, mesh, jax.random.key(0), trainee.given)
    found = state.params["audio"]["muq"], state.model_state["batch_stats"]["audio"]["muq"]
    wanted = trained.params, trained.variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    jax.tree.map(np.testing.assert_array_equal, state.model_state["rvq"], trained.variables["rvq"])


def test_the_tokenizer_is_fitted_to_the_training_texts_alone_and_once(muq, tmp_path):
    found = stages.before(config_of(muq)).maker
    tokens = json.loads(found.tokenizer)["model"]["vocab"]
    assert found.text.vocab_size == len(tokens) <= 512 and "Ġminor" in tokens
    assert stages.before(config_of(muq)).maker.tokenizer == found.tokenizer
    (tmp_path / "tokenizer.json").write_bytes(found.tokenizer)
    other = config_of(muq, **{"data.source": "toy_music:60"})
    assert stages.before(other).maker.tokenizer != found.tokenizer
    config = config_of(muq, **{"data.source": "toy_music:60"})
    assert stages.before(config, None, tmp_path).maker.tokenizer == found.tokenizer
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"/tokenizer\.json is not a tokenizer"):
        stages.before(config, None, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(
        UserError, match=r"/tokenizer\.json could not be read: .* put it back, or take another"
    ):
        stages.before(config, None, tmp_path)


def test_a_released_text_encoder(muq, folder):  # noqa: F811
    changes = {"model.text_model": "xlm-roberta-base", "model.text": {}, "targets.text": str(folder)}
    config = config_of(muq)
    for name, value in changes.items():
        config.update_from_flattened_dict({name: value})
    config.data.text.max_tokens = 16
    towers = stages.before(config).maker
    assert towers.text == XLM and len(config.targets.text_sha256) == 64
    trainee = build.make_trainee(config, towers)
    given = trainee.given["params/text/roberta"]
    np.testing.assert_array_equal(given["words"], towers.text_params["words"])
    config.data.text.max_tokens = XLM.max_tokens + 1
    with pytest.raises(UserError, match=f"max_tokens={XLM.max_tokens + 1}: the text encoder reads at most"):
        build.make_trainee(config, towers)
    assert trainee.objective.config.audio_transformer.width == 24


def test_layers_learn_the_slower_the_lower(muq):
    config = config_of(muq, **{"optim.audio_lr_factor": 0.5, "optim.layer_decay": 0.5})
    factors = dict(build.make_trainee(config, stages.before(config).maker).lr_factors)
    assert factors["audio/muq/conformer/layers"] == (0.5**4, 0.5**3, 0.5**2)
    assert factors["audio/muq/subsample"] == 0.5**5 and factors["audio/muq"] == 0.5
    assert factors["text/roberta/layers"] == (0.5,) and factors["text/roberta/words"] == 0.25
    assert list(factors).index("audio/muq/subsample") < list(factors).index("audio/muq")
    assert build.make_trainee(config_of(muq), stages.before(config_of(muq)).maker).lr_factors == ()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"targets.muq": None, "targets.train": None}, "targets.muq is not set: the audio tower"),
        ({"targets.muq": "nowhere"}, "targets.muq=nowhere"),
        ({"model.text_model": "bert"}, "model.text_model='bert': expected xlm-roberta-base or small"),
        ({"model.text_model": "xlm-roberta-base"}, "targets.text is not set"),
        ({"targets.text": "somewhere"}, "a small text encoder is trained from scratch"),
        ({"optim.frozen": ("text/roberta",)}, "optim.frozen has text/roberta: a small text encoder is drawn"),
        ({"data.text.plain_rate": 2.0}, "data.text.plain_rate=2.0: expected a share"),
        ({"data.text.max_tokens": 2}, "data.text.max_tokens=2: expected 3 or more"),
        ({"model.text.vocab_size": 20}, "vocab_size=20: expected 260 or more"),
        ({"objective.loss": "triplet"}, "objective.loss='triplet'"),
        ({"objective.num_layers": 9}, "objective.num_layers=9: expected 0 to 1"),
        ({"optim.layer_decay": 0.0}, "layer_decay of 0.0; expected more than 0"),
        ({"model.dtype": "float16"}, "model.dtype='float16'"),
        ({"data.batch_size": 1}, "data.batch_size=1: every clip is told apart from the others of its step"),
        ({"optim.accumulate": 3}, "data.batch_size=8 does not divide into optim.accumulate=3 parts"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(muq, tmp_path, monkeypatch, changes, said):
    config = config_of(muq)
    for name, value in changes.items():
        config.update_from_flattened_dict({name: value})
    monkeypatch.setattr(train.loop, "run", lambda *args, **kwargs: pytest.fail("it trains"))
    with pytest.raises(UserError, match=said):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_variant_without_sizes_for_a_small_text_encoder_says_which_has_them(muq):
    config = mulan.get_config("base")
    config.targets.muq, config.model.text_model, config.optim.frozen = str(muq), "small", ()
    with pytest.raises(UserError, match="text_model=small: this variant has no sizes for it"):
        stages.before(config)
    with pytest.raises(UserError, match="this variant has no sizes"):
        stages.untrained_towers(config)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_clip_without_text_is_named_before_a_muq_is_trained(tmp_path, monkeypatch, split):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(24_000), 24_000)
    rows = [{"id": name, "caption": "A tune.", "split": name} for name in ("train", "val")]
    rows.append({"id": "mute", "split": split})
    lines = (json.dumps({"path": "a.wav", **row}) + "\n" for row in rows)
    (tmp_path / "music.jsonl").write_text("".join(lines))
    config = config_of(None, **{"data.source": str(tmp_path / "music.jsonl"), "targets.muq": None})
    monkeypatch.setattr(train.loop, "run", lambda *args, **kwargs: pytest.fail("it trains"))
    said = r"music\.jsonl: audio without text, 1 of 2 .*: clip 'mute': neither `caption` nor `tags`"
    with pytest.raises(UserError, match=said):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_failed_before_its_first_checkpoint_is_corrected_in_place(muq, tmp_path, monkeypatch):
    monkeypatch.setattr(train.loop, "run", lambda *args, **kwargs: pytest.fail("it has begun"))
    run = tmp_path / "run"
    found = []
    for changes in ({"data.source": "toy_music:40"}, {"data.source": "toy_music:60", "optim.peak_lr": 1e-4}):
        with pytest.raises(pytest.fail.Exception, match="it has begun"):
            train.run(config_of(muq, **changes), run)
        found.append((json.loads((run / "config.json").read_text()), (run / "tokenizer.json").read_bytes()))
    assert found[1][0]["optim"]["peak_lr"] == 1e-4
    assert found[0][1] != found[1][1] == stages.before(config_of(muq, **changes)).maker.tokenizer


def test_splits_that_nothing_reads_or_that_share_a_file_are_named(muq, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(train.loop, "run", lambda *args, **kwargs: pytest.fail("it has begun"))
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(24_000), 24_000)
    splits = ("train", "training", "val", "test")
    soundfile.write(tmp_path / "b.wav", 0.1 * np.random.default_rng(1).standard_normal(24_000), 24_000)
    files = ("a.wav", "a.wav", "a.wav", "b.wav")
    rows = (
        json.dumps({"id": split, "path": file, "caption": "A tune.", "split": split}) + "\n"
        for split, file in zip(splits, files, strict=True)
    )
    (tmp_path / "music.jsonl").write_text("".join(rows))
    with pytest.raises(pytest.fail.Exception, match="it has begun"):
        train.run(config_of(muq, **{"data.source": str(tmp_path / "music.jsonl")}), tmp_path / "run")
    assert "rows of the split training, which nothing here reads" in caplog.text
    assert "1 files of the validation are trained on, too, such as" in caplog.text


def test_without_validation_it_is_said(muq, tmp_path, monkeypatch, caplog):
    class Trained(Exception):
        pass

    def trains(*args, **kwargs):
        raise Trained

    monkeypatch.setattr(train.loop, "run", trains)
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(24_000), 24_000)
    (tmp_path / "music.jsonl").write_text(json.dumps({"path": "a.wav", "caption": "A tune."}))
    for source, said in (("toy_music:40", False), (str(tmp_path / "music.jsonl"), True)):
        caplog.clear()
        with pytest.raises(Trained):
            train.run(config_of(muq, **{"data.source": source}), tmp_path / f"run-{said}")
        assert ("no validation: data.source has no split" in caplog.text) is said
