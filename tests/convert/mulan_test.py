import json
from pathlib import Path

import numpy as np
import pytest

from experiments.original import random_tensors
from muq_jax.convert import mulan as mulan_names
from muq_jax.convert import rules
from muq_jax.errors import UserError
from muq_jax.models.mulan import MuLanConfig
from tests.models.mulan_test import small_config

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def shapes():
    return json.loads(str(np.load(GOLDEN / "mulan_deep.npz")["shapes"]))


def test_every_tensor_comes_back(shapes):
    config, tensors = small_config(2), random_tensors(shapes)
    variables = mulan_names.from_torch_names(tensors, config)
    table = mulan_names.mulan_table(config)
    back = rules.complete(
        mulan_names.to_torch_names(variables, config), table, rules.unused_of(tensors, table)
    )
    inv_freq = {name for name in back if name.endswith("inv_freq")}
    assert back.keys() - inv_freq == tensors.keys() and len(inv_freq) == 1
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_large_has_the_released_models_tensors():
    listed = json.loads((GOLDEN / "muq_mulan_state_dict.json").read_text())
    config = MuLanConfig()
    found = rules.state_dict_shapes(mulan_names.mulan_table(config), mulan_names.template(config))
    assert {name: list(shape) for name, shape in found.items()} == listed


def test_what_older_transformers_stored_is_left_out(shapes):
    tensors = random_tensors(shapes)
    tensors["mulan.text.model.embeddings.position_ids"] = np.arange(40)[None]
    mulan_names.from_torch_names(tensors, small_config(2))


def test_a_missing_tensor_is_named(shapes):
    tensors = random_tensors(shapes)
    del tensors["mulan.text.transformer.layers.1.0.to_kv.weight"]
    with pytest.raises(UserError, match=r"missing mulan\.text\.transformer\.layers\.1\.0\.to_kv\.weight"):
        mulan_names.from_torch_names(tensors, small_config(2))
