import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from experiments.make_goldens import MASKED_TOKENS
from experiments.original import as_wave, random_tensors
from muq_jax import parallel
from muq_jax.audio.mel import MelConfig
from muq_jax.convert import muq as table
from muq_jax.errors import UserError
from muq_jax.models.config import MelRVQConfig, MuQConfig
from muq_jax.models.config_json import from_upstream_json
from muq_jax.models.hidden_rvq import HiddenRVQConfig
from muq_jax.models.muq import MuQModel
from muq_jax.nn.conformer import ConformerConfig
from muq_jax.objectives import masked_prediction
from muq_jax.objectives.masked_prediction import MaskedPrediction, cross_entropy, unigram_cross_entropy
from muq_jax.objectives.masking import mask_blocks, mask_tokens, mask_wave
from muq_jax.objectives.targets import (
    HiddenRVQTargets,
    MelRVQTargets,
    RandomProjectionTargets,
    StoredTargets,
)
from muq_jax.quantize.random_projection import RandomProjectionConfig
from muq_jax.quantize.rvq import RVQConfig
from tests.models.hidden_rvq_test import make_noise, make_variables

CONFIG = MuQConfig(
    conformer=ConformerConfig(width=16, num_layers=1, num_heads=2, ffn_width=16, remat=False),
    rvq=RVQConfig(num_books=2, num_codes=32),
    conv_channels=2,
    num_books=2,
    num_codes=32,
)
SAMPLES = 9_600 * 3 + 1_000


@pytest.fixture(scope="module")
def tiny():
    """Objective, jitted loss, parameters and state; one compilation a batch shape and mode."""
    objective = MaskedPrediction(MuQModel(CONFIG), MelRVQTargets(CONFIG.mel_rvq))
    params, model_state = jax.jit(objective.init)(jax.random.key(0))
    return objective, jax.jit(objective.loss, static_argnames="train"), params, model_state


def make_batch(rows, num_samples=None):
    rows = np.asarray(rows, np.int32)
    wave = np.stack([np.random.default_rng(r).normal(0, 0.1, SAMPLES).astype(np.float32) for r in rows])
    num_samples = np.full(len(rows), SAMPLES) if num_samples is None else np.asarray(num_samples)
    wave = np.where(np.arange(SAMPLES) < num_samples[:, None], wave, 0)
    return {"wave": wave, "num_samples": num_samples.astype(np.int32), "row": rows}


def assert_equal_metrics(got, want, rtol=1e-5):
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name].total, want[name].total, rtol=rtol, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(got[name].weight, want[name].weight, rtol=rtol, err_msg=name)


def test_cross_entropy_and_its_gradient_against_log_loss():
    rng = np.random.default_rng(0)
    logits, codes = rng.normal(size=(50, 7)) * 5, rng.integers(0, 7, 50)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    got = cross_entropy(jnp.asarray(logits), jnp.asarray(codes))
    np.testing.assert_allclose(got.mean(), log_loss(codes, p, labels=range(7)), rtol=1e-5)
    gradient = jax.grad(lambda x: cross_entropy(x, jnp.asarray(codes)).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(gradient, p - np.eye(7)[codes], atol=1e-5)
    large = cross_entropy(jnp.array([[1e4, 0.0], [0.0, -1e4]]), jnp.array([0, 1]))
    np.testing.assert_allclose(large, [0, 1e4])


def test_unigram_cross_entropy_against_log_loss():
    rng = np.random.default_rng(1)
    seen = rng.integers(0, 20, (3, 9))
    codes = rng.integers(0, 9, (40, 3))
    counts = np.stack([np.bincount(codes[:, q], minlength=9) for q in range(3)])
    got = unigram_cross_entropy(jnp.asarray(counts), jnp.asarray(seen)) / 40
    for q in range(3):
        p = (seen[q] + 1) / (seen[q] + 1).sum()
        np.testing.assert_allclose(
            got[q], log_loss(codes[:, q], np.tile(p, (40, 1)), labels=range(9)), rtol=1e-5
        )
    nothing = unigram_cross_entropy(jnp.asarray(counts), jnp.zeros((3, 9))) / 40
    np.testing.assert_allclose(nothing, np.log(9), rtol=1e-6)


def test_loss_is_that_of_the_clean_codes_of_masked_tokens(tiny):
    objective, loss, params, model_state = tiny
    batch = make_batch([3, 8, 1, 9], [SAMPLES, 9_600 * 2, SAMPLES, 9_599])
    key = jax.random.key(5)
    output = loss(params, model_state, batch, key, train=False)

    # The same by hand: waveforms trimmed to whole tokens, the model on the noisy one, codes of the clean one.
    key_blocks, key_noise, _ = jax.random.split(key, 3)
    length = SAMPLES // 960 * 960
    wave, num_samples = batch["wave"][:, :length], np.minimum(batch["num_samples"], length)
    blocks = mask_blocks(key_blocks, batch["row"], num_samples, length, objective.masking)
    heard = mask_wave(key_noise, batch["row"], wave, blocks, objective.masking)
    variables = {"params": params, "batch_stats": model_state["batch_stats"]}
    logits = jax.jit(objective.model.apply)(variables, heard, num_samples).logits
    codes, valid = jax.jit(objective.targets)(model_state["rvq"], wave, num_samples)
    masked = np.asarray(mask_tokens(blocks, codes.shape[1], objective.masking))
    assert 0 < masked.sum() < valid.sum() == 31 + 20 + 31 + 9
    entropies = []
    for q in range(2):
        p = np.asarray(jax.nn.softmax(logits[:, :, q], axis=-1))[masked]
        entropies.append(log_loss(np.asarray(codes)[masked][:, q], p, labels=range(32)))
        hits = accuracy_score(np.asarray(codes)[masked][:, q], p.argmax(-1))
        np.testing.assert_allclose(output.metrics["accuracy"].value[q], hits, rtol=1e-5)
    np.testing.assert_allclose(output.metrics["ce"].value, entropies, rtol=1e-4)
    np.testing.assert_allclose(output.loss, np.mean(entropies), rtol=1e-4)
    assert output.weight == masked.sum()
    np.testing.assert_allclose(output.metrics["masked_share"].value, masked.sum() / valid.sum(), rtol=1e-6)
    counts = np.bincount(np.asarray(codes)[np.asarray(valid)][:, 1], minlength=32)
    np.testing.assert_array_equal(output.metrics["code_counts"].total[1], counts)


def test_unigram_counts_come_from_earlier_training_batches_only(tiny):
    _, loss, params, model_state = tiny
    key = jax.random.key(0)
    first = loss(params, model_state, make_batch([0, 1, 2, 3]), key, train=True)
    np.testing.assert_allclose(first.metrics["unigram_ce"].value, np.log(32), rtol=1e-6)
    second = loss(params, first.model_state, make_batch([0, 1, 2, 3]), key, train=True)
    assert (second.metrics["unigram_ce"].value < np.log(32)).all()
    counts = first.metrics["code_counts"].total
    np.testing.assert_array_equal(first.model_state["code_counts"], counts)
    np.testing.assert_array_equal(second.model_state["code_counts"], 2 * counts)
    for before, after in zip(
        jax.tree.leaves(model_state["rvq"]), jax.tree.leaves(second.model_state["rvq"]), strict=True
    ):
        np.testing.assert_array_equal(before, after)

    evaluated = loss(params, second.model_state, make_batch([0, 1, 2, 3]), key, train=False)
    jax.tree.map(np.testing.assert_array_equal, evaluated.model_state, second.model_state)
    masked_ce = unigram_cross_entropy(evaluated.metrics["code_counts"].total, 2 * counts) / counts.sum(-1)
    # Masked and all tokens differ a little in their codes.
    np.testing.assert_allclose(evaluated.metrics["unigram_ce"].value, masked_ce, rtol=0.1)


@pytest.mark.parametrize("train", [True, False])
def test_padding_rows_contribute_nothing(tiny, train):
    _, loss, params, model_state = tiny
    key = jax.random.key(2)
    alone = loss(params, model_state, make_batch([4, 5]), key, train=train)
    padded = loss(params, model_state, make_batch([4, 5, 6, 7], [SAMPLES, SAMPLES, 0, 0]), key, train=train)
    assert padded.weight == alone.weight > 0
    assert alone.metrics["code_counts"].weight == 2 * (SAMPLES // 960)
    if train:  # dropout is drawn for a whole batch, so the loss itself differs
        for name in ("unigram_ce", "masked_share", "code_counts"):
            assert_equal_metrics({name: padded.metrics[name]}, {name: alone.metrics[name]})
    else:
        np.testing.assert_allclose(padded.loss, alone.loss, rtol=1e-5)
        assert_equal_metrics(padded.metrics, alone.metrics)


def test_a_batch_of_padding_only_is_zero_without_nan(tiny):
    objective, _, params, model_state = tiny
    batch = make_batch([0, 1], [0, 0])

    @jax.jit
    def value_and_grad(params):
        return jax.value_and_grad(
            lambda p: objective.loss(p, model_state, batch, jax.random.key(0), train=True).loss
        )(params)

    value, gradient = value_and_grad(params)
    assert value == 0
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient))


def test_parts_of_a_batch_add_up_to_the_batch(tiny):
    _, loss, params, model_state = tiny
    key = jax.random.key(7)
    whole = loss(params, model_state, make_batch([0, 1, 2, 3]), key, train=False)
    parts = [loss(params, model_state, make_batch(rows), key, train=False) for rows in ([0, 1], [2, 3])]
    summed = jax.tree.map(lambda *leaves: sum(leaves), *[part.metrics for part in parts])
    assert_equal_metrics(summed, whole.metrics, rtol=1e-4)
    mean = sum(part.loss * part.weight for part in parts) / sum(part.weight for part in parts)
    np.testing.assert_allclose(mean, whole.loss, rtol=1e-5)


def test_eight_devices_are_one(tiny):
    _, loss, params, model_state = tiny
    batch, mesh = make_batch(range(8)), parallel.make_mesh()
    one = loss(params, model_state, batch, jax.random.key(1), train=True)
    placed = jax.device_put((params, model_state), parallel.replicated(mesh))
    with jax.set_mesh(mesh):
        eight = loss(
            *placed, jax.device_put(batch, parallel.batch_sharding(mesh)), jax.random.key(1), train=True
        )
    np.testing.assert_allclose(eight.loss, one.loss, rtol=1e-5)
    np.testing.assert_array_equal(eight.metrics["code_counts"].total, one.metrics["code_counts"].total)
    assert eight.weight == one.weight


@pytest.fixture(scope="module")
def iterative():
    """A student and the targets of its teacher, with everything that they are made of."""
    student = dataclasses.replace(CONFIG, rvq=None)
    rvq = RVQConfig(num_books=2, num_codes=32, code_dim=4, input_dim=16)
    targets = HiddenRVQTargets(HiddenRVQConfig(dataclasses.replace(student, num_books=1), 1, rvq))
    objective = MaskedPrediction(MuQModel(student), targets)
    params, model_state = jax.jit(objective.init)(jax.random.key(0))
    model_state["hidden_rvq"] = make_variables(targets.config)
    return objective, jax.jit(objective.loss, static_argnames="train"), params, model_state


@pytest.mark.parametrize("train", [True, False])
def test_stored_codes_and_those_of_the_teacher_in_the_step_give_the_same_loss(iterative, train):
    objective, loss, params, model_state = iterative
    batch, key = make_batch([3, 8, 1, 9], [SAMPLES, 9_600 * 2, SAMPLES, 0]), jax.random.key(5)
    batch["wave"] = make_noise(batch["wave"].shape)
    computed = loss(params, model_state, batch, key, train=train)
    codes, valid = jax.jit(objective.targets)(model_state["hidden_rvq"], batch["wave"], batch["num_samples"])
    stored = MaskedPrediction(objective.model, StoredTargets(objective.targets))
    without = {name: tree for name, tree in model_state.items() if name != "hidden_rvq"}
    assert jax.tree.structure(stored.init(jax.random.key(0))) == jax.tree.structure((params, without))
    batch["codes"] = np.where(valid[..., None], codes, -1)
    found = jax.jit(stored.loss, static_argnames="train")(params, without, batch, key, train=train)
    np.testing.assert_allclose(found.loss, computed.loss, rtol=1e-6)
    assert_equal_metrics(found.metrics, computed.metrics)
    counts = computed.metrics["code_counts"].total[0]
    assert counts.sum() == 31 + 20 + 31 and (counts > 0).sum() > 5
    if train:
        jax.tree.map(
            np.testing.assert_array_equal, computed.model_state["hidden_rvq"], model_state["hidden_rvq"]
        )


def test_a_sharded_teacher_gives_the_same_loss_without_any_transfer(iterative):
    _, loss, params, model_state = iterative
    batch, mesh = make_batch(range(8)), parallel.make_mesh(2, 4)
    batch["wave"] = make_noise(batch["wave"].shape)
    one = loss(params, model_state, batch, jax.random.key(1), train=True)
    # The teacher is small: with the usual bound nothing of it would be split.
    shardings = parallel.state_shardings((params, model_state), mesh, min_size=64)
    split = [not s.is_fully_replicated for s in jax.tree.leaves(shardings[1]["hidden_rvq"]["teacher"])]
    assert sum(split) > 10
    placed = parallel.place(jax.device_get((params, model_state)), shardings)
    placed_batch = jax.device_put(batch, parallel.batch_sharding(mesh))
    key = jax.device_put(jax.random.key(1), parallel.replicated(mesh))
    with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
        eight = loss(*placed, placed_batch, key, train=True)
    np.testing.assert_allclose(eight.loss, one.loss, rtol=1e-5)
    np.testing.assert_array_equal(eight.metrics["code_counts"].total, one.metrics["code_counts"].total)


def test_targets_that_do_not_fit_the_heads_are_refused():
    with pytest.raises(UserError, match="2 books of 32 codes"):
        MaskedPrediction(MuQModel(CONFIG), MelRVQTargets(MelRVQConfig()))


@pytest.mark.parametrize(
    "mel, label_rate, said",
    [
        ({"n_fft": 4096}, 25, r"mel\.n_fft 2048 and 4096\."),
        ({"mean": 0.0, "std": 2.0}, 25, r"mel\.mean 6\.76.* and 0\.0; mel\.std 18\.4.* and 2\.0\."),
        ({"num_mels": 64}, 25, r"mel\.num_mels 128 and 64\."),
        ({}, 50, r"the same: frames per token 4 and 2\."),
    ],
)
@pytest.mark.parametrize("kind", ["mel_rvq", "random_projection"])
def test_targets_that_hear_something_else_are_refused(kind, mel, label_rate, said):
    mel, stacked = MelConfig(**mel), 100 // label_rate
    if kind == "mel_rvq":
        rvq = RVQConfig(num_books=2, num_codes=32, input_dim=mel.num_mels * stacked)
        targets = MelRVQTargets(MelRVQConfig(mel, rvq, label_rate))
    else:
        sizes = RandomProjectionConfig(num_books=2, num_codes=32, input_dim=mel.num_mels * stacked)
        targets = RandomProjectionTargets(sizes, mel, stacked)
    with pytest.raises(UserError, match=said):
        MaskedPrediction(MuQModel(CONFIG), targets)


def test_how_the_targets_compute_the_transform_does_not_matter():
    config = dataclasses.replace(CONFIG.mel_rvq, mel=MelConfig(stft="matmul"))
    MaskedPrediction(MuQModel(CONFIG), MelRVQTargets(config))


def test_a_mask_that_cannot_be_is_refused_before_anything_is_computed():
    with pytest.raises(UserError, match=r"mask_seconds is 0\.41"):
        config = dataclasses.replace(CONFIG, mask_seconds=0.41)
        MaskedPrediction(MuQModel(config), MelRVQTargets(config.mel_rvq))


def test_a_training_step_against_the_original(monkeypatch):
    """Loss, accuracy, the gradient of every tensor and the new statistics, with the mask of the original."""
    golden = np.load(Path(__file__).parents[1] / "golden" / "muq_training.npz")
    config = from_upstream_json(json.loads(str(golden["config"])))
    variables = table.from_torch_names(random_tensors(json.loads(str(golden["shapes"]))), config)
    params, rvq = variables.pop("params"), variables["rvq"]
    objective = MaskedPrediction(MuQModel(config), MelRVQTargets(config.mel_rvq))
    model_state = variables | {"code_counts": np.zeros((config.num_books, config.num_codes), np.float32)}
    inside = np.pad(np.repeat(golden["masked_blocks"], 9_600, axis=1), ((0, 0), (0, 30_720 - 28_800)))
    heard = np.where(inside, golden["noise"].astype(np.float32), as_wave(golden["pcm"]))
    monkeypatch.setattr(masked_prediction, "mask_blocks", lambda *_: jnp.asarray(golden["masked_blocks"]))
    monkeypatch.setattr(masked_prediction, "mask_wave", lambda *_: jnp.asarray(heard))
    batch = {"wave": as_wave(golden["pcm"]), "num_samples": np.full(2, 30_720), "row": np.arange(2)}

    @jax.jit
    def step(params):
        def loss(params):
            output = objective.loss(params, model_state, batch, jax.random.key(0), train=True)
            return output.loss, output

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, output), gradient = step(params)
    assert output.weight == golden["masked_blocks"].sum() * MASKED_TOKENS
    reconstruction = config.mel_reconstruction_weight * output.metrics["mel_mse"].value
    np.testing.assert_allclose(output.metrics["ce"].value.mean(), golden["cross_entropy"], rtol=1e-5)
    np.testing.assert_allclose(reconstruction, golden["reconstruction"], rtol=1e-5)
    np.testing.assert_allclose(loss, golden["cross_entropy"] + golden["reconstruction"], rtol=1e-5)
    np.testing.assert_allclose(output.metrics["accuracy"].value.mean(), golden["accuracy"], atol=1e-6)

    state = {"params": gradient, "batch_stats": output.model_state["batch_stats"], "rvq": rvq}
    tensors = table.to_torch_names(state, config)
    names = json.loads(str(golden["gradient_names"]))
    assert set(names) == {name for name in tensors if "running_" not in name and ".rvq." not in name}
    norms = np.array([np.linalg.norm(tensors[name]) for name in names])
    np.testing.assert_allclose(np.sqrt((norms**2).sum()), golden["gradient_norm"], rtol=1e-4)
    # A bias before BatchNorm has no gradient; what is left of it is rounding.
    np.testing.assert_allclose(norms, golden["gradient_norms"], rtol=1e-3, atol=1e-5)
    statistics = np.concatenate(
        [tensors[name].ravel() for name in json.loads(str(golden["statistic_names"]))]
    )
    np.testing.assert_allclose(statistics, golden["statistics"], rtol=1e-4, atol=1e-5)
