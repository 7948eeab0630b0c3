"""The hub's library itself, on a cache as it makes them and told to ask nobody."""

import json
import os

import numpy as np
import pytest

from experiments.original import random_tensors, upstream_config
from muq_jax import MuQ, MuQMuLan
from muq_jax.convert import muq as muq_names
from muq_jax.convert import port, rules
from muq_jax.convert.find import find
from muq_jax.errors import UserError
from muq_jax.models.config_json import from_upstream_json

NAME, COMMIT = "OpenMuQ/MuQ-small", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path):
    """Returns the options that find it, and the folder where the hub keeps what it has fetched."""
    repository = tmp_path / "models--OpenMuQ--MuQ-small"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return {"cache_dir": tmp_path, "local_files_only": True}, snapshot


@pytest.fixture
def pickled(cached, torch_format):
    options, snapshot = cached
    config = from_upstream_json(upstream_config())
    table = muq_names.muq_table(config)
    tensors = random_tensors(rules.state_dict_shapes(table, muq_names.template(config)))
    (snapshot / "config.json").write_text(json.dumps(upstream_config()))
    (snapshot / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    torch_format(snapshot / "pytorch_model.bin", rules.complete(tensors, table))
    return options, snapshot


def test_pickles_are_converted_and_proved_on_first_use_alone(pickled, monkeypatch):
    options, snapshot = pickled
    first = MuQ.from_pretrained(NAME, **options)
    folder = find(NAME, **options)
    assert (folder / "model.safetensors").is_file() and (folder / "conversion.json").is_file()
    assert folder.name == "MuQ-small"
    assert "license: cc-by-nc-4.0" in (folder / "README.md").read_text()
    assert len(list(snapshot.iterdir())) == 3, "what was fetched is left as it was"
    monkeypatch.setattr(port, "port", None)
    again = MuQ.from_pretrained(NAME, **options)
    direct = MuQ.from_pretrained(snapshot)
    for other in (again, direct):
        np.testing.assert_array_equal(other.params["head"]["kernel"], first.params["head"]["kernel"])


def test_what_is_damaged_is_refused_and_not_kept(pickled, torch_format):
    options, snapshot = pickled
    torch_format(snapshot / "pytorch_model.bin", {"model.linear.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match="missing"):
        find(NAME, **options)
    assert not list((snapshot.parents[1] / "muq_jax").rglob("*.safetensors"))


def test_a_cache_that_is_another_s_is_read_as_it_is(pickled, monkeypatch):
    options, snapshot = pickled
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert find(NAME, **options) == snapshot


def test_safetensors_need_no_conversion(cached, muq_folder):
    options, snapshot = cached
    for path in muq_folder.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    assert find(NAME, **options) == snapshot


def test_a_mulan_of_the_hub_hears_where_its_tokenizer_cannot_be_had(cached, mulan_folder):
    options, snapshot = cached
    for path in mulan_folder.iterdir():
        if path.name != "tokenizer.json":
            (snapshot / path.name).write_bytes(path.read_bytes())
    mulan = MuQMuLan.from_pretrained(NAME, **options)
    wave = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    assert mulan(wavs=[wave], sampling_rate=24_000).shape == (1, mulan.config.latent_size)
    with pytest.raises(
        UserError, match=r"no tokenizer: tokenizer\.json could not be had .* looked for Facebook"
    ):
        mulan(texts=["a slow piano piece"])
    with pytest.raises(UserError, match=r"tokenizer\.json could not be had .* looked for me/tokenizer"):
        MuQMuLan.from_pretrained(NAME, tokenizer="me/tokenizer", **options)
