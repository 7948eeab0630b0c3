"""The MuQ table against the list of tensors of the original, and both directions at small sizes."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.original import random_tensors, upstream_config
from muq_jax.convert import muq as table
from muq_jax.convert import rules
from muq_jax.errors import UserError
from muq_jax.models.config import muq_config
from muq_jax.models.config_json import from_upstream_json

GOLDEN = Path(__file__).parents[1] / "golden"


def state_dict_shapes(config):
    return rules.state_dict_shapes(table.muq_table(config), table.template(config))


@pytest.fixture(scope="module")
def released():
    """Names and shapes of the released MuQ-large's tensors, and its configuration."""
    listed = json.loads((GOLDEN / "muq_large_state_dict.json").read_text())
    shapes = {}
    for name, shape in listed["tensors"].items():
        repeated = next((k for k in listed["repeats"] if f"{{{k}}}" in name), None)
        copies = range(listed["repeats"][repeated]) if repeated else [0]
        shapes.update({name.format(**{repeated or "_": n}): tuple(shape) for n in copies})
    return listed["config"], shapes


def test_every_tensor_of_the_released_model_has_its_place_or_a_reason(released):
    config, shapes = released
    assert len(shapes) == 525
    ours = from_upstream_json(config)
    assert state_dict_shapes(ours) == shapes
    whole = table.muq_table(ours)
    assert all(unused.reason for unused in whole.unused)
    names = [name for rule in whole.rules for name in rule.names()] + [u.torch for u in whole.unused]
    assert len(names) == len(set(names))


def test_released_model_and_large_preset_are_the_same_network(released):
    shapes = dict(rules.flatten(table.template(from_upstream_json(released[0]))))
    assert shapes == dict(rules.flatten(table.template(muq_config("large"))))
    unused = 8_389_760 + 1_024  # pos_conv_embed, cls_token
    sizes = {
        p: np.prod(s.shape) for p, s in shapes.items() if "batch_stats" not in p and "codebook_state" not in p
    }
    assert sum(sizes.values()) + unused == 333_401_472


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"label_rate": 50},
        {"rvq_multi_layer_num": 3},
        {"recon_loss_ratio": 0.5},
        {"use_rvq_target": False, "codebook_size": 4096},
        {"use_rvq_target": False, "use_vq_target": True, "codebook_size": 1024},
    ],
    ids=str,
)
def test_there_and_back_for_every_kind_of_configuration(overrides):
    config = from_upstream_json(upstream_config(**overrides))
    tensors = random_tensors(state_dict_shapes(config))
    variables = table.from_torch_names(tensors, config)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), variables) == jax.tree.map(
        lambda x: (x.shape, x.dtype), table.template(config)
    )
    back = table.to_torch_names(variables, config)
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[name])
    unused = set(tensors) - set(back)
    assert unused == {u.torch for u in table.muq_table(config).unused if u.shape is not None}
    assert rules.complete(back, table.muq_table(config)).keys() == tensors.keys()


def test_another_targets_tensors_are_read_past():
    config = from_upstream_json(upstream_config(use_rvq_target=False, use_vq_target=True, codebook_size=1024))
    tensors = random_tensors(state_dict_shapes(config))
    table.from_torch_names(tensors | {"model.rvq.codebook.weight": np.zeros((1024, 8))}, config)


def test_sizes_that_do_not_belong_to_the_configuration_are_named():
    tensors = random_tensors(state_dict_shapes(from_upstream_json(upstream_config())))
    with pytest.raises(UserError, match=r"folder: .*missing model\.conformer\.layers\.2"):
        table.from_torch_names(tensors, from_upstream_json(upstream_config(layers=3)), "folder")
    with pytest.raises(UserError, match=r"model\.linear\.weight has shape \(2048, 64\)"):
        table.from_torch_names(tensors, from_upstream_json(upstream_config(books=1)), "folder")


def test_export_writes_the_constants_that_pytorch_computes():
    table_ = table.muq_table(from_upstream_json(upstream_config(width=1024, heads=16, layers=1, conv=8)))
    written = rules.complete({}, table_)
    frequencies = written["model.conformer.embed_positions.inv_freq"]
    np.testing.assert_allclose(frequencies, 10_000.0 ** (-np.arange(32) / 32), rtol=1e-6)
    counter = written["model.conv.conv.0.bn1.num_batches_tracked"]
    assert counter.dtype == np.int64 and counter.shape == () and counter == 0
