"""A run's work directory as a source of models. The checkpoints are saved as the training loop saves them."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from experiments.original import random_tensors, upstream_config
from muq_jax import MelRVQ, MuQ, MuQMuLan
from muq_jax.checkpoint import Checkpoints
from muq_jax.convert import mel_rvq as mel_rvq_names
from muq_jax.convert import muq as muq_names
from muq_jax.convert import rules
from muq_jax.convert.reader import read_tensors
from muq_jax.convert.workdir import read_hidden_rvq
from muq_jax.errors import UserError
from muq_jax.inference.load import load_model, params_sha256
from muq_jax.models.config_json import from_upstream_json, mel_rvq_to_json, to_upstream_json
from muq_jax.models.hidden_rvq import HiddenRVQConfig, hidden_rvq_to_json
from muq_jax.models.mulan_json import mulan_to_json
from muq_jax.models.muq import MuQModel
from muq_jax.objectives.music_text import MusicText
from muq_jax.objectives.rvq import HiddenRVQObjective
from muq_jax.quantize.random_projection import RandomProjectionConfig, init_random_projection
from muq_jax.quantize.rvq import RVQConfig
from tests.models.mulan_test import small_config

CONFIG = from_upstream_json(upstream_config())


@pytest.fixture(scope="module")
def variables():
    shapes = rules.state_dict_shapes(muq_names.muq_table(CONFIG), muq_names.template(CONFIG))
    return muq_names.from_torch_names(random_tensors(shapes), CONFIG)


def save(workdir, params, model_state, described):
    items = {"params": params, "opt": {"count": np.zeros(())}, "model_state": model_state}
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(7, jax.tree.map(jax.numpy.asarray, items), {"model": described})


def assert_same(found, want):
    found, want = dict(rules.flatten(found)), dict(rules.flatten(want))
    assert found.keys() == want.keys()
    for path, array in want.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, variables):
    workdir = tmp_path_factory.mktemp("muq") / "run"
    state = {
        "batch_stats": variables["batch_stats"],
        "rvq": variables["rvq"],
        "code_counts": np.ones((2, 1024)),
    }
    save(workdir, variables["params"], state, to_upstream_json(CONFIG))
    return workdir


def test_a_run_and_its_exported_folder_are_the_same_model(run, variables, tmp_path):
    muq = MuQ.from_pretrained(run)
    assert muq.config == CONFIG
    assert_same(muq.variables, {name: variables[name] for name in ("params", "batch_stats", "rvq")})
    muq.save_pretrained(tmp_path / "model")
    digests = {
        rules.params_sha256(muq_names.to_torch_names(source, CONFIG))
        for source in (variables, muq.variables, MuQ.from_pretrained(tmp_path / "model").variables)
    }
    assert len(digests) == 1


def test_the_random_projection_of_a_run_goes_into_its_export(tmp_path):
    config = dataclasses.replace(CONFIG, rvq=None, num_books=1)
    fresh = MuQModel(config).init(jax.random.key(0), jax.numpy.zeros((1, 24_000)))
    sizes = RandomProjectionConfig(num_codes=config.num_codes)
    targets = init_random_projection(jax.random.key(1), sizes)
    state = {"batch_stats": fresh["batch_stats"], "targets": targets}
    save(tmp_path / "run", fresh["params"], state, to_upstream_json(config))
    MuQ.from_pretrained(tmp_path / "run").save_pretrained(tmp_path / "model")
    tensors = read_tensors(tmp_path / "model")
    for name in ("projection", "codebook"):
        theirs = tensors[f"model.quantizer_melspec_2048.{name.replace('projection', 'random_projection')}"]
        np.testing.assert_array_equal(theirs, targets[name][0])


def test_a_run_of_the_iterative_stage_exports_neither_its_teacher_nor_a_mel_rvq(tmp_path):
    """In the folder the tensors of the targets that upstream would build are zeros."""
    config = dataclasses.replace(CONFIG, rvq=None)
    fresh = MuQModel(config).init(jax.random.key(0), jax.numpy.zeros((1, 24_000)))
    hidden = {"teacher": {"params": {"kernel": np.ones(3)}}, "params": {"codebook": np.ones(3)}}
    state = {"batch_stats": fresh["batch_stats"], "hidden_rvq": hidden, "code_counts": np.ones((2, 1024))}
    save(tmp_path / "run", fresh["params"], state, to_upstream_json(config))
    muq = MuQ.from_pretrained(tmp_path / "run")
    assert muq.config == config and muq.variables.keys() == {"params", "batch_stats"}
    muq.save_pretrained(tmp_path / "model")
    assert MuQ.from_pretrained(tmp_path / "model").config == config
    tensors = read_tensors(tmp_path / "model")
    assert not any(name.startswith("model.rvq.") for name in tensors)
    codes = config.num_books * config.num_codes
    assert tensors["model.quantizer_melspec_2048.codebook"].shape == (codes, 16)
    assert not tensors["model.quantizer_melspec_2048.codebook"].any()
    for source in ("run", "model"):
        with pytest.raises(UserError, match="this MuQ carries no Mel-RVQ"):
            MelRVQ.from_pretrained(tmp_path / source)


def test_a_run_that_fits_a_hidden_rvq(tmp_path):
    config = HiddenRVQConfig(
        dataclasses.replace(CONFIG, rvq=None), 2, RVQConfig(num_books=2, input_dim=CONFIG.conformer.width)
    )
    params, state = jax.jit(HiddenRVQObjective(config).init)(jax.random.key(0))
    save(tmp_path / "run", params, state, hidden_rvq_to_json(config))
    found, variables = read_hidden_rvq(tmp_path / "run")
    assert found == config
    assert_same(variables, {"teacher": state["teacher"], "params": params})
    with pytest.raises(UserError, match="type 'hidden_rvq'; expected muq"):
        MuQ.from_pretrained(tmp_path / "run")


def test_only_a_hidden_rvq_is_read_as_one(run):
    with pytest.raises(UserError, match="type 'muq'; expected hidden_rvq"):
        read_hidden_rvq(run)


def test_the_mel_rvq_that_a_run_carries(run, variables):
    rvq = MelRVQ.from_pretrained(run)
    assert rvq.config == CONFIG.mel_rvq
    assert_same(rvq.variables, variables["rvq"])


def test_a_run_that_fits_a_mel_rvq(variables, tmp_path):
    params, state = variables["rvq"]["params"], {"codebook_state": variables["rvq"]["codebook_state"]}
    save(tmp_path / "run", params, state, mel_rvq_to_json(CONFIG.mel_rvq))
    rvq = MelRVQ.from_pretrained(tmp_path / "run")
    assert_same(rvq.variables, variables["rvq"])
    assert "quantizers.1.codebook.weight" in mel_rvq_names.to_torch_names(rvq.variables, rvq.config)
    with pytest.raises(UserError, match="type 'mel_rvq'; expected muq"):
        MuQ.from_pretrained(tmp_path / "run")


@pytest.mark.parametrize("loss_name, num_layers", [("decoupled", 0), ("sigmoid", 1)])
def test_a_run_that_trains_a_mulan(loss_name, num_layers, tokenizer_json, tmp_path):
    """What only the loss has, beside the towers, is no part of the model."""
    config = dataclasses.replace(
        small_config(),
        text_model="small",
        roberta=dataclasses.replace(small_config().roberta, vocab_size=150),
    )
    objective = MusicText(config, loss_name=loss_name, num_layers=num_layers)
    params, state = jax.jit(objective.init)(jax.random.key(0))
    save(tmp_path / "run", params, state, mulan_to_json(config))
    shutil.copy(tokenizer_json, tmp_path / "run")
    mulan = load_model(tmp_path / "run")
    assert isinstance(mulan, MuQMuLan) and mulan.config == config
    assert_same(mulan.params, {name: params[name] for name in ("audio", "text", "log_temperature")})
    assert_same(mulan.variables["rvq"], state["rvq"])
    mulan.save_pretrained(tmp_path / "model")
    again = MuQMuLan.from_pretrained(tmp_path / "model")
    assert again.config == config and params_sha256(again) == params_sha256(mulan)
    text = ["a slow piano piece"]
    np.testing.assert_array_equal(again(texts=text), mulan(texts=text))
    assert "the PyTorch package `muq` does not load it" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(UserError, match="type 'mulan'; expected muq"):
        MuQ.from_pretrained(tmp_path / "run")


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no whole checkpoint yet"):
        MuQ.from_pretrained(tmp_path)


def test_a_checkpoint_of_another_shape_is_named(variables, tmp_path):
    state = {"batch_stats": variables["batch_stats"], "rvq": variables["rvq"]}
    save(
        tmp_path / "run",
        variables["params"] | {"head": {"bias": np.zeros(3)}},
        state,
        to_upstream_json(CONFIG),
    )
    with pytest.raises(UserError, match="params/head/bias, params/head/kernel"):
        MuQ.from_pretrained(tmp_path / "run")
