import numpy as np
import pytest

from experiments.original import random_tensors
from muq_jax.convert import mel_rvq as table
from muq_jax.convert import rules
from muq_jax.errors import UserError
from muq_jax.models.config import MelRVQConfig
from muq_jax.quantize.rvq import RVQConfig


def tensors_of(config, root=""):
    shapes = rules.state_dict_shapes(table.mel_rvq_table(config.rvq, root), table.template(config))
    return random_tensors(shapes)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_there_and_back(layers):
    config = MelRVQConfig(rvq=RVQConfig(num_books=3, num_codes=32, num_projection_layers=layers))
    tensors = tensors_of(config)
    variables = table.from_torch_names(tensors, config)
    assert variables["params"]["codebook"].shape == (3, 32, 16)
    back = table.to_torch_names(variables, config)
    assert back.keys() == tensors.keys()
    for name in back:
        np.testing.assert_array_equal(back[name], tensors[name])


def test_upstreams_nesting_of_deeper_projections():
    table_ = table.mel_rvq_table(RVQConfig(num_books=1, num_projection_layers=4))
    names = {r.path: r.names()[0] for r in table_.rules}
    in_names = [names[f"params/in_proj_{i}/bias"] for i in range(4)]
    out_names = [names[f"params/out_proj_{i}/bias"] for i in range(4)]
    assert in_names == [f"quantizers.0.in_proj.{n}.bias" for n in ("0", "1.1", "2.1", "4")]
    assert out_names == [f"quantizers.0.out_proj.{n}.bias" for n in ("0", "2.0", "3.0", "4")]


def test_read_out_of_the_muq_that_carries_it():
    config = MelRVQConfig(rvq=RVQConfig(num_books=2, num_codes=32))
    inside = tensors_of(config, table.IN_MUQ) | {"model.linear.bias": np.zeros(3)}
    alone = {name.removeprefix(table.IN_MUQ): tensor for name, tensor in inside.items() if "rvq" in name}
    want = dict(rules.flatten(table.from_torch_names(alone, config)))
    for path, array in rules.flatten(table.from_torch_names(inside, config)):
        np.testing.assert_array_equal(array, want[path])


def test_a_book_too_few_is_named():
    tensors = tensors_of(MelRVQConfig(rvq=RVQConfig(num_books=2, num_codes=32)))
    with pytest.raises(UserError, match=r"missing quantizers\.2\."):
        table.from_torch_names(tensors, MelRVQConfig(rvq=RVQConfig(num_books=3, num_codes=32)))
