import functools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from muq_jax.audio.mel import MelConfig
from muq_jax.models.config import muq_config
from muq_jax.models.muq import MuQModel, normalized_mel

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = muq_config("smoke", conv_channels=4, conformer={"conv_kernel": 7})
LENGTHS = (1025, 2000, 9600)
LONGEST = 10_100


@functools.cache
def variables_of(config):
    return jax.jit(MuQModel(config).init)(jax.random.key(0), jnp.zeros((1, 4800)))


@functools.cache
def clip(length):
    return np.random.default_rng(length).normal(0, 0.1, length).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def apply(config, variables, wave, num_samples):
    return MuQModel(config).apply(variables, wave, num_samples)


def features(config, wave, num_samples=None):
    return apply(config, variables_of(config), wave, num_samples)


@functools.cache
def alone(length):
    return np.asarray(features(SMALL, clip(length)[None]).hidden_states[:, 0])


def shapes_of(config):
    wave = jax.ShapeDtypeStruct((1, 4800), jnp.float32)
    return jax.eval_shape(MuQModel(config).init, jax.random.key(0), wave)


def tree_text(config):
    lines = [
        f"{jax.tree_util.keystr(path, simple=True, separator='/')} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes_of(config))
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["smoke", "large"])
def test_paths_and_shapes_are_the_recorded_ones(name):
    """They are what weights, checkpoints and sharding rules are addressed by."""
    assert tree_text(muq_config(name)) == (GOLDEN / f"muq_{name}_tree.txt").read_text()


def test_large_has_the_released_models_parameters():
    shapes = shapes_of(muq_config("large"))["params"]

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    assert count(shapes["conformer"]["layers"]) == 290_107_392
    assert count(shapes["conformer"]["final_norm"]) == 2_048
    assert count(shapes["subsample"]) == 26_233_856
    assert count(shapes["head"]) == 8_396_800


@settings(max_examples=6, deadline=None, derandomize=True)
@given(order=st.permutations(LENGTHS), garbage=st.booleans())
def test_a_clip_has_the_same_features_in_any_company_and_order(order, garbage):
    wave = np.full((len(order), LONGEST), 0.3 if garbage else 0.0, np.float32)
    for row, length in enumerate(order):
        wave[row, :length] = clip(length)
    out = features(SMALL, wave, np.array(order))
    for row, length in enumerate(order):
        expected = alone(length)
        tokens = expected.shape[1]
        assert out.num_valid[row] == tokens == math.ceil(math.ceil(length // 240 / 2) / 2)
        np.testing.assert_allclose(out.hidden_states[:, row, :tokens], expected, atol=2e-5)
        assert (np.asarray(out.hidden_states[:, row, tokens:]) == 0).all()


def test_the_amount_of_padding_changes_nothing():
    shorter, longer = np.zeros((2, 2000), np.float32), np.zeros((2, LONGEST), np.float32)
    for row, length in enumerate((2000, 1025)):
        shorter[row, :length] = longer[row, :length] = clip(length)
    a, b = (features(SMALL, wave, np.array([2000, 1025])).hidden_states for wave in (shorter, longer))
    np.testing.assert_allclose(b[:, :, : a.shape[2]], a, atol=2e-5)


@pytest.mark.slow
def test_fifty_tokens_a_second():
    config = muq_config("smoke", label_rate=50, conv_channels=4, conformer={"conv_kernel": 7})
    wave = np.stack([clip(9600), np.pad(clip(2000), (0, 7600))])
    out = features(config, wave, np.array([9600, 2000]))
    assert out.hidden_states.shape[2] == 20 and out.num_valid.tolist() == [20, 4]
    expected = features(config, clip(2000)[None]).hidden_states
    np.testing.assert_allclose(out.hidden_states[:, 1:, :4], expected, atol=2e-5)


def test_a_clip_under_1025_samples_counts_as_padded_to_that():
    padded = np.pad(clip(1025)[:300], (0, 725))[None]
    expected = features(SMALL, padded).hidden_states
    np.testing.assert_allclose(features(SMALL, padded[:, :300]).hidden_states, expected, atol=1e-6)
    inside = np.concatenate([padded, np.zeros((1, 1000), np.float32)], axis=1)
    out = features(SMALL, np.concatenate([inside, inside]), np.array([300, 0]))
    np.testing.assert_allclose(out.hidden_states[:, :1, :1], expected, atol=2e-5)
    assert out.num_valid.tolist() == [1, 0]
    assert (np.asarray(out.hidden_states[:, 1]) == 0).all()


@pytest.mark.parametrize("garbage", [0.3, math.nan])
@pytest.mark.parametrize("length", [300, 1024])
def test_what_pads_a_clip_under_1025_samples_is_not_heard(length, garbage):
    wave = np.full((1, 2000), garbage, np.float32)
    wave[0, :length] = clip(1025)[:length]
    silent = np.nan_to_num(np.where(np.arange(2000) < length, wave, 0))
    out, want = (features(SMALL, w, np.array([length])) for w in (wave, silent))
    np.testing.assert_array_equal(out.hidden_states, want.hidden_states)
    assert np.abs(out.hidden_states[:, 0, 0]).max() > 0


@pytest.mark.parametrize("samples, frames", [(2000, 8), (300, 4)])
def test_no_more_samples_are_valid_than_there_are(samples, frames):
    wave = clip(2000)[None, :samples]
    mel, num_frames = normalized_mel(wave, np.array([9_600]))
    assert mel.shape[1] == num_frames[0] == frames
    np.testing.assert_allclose(mel, normalized_mel(wave)[0], atol=1e-5)


def test_the_front_end_compiles_to_no_gather_on_a_sharded_batch():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    wave = jax.ShapeDtypeStruct((16, 4_800), jnp.float32, sharding=rows)
    lengths = jax.ShapeDtypeStruct((16,), jnp.int32, sharding=rows)
    config = MelConfig(stft="matmul")
    program = jax.jit(lambda w, n: normalized_mel(w, n, config)).lower(wave, lengths).compile().as_text()
    assert " dot(" in program or "custom-call" in program
    assert not re.search(r"\b(all-)?gather|all-to-all|all-reduce", program)


def test_shapes_and_types():
    config = muq_config("smoke", conv_channels=4, mel_reconstruction_weight=0.5)
    wave = jax.ShapeDtypeStruct((2, 9600), jnp.float32)
    model = MuQModel(config, dtype="bfloat16")
    variables = jax.eval_shape(model.init, jax.random.key(0), wave)
    out = jax.eval_shape(model.apply, variables, wave)
    assert out.hidden_states.shape == (3, 2, 10, 64) and out.hidden_states.dtype == jnp.bfloat16
    assert out.logits.shape == (2, 10, 4, 1024) and out.logits.dtype == jnp.float32
    assert out.predicted_mel.shape == (2, 10, 512) and out.predicted_mel.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_logits_are_the_heads_reading_of_the_last_hidden_state():
    out = features(SMALL, clip(9600)[None])
    head = variables_of(SMALL)["params"]["head"]
    flat = np.asarray(out.hidden_states[-1]) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(out.logits, flat.reshape(1, 10, 4, 1024), atol=1e-5)


def test_what_is_not_read_is_not_computed():
    wave = jax.ShapeDtypeStruct((1, 9600), jnp.float32)
    variables = jax.eval_shape(lambda: variables_of(SMALL))

    def program(read):
        run = jax.jit(lambda v, w: read(MuQModel(SMALL).apply(v, w)))
        return run.lower(variables, wave).compile().as_text()

    head, layers = "4096", "f32[2,1,10,64]"  # the head's width, the stack of the layers' outputs
    assert head in program(lambda out: out.logits)
    assert layers in program(lambda out: out.hidden_states)
    last = program(lambda out: out.hidden_states[-1])
    assert head not in last and layers not in last


def test_bfloat16_is_finite_and_near():
    wave = np.stack([clip(9600), np.pad(clip(2000), (0, 7600))])
    lengths = np.array([9600, 2000])
    exact = features(SMALL, wave, lengths)
    near = jax.jit(MuQModel(SMALL, dtype="bfloat16").apply)(variables_of(SMALL), wave, lengths)
    for a, b in ((exact.hidden_states, near.hidden_states), (exact.logits, near.logits)):
        a, b = np.asarray(a), np.asarray(b, np.float32)
        assert np.isfinite(b).all()
        assert np.sqrt(np.mean((a - b) ** 2) / np.mean(a**2)) < 0.02


def test_encode_takes_the_mel_that_the_call_makes():
    wave, lengths = np.stack([clip(9600)] * 2), np.array([9600, 5000])
    mel, num_frames = normalized_mel(wave, lengths, SMALL.mel)
    assert mel.shape == (2, 40, 128) and num_frames.tolist() == [40, 20]
    encode = jax.jit(functools.partial(MuQModel(SMALL).apply, method="encode"))
    out = encode(variables_of(SMALL), mel, num_frames)
    expected = features(SMALL, wave, lengths)
    np.testing.assert_allclose(out.hidden_states, expected.hidden_states, atol=1e-5)


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
    rng = np.random.default_rng(0)
    wave = rng.normal(0, 0.1, (8, 4800)).astype(np.float32)
    lengths = np.array([4800, 3000, 4800, 1500, 4000, 4800, 2500, 4800])
    model, variables = MuQModel(SMALL), variables_of(SMALL)

    def step(variables, wave, lengths, key):
        out, updated = model.apply(
            variables, wave, lengths, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return out.hidden_states, out.logits, updated["batch_stats"]

    key = jax.random.key(3)
    one = jax.jit(step)(variables, wave, lengths, key)
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    with jax.set_mesh(mesh):
        placed = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
        eight = jax.jit(step)(placed, jax.device_put(wave, rows), jax.device_put(lengths, rows), key)
    assert len(eight[1].sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5, rtol=1e-4)
