import dataclasses
import json

import numpy as np
import pytest

from experiments.original import as_wave
from muq_jax.convert import muq as muq_names
from muq_jax.convert import rules
from muq_jax.convert.rules import Rule, Table
from muq_jax.convert.verify import LAYER_BOUND, Difference, Size, against, round_trip
from muq_jax.models.config_json import from_upstream_json
from tests.golden.parity_test import golden, tensors_of

TABLE = Table((Rule("a.weight", "params/a/kernel", rules.LINEAR), Rule("b.{n}", "params/b", stack=2)))
USED = {"a.weight": np.arange(6.0).reshape(2, 3), "b.0": np.ones(2), "b.1": np.zeros(2)}
LAYER = "model.conformer.layers.1"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Returns what PyTorch computed from a clip, with the config and the tensors of the model."""
    recorded = golden("muq_25hz")
    path = tmp_path_factory.mktemp("original") / "activations.npz"
    wave, hidden = as_wave(recorded["padded_pcm"][0]), recorded["first_hidden"][:, 0]
    np.savez(path, model_type="muq", wave_clip=wave, hidden_clip=hidden)
    return path, from_upstream_json(json.loads(str(recorded["config"]))), tensors_of(recorded["shapes"])


def differences(original, damage):
    path, config, tensors = original
    changed = dict(tensors)
    config = damage(config, changed) or config
    return against(path, "muq", config, muq_names.from_torch_names(changed, config))


def changes(name, change):
    """Damage of one tensor of the last layer."""

    def damage(_, tensors):
        tensors[f"{LAYER}.{name}"] = np.ascontiguousarray(change(tensors[f"{LAYER}.{name}"]), np.float32)

    return damage


def swaps(first, second):
    def damage(_, tensors):
        a, b = f"{LAYER}.{first}", f"{LAYER}.{second}"
        tensors[a], tensors[b] = tensors[b], tensors[a]

    return damage


def in_conformer(**values):
    return lambda config, _: dataclasses.replace(
        config, conformer=dataclasses.replace(config.conformer, **values)
    )


def mel_of_other_statistics(config, _):
    return dataclasses.replace(config, mel=dataclasses.replace(config.mel, mean=config.mel.mean + 0.5))


def test_the_right_port_is_far_within(original):
    found = differences(original, lambda config, tensors: None)
    assert [d.what for d in found] == ["clip, layer 0", "clip, layer 1", "clip, layer 2"]
    assert all(d.within for d in found)
    assert max(d.size.rms for d in found) < 0.1 * LAYER_BOUND.rms
    assert max(d.size.largest for d in found) < 0.1 * LAYER_BOUND.largest


@pytest.mark.parametrize(
    "damage, at_least",
    [
        (changes("ffn1.output_dense.weight", lambda w: 1.01 * w), 2e-3),
        (changes("conv_module.pointwise_conv1.weight", lambda w: np.roll(w, len(w) // 2, 0)), 0.1),
        (changes("conv_module.depthwise_conv.weight", lambda w: w[..., ::-1]), 0.05),
        (changes("conv_module.batch_norm.running_mean", np.zeros_like), 0.01),
        (changes("conv_module.batch_norm.running_var", np.ones_like), 0.005),
        (swaps("self_attn.linear_q.weight", "self_attn.linear_k.weight"), 0.005),
        (swaps("ffn1.intermediate_dense.weight", "ffn2.intermediate_dense.weight"), 0.1),
        (in_conformer(layer_norm_eps=1e-3), 2e-4),  # of the last norm
        (in_conformer(rotary_base=9000.0), 1e-3),
        (in_conformer(num_heads=2), 0.01),
        (mel_of_other_statistics, 5e-3),
    ],
    ids=[
        *("one matrix 1 % off", "halves of the gate", "reversed taps", "no running mean"),
        *("no running variance", "query and key", "first and second feed-forward", "epsilon"),
        *("rotary base", "heads", "mel statistics"),
    ],
)
def test_a_wrong_port_is_not(original, damage, at_least):
    found = differences(original, damage)
    assert not all(d.within for d in found)
    assert max(d.size.rms for d in found) > at_least > LAYER_BOUND.rms


def test_what_comes_back_changed_is_named(monkeypatch):
    assert round_trip(USED, TABLE) == []
    real = Rule.to_torch
    monkeypatch.setattr(Rule, "to_torch", lambda self, array: real(self, array[::-1]))
    assert round_trip(USED, TABLE) == ["a.weight", "b.0", "b.1"]


@pytest.mark.parametrize(
    "rms, largest, within",
    [
        (0.0, 0.0, True),
        (1e-4, 1e-3, True),
        (9e-5, 1.1e-3, False),
        (1.1e-4, 9e-4, False),
        (float("nan"), 0.0, False),
        (0.0, float("nan"), False),
    ],
)
def test_both_bounds_count_and_no_number_is_not_within(rms, largest, within):
    assert Difference("x", Size(rms, largest), Size(1e-4, 1e-3)).within is within
