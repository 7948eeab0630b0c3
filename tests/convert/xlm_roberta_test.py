"""A released XLM-RoBERTa as what a text tower begins with."""

import json
import shutil

import jax
import numpy as np
import pytest

from muq_jax.convert import rules
from muq_jax.convert.mulan import roberta_rules
from muq_jax.convert.reader import write_tensors
from muq_jax.convert.xlm_roberta import load_xlm_roberta, params_sha256
from muq_jax.errors import UserError
from muq_jax.models.roberta import Roberta, RobertaConfig

CONFIG = RobertaConfig(150, 24, 2, 3, 40, 20, layer_norm_eps=1e-6)
DESCRIBED = {
    "model_type": "xlm-roberta",
    "vocab_size": 150,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-6,
}
IDS = np.array([[0, 5, 149, 2, 1, 1], [0, 7, 8, 9, 10, 2]], np.int32)


@pytest.fixture(scope="module")
def params():
    fresh = Roberta(CONFIG).init(jax.random.key(3), IDS)["params"]
    leaves, tree = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [0.3 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves])


@pytest.fixture
def folder(params, tokenizer_json, tmp_path):
    """Returns a folder as released: names without a prefix, a pooler and a buffer that are not used."""
    tensors = rules.to_torch({"params": params}, rules.Table(tuple(roberta_rules("", "", 2))))
    tensors |= {"pooler.dense.weight": np.ones((24, 24)), "embeddings.position_ids": np.arange(20)[None]}
    return written(tmp_path / "released", tensors, tokenizer_json)


def written(folder, tensors, tokenizer_json, **described):
    folder.mkdir()
    write_tensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(DESCRIBED | described))
    shutil.copy(tokenizer_json, folder)
    return folder


def test_a_released_encoder_comes_as_it_is(folder, params, tokenizer_json):
    encoder = load_xlm_roberta(folder)
    assert encoder.config == CONFIG and encoder.tokenizer == tokenizer_json.read_bytes()
    jax.tree.map(np.testing.assert_array_equal, encoder.params, params)
    assert len(params_sha256(encoder)) == 64


def test_names_of_the_model_with_its_head_are_understood(params, tokenizer_json, tmp_path):
    tensors = rules.to_torch({"params": params}, rules.Table(tuple(roberta_rules("roberta.", "", 2))))
    tensors["lm_head.bias"] = np.ones(150, np.float32)
    folder = written(tmp_path / "headed", tensors, tokenizer_json)
    jax.tree.map(np.testing.assert_array_equal, load_xlm_roberta(folder).params, params)


@pytest.mark.parametrize(
    "described, said",
    [
        ({"model_type": "bert"}, "model_type is 'bert'; expected 'xlm-roberta'"),
        ({"hidden_size": 48}, r"do not fit the configuration"),
        ({"vocab_size": None}, "key 'vocab_size' is missing"),
    ],
)
def test_another_model_is_refused(folder, described, said):
    (folder / "config.json").write_text(json.dumps(DESCRIBED | described))
    with pytest.raises(UserError, match=said):
        load_xlm_roberta(folder)


def test_no_tokenizer_is_said(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json could not be read"):
        load_xlm_roberta(folder)


@pytest.mark.torch
def test_the_original_gives_the_same_states(tokenizer_json, tmp_path):
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    torch.manual_seed(0)
    released = XLMRobertaForMaskedLM(XLMRobertaConfig(**DESCRIBED)).eval()
    folder = tmp_path / "saved"
    released.save_pretrained(folder)
    shutil.copy(tokenizer_json, folder)
    encoder = load_xlm_roberta(folder)
    with torch.no_grad():
        ids = torch.tensor(IDS, dtype=torch.long)
        expected = released.roberta(ids, attention_mask=(ids != 1).long()).last_hidden_state.numpy()
    found = np.asarray(Roberta(encoder.config).apply({"params": encoder.params}, IDS))
    np.testing.assert_allclose(found[IDS != 1], expected[IDS != 1], atol=5e-6)
