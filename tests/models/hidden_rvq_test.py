import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.models import hidden_rvq
from muq_jax.models.config import PRESETS, MuQConfig, muq_config
from muq_jax.models.hidden_rvq import HiddenRVQConfig, default_layer
from muq_jax.models.muq import MuQModel
from muq_jax.nn.conformer import ConformerConfig
from muq_jax.quantize.rvq import RVQConfig, quantize

TEACHER = MuQConfig(
    conformer=ConformerConfig(width=16, num_layers=4, num_heads=2, ffn_width=16, remat=False),
    rvq=None,
    conv_channels=2,
    num_books=1,
    num_codes=32,
)
CONFIG = HiddenRVQConfig(TEACHER, 3, RVQConfig(num_books=2, num_codes=32, code_dim=4, input_dim=16))


encode = jax.jit(hidden_rvq.encode, static_argnums=3)


def make_noise(shape, seed=1):
    """Noise whose level changes from token to token, so that tokens differ."""
    rng = np.random.default_rng(seed)
    levels = np.repeat(10 ** rng.uniform(-3, 0, (shape[0], shape[1] // 960 + 1)), 960, axis=1)
    return (levels[:, : shape[1]] * rng.standard_normal(shape)).astype(np.float32)


def make_variables(config):
    """Fresh variables, but for biases that take the mean away: else every token would have the same code."""
    variables = jax.jit(hidden_rvq.init, static_argnums=1)(jax.random.key(0), config)
    wave = make_noise((1, 48_000))
    states, _ = jax.jit(hidden_rvq.hidden_states, static_argnums=3)(
        variables["teacher"], wave, np.array([48_000]), config
    )
    layer = variables["params"]["in_proj_0"]
    weight = layer["g"][:, None] * layer["v"] / jnp.linalg.norm(layer["v"], axis=1, keepdims=True)
    layer["bias"] = -jnp.einsum("i,qio->qo", states.mean((0, 1)), weight)
    return variables


@pytest.fixture(scope="module")
def variables():
    return make_variables(CONFIG)


@pytest.mark.parametrize("depth, layer", [(12, 9), (24, 18), (6, 4), (4, 3), (3, 2), (2, 1), (1, 1)])
def test_the_layer_is_the_ninth_of_twelve_and_three_quarters_elsewhere(depth, layer):
    assert default_layer(depth) == layer


def test_the_layer_is_the_ninth_of_the_papers_sizes():
    assert {default_layer(PRESETS[name].conformer.num_layers) for name in ("base", "large")} == {9}


def test_codes_are_those_of_the_layers_hidden_states(variables):
    wave = make_noise((2, 9_600))
    num_samples = jnp.full(2, 9_600)
    codes, valid = encode(variables, wave, num_samples, CONFIG)
    assert codes.shape == (2, 10, 2) and codes.dtype == jnp.int32 and valid.all()
    assert len(np.unique(codes[..., 0])) > 5
    hidden = jax.jit(MuQModel(TEACHER).apply)(variables["teacher"], wave, num_samples).hidden_states
    for layer in range(5):
        expected = quantize(variables["params"], hidden[layer], None, CONFIG.rvq).codes
        agreement = np.mean(np.asarray(codes) == np.asarray(expected))
        assert agreement == 1.0 if layer == 3 else agreement < 0.9


def test_a_padded_clip_has_the_codes_that_it_has_alone(variables):
    """Whole tokens only: 4,000 samples are four of them and a rest, which is not heard."""
    wave = make_noise((3, 9_000))
    codes, valid = encode(variables, wave, np.array([9_000, 4_000, 959]), CONFIG)
    assert codes.shape[1] == 9
    assert valid.sum(1).tolist() == [9, 4, 0]
    for samples in (4_000, 3_840):
        alone, all_valid = encode(variables, wave[1:2, :samples], np.array([samples]), CONFIG)
        assert all_valid.all()
        np.testing.assert_array_equal(codes[1, :4], alone[0])


def test_a_clip_of_one_token_has_one(variables):
    codes, valid = encode(variables, np.ones((1, 960), np.float32), np.array([960]), CONFIG)
    assert codes.shape == (1, 1, 2) and valid.all()


def test_description_round_trips():
    config = dataclasses.replace(
        CONFIG, teacher=muq_config("smoke", rvq=None, label_rate=50), dtype="bfloat16",
        rvq=RVQConfig(num_books=3, input_dim=64), layer=2,
    )  # fmt: skip
    described = json.loads(json.dumps(hidden_rvq.hidden_rvq_to_json(config)))
    assert described["model_type"] == "hidden_rvq"
    assert hidden_rvq.hidden_rvq_from_json(described) == config


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"layer": 5}, r"targets\.layer=5: the teacher's layers are numbered 0 to 4"),
        ({"layer": -1}, r"targets\.layer=-1"),
        ({"rvq": RVQConfig(input_dim=512)}, "rvq.input_dim is 512; the teacher's layers are 16 wide"),
    ],
)
def test_what_cannot_be_is_named(changes, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(CONFIG, **changes)
