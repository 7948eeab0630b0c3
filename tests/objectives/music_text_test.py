"""The two towers of a small MuQ-MuLan under their loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax import parallel
from muq_jax.convert import mulan as mulan_names
from muq_jax.errors import UserError
from muq_jax.models.config import PRESETS
from muq_jax.models.mulan import AudioTower, MuLanConfig, TextTower
from muq_jax.models.roberta import RobertaConfig
from muq_jax.nn.transformer import TransformerConfig
from muq_jax.objectives import music_text
from muq_jax.objectives.contrastive import pair_losses
from muq_jax.objectives.music_text import HISTOGRAM_BINS, MusicText, interspersed, summarize
from muq_jax.train.optim import OptimConfig, make_optimizer
from muq_jax.train.state import abstract_state, init_state
from muq_jax.train.step import jit_train_step

CONFIG = MuLanConfig(
    muq=PRESETS["smoke"],
    roberta=RobertaConfig(60, 16, 1, 2, 32, 20),
    text_model="small",
    audio_transformer=TransformerConfig(16, 0, 2, 8),
    text_transformer=TransformerConfig(16, 2, 2, 8),
    latent_size=8,
)
SAMPLES = 12_000


def batch_of(size=8, padding=0):
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 60, (size, 7)).astype(np.int32)
    ids[:, 0], ids[1, 4:], ids[2] = 0, 1, ids[3]  # 2 and 3 have one text
    num_samples = np.full(size, SAMPLES, np.int32)
    num_samples[0] = 5000
    if padding:
        ids[-padding:], num_samples[-padding:] = 1, 0
    wave = 0.1 * rng.standard_normal((size, SAMPLES)).astype(np.float32)
    wave[np.arange(SAMPLES) >= num_samples[:, None]] = 0
    return {"wave": wave, "num_samples": num_samples, "row": np.arange(size, dtype=np.int32), "ids": ids}


def arrays(batch):
    return {name: jnp.asarray(rows) for name, rows in batch.items()}


@pytest.fixture(scope="module")
def variables():
    return jax.jit(MusicText(CONFIG).init)(jax.random.key(0))


def test_variables_are_those_of_the_model(variables):
    params, model_state = variables
    wanted = mulan_names.template(CONFIG)
    found = {"params": params, **model_state}
    shapes = [jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (found, wanted)]
    assert shapes[0] == shapes[1]
    np.testing.assert_allclose(np.exp(params["log_temperature"]), 10, rtol=1e-6)


@pytest.mark.parametrize("num_parts", [1, 2])
def test_evaluation_is_the_loss_of_the_towers_vectors(variables, num_parts):
    params, model_state = variables
    objective = MusicText(CONFIG, skip_same_text=True, num_parts=num_parts)
    batch = batch_of(padding=2)
    output = jax.jit(lambda b: objective.loss(params, model_state, b, jax.random.key(1), train=False))(
        arrays(batch)
    )
    audio = AudioTower(CONFIG).apply(
        {"params": params["audio"], "batch_stats": model_state["batch_stats"]["audio"]},
        batch["wave"][:6],
        jnp.asarray(batch["num_samples"][:6]),
    )
    text = TextTower(CONFIG).apply({"params": params["text"]}, batch["ids"][:6])
    same = np.all(batch["ids"][:6, None] == batch["ids"][:6], axis=-1)
    assert same.sum() == 6 + 2
    expected = pair_losses(audio, text, params["log_temperature"], same=same).mean()
    np.testing.assert_allclose(output.loss, expected, rtol=1e-5)
    assert output.weight == 6 and output.metrics["accuracy"].weight == 12
    similarity = np.asarray(text @ audio.T)
    hits = [same[i, row.argmax()] for matrix in (similarity, similarity.T) for i, row in enumerate(matrix)]
    np.testing.assert_allclose(output.metrics["accuracy"].value, np.mean(hits))
    np.testing.assert_allclose(output.metrics["accuracy_chance"].value, (4 * 1 + 2 * 2) / 6 / 6)
    np.testing.assert_array_equal(output.rows["valid"], np.arange(8) < 6)
    np.testing.assert_allclose(output.rows["audio"][:6], audio, atol=1e-5)
    assert np.isfinite(output.rows["text"]).all()
    jax.tree.map(np.testing.assert_array_equal, output.model_state, model_state)


@pytest.mark.slow
@pytest.mark.parametrize("num_parts", [1, 2])
def test_a_step_on_eight_devices_is_that_of_one(num_parts):
    """BatchNorm has the statistics of a part: rows 0, 2, ... and 1, 3, ... of the batch, on any mesh."""
    objective = MusicText(CONFIG, num_parts=num_parts)
    optim = OptimConfig(peak_lr=1e-2, schedule="constant", weight_decay=0.0, eps=1e-2)
    states = []
    for data, fsdp in ((1, 1), (4, 2)):
        mesh = parallel.make_mesh(data, fsdp, devices=jax.devices()[: data * fsdp])
        optimizer = make_optimizer(optim)
        with jax.set_mesh(mesh):
            state = init_state(objective, optimizer, mesh, jax.random.key(0))
            abstract = abstract_state(objective, optimizer, mesh)
            step = jit_train_step(objective, optim, abstract, mesh)
            batch = parallel.put_batch(batch_of(16), mesh)
            key = jax.device_put(jax.random.key(7), parallel.replicated(mesh))
            state, output = step(state, batch, key)
        states.append(jax.device_get((state.params, state.model_state, output.loss, output.grad_norm)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-3), *states)


@pytest.mark.slow
@pytest.mark.parametrize("loss, num_layers", [("decoupled", 2), ("sigmoid", 1), ("infonce", 0)])
def test_a_few_steps_learn_the_pairs(loss, num_layers):
    objective = MusicText(CONFIG, loss_name=loss, num_layers=num_layers)
    optim = OptimConfig(peak_lr=3e-3, schedule="constant", weight_decay=0.0)
    mesh = parallel.make_mesh(1, 1, devices=jax.devices()[:1])
    optimizer = make_optimizer(optim)
    with jax.set_mesh(mesh):
        state = init_state(objective, optimizer, mesh, jax.random.key(0))
        before = jax.device_get(state.params)
        step = jit_train_step(objective, optim, abstract_state(objective, optimizer, mesh), mesh)
        batch = batch_of()
        batch["ids"][2, 1:3] = 5, 6  # all texts differ
        losses, of_layers = [], []
        for _ in range(40):
            state, output = step(state, parallel.put_batch(batch, mesh), jax.random.key(0))
            losses.append(float(output.loss))
            of_layers.append(float(output.metrics["layers_loss"].value) if num_layers else None)
    assert losses[-1] < losses[0] - 0.5
    assert output.metrics["accuracy"].value > 0.5  # chance: 1/8
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.params))
    still = {
        jax.tree_util.keystr(path) for path, yes in jax.tree_util.tree_leaves_with_path(moved) if not yes
    }
    # The MuQ's head names codes; padding's own rows, and one type of token, are read or not with these ids.
    assert all("head" in path for path in still), still
    if num_layers:
        assert of_layers[-1] < of_layers[0] - 0.5 and "layers" in state.params


def test_layers_at_even_distances():
    assert (
        interspersed(3, 12) == [0, 4, 8]
        and interspersed(2, 5) == [0, 2]
        and interspersed(4, 4) == [0, 1, 2, 3]
    )


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"loss_name": "triplet"}, "objective.loss='triplet': expected one of decoupled, infonce, sigmoid"),
        ({"temperature": 0.0}, "objective.temperature=0.0"),
        ({"num_layers": 3}, "objective.num_layers=3: expected 0 to 2"),
    ],
)
def test_what_cannot_be_is_named(fields, said):
    with pytest.raises(UserError, match=said):
        MusicText(CONFIG, **fields)


def rows_of(similar):
    """Returns rows of 20 pairs, the last two padding, of which two have one text."""
    rng = np.random.default_rng(5)
    text = rng.standard_normal((20, 6))
    text[1] = text[0]
    audio = text + (0.01 if similar else 100) * rng.standard_normal((20, 6))
    ids = np.arange(20)[:, None] * np.ones((1, 3), int)
    ids[1] = ids[0]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (audio, text)]
    return {"audio": unit[0], "text": unit[1], "ids": ids, "valid": np.arange(20) < 18}


def test_a_whole_evaluation():
    found = {name: mean.value for name, mean in summarize(rows_of(similar=True)).items()}
    for way in ("text_to_music", "music_to_text"):
        assert found[f"{way}_recall_at_1"] == 1 and found[f"{way}_median_rank"] == 1
        # Two of 18 have two right answers.
        np.testing.assert_allclose(found[f"{way}_recall_at_1_chance"], (16 / 18 + 2 * 2 / 18) / 18)
        assert found[f"{way}_recall_at_10_chance"] < 0.65
    own, other = found["similarity_own"], found["similarity_other"]
    assert len(own) == len(other) == HISTOGRAM_BINS
    np.testing.assert_allclose([own.sum(), other.sum()], 1)
    assert own[-1] == 1 and other[-1] < 0.2


def test_an_evaluation_of_nothing_learned_is_near_chance():
    found = {name: mean.value for name, mean in summarize(rows_of(similar=False)).items()}
    difference = found["text_to_music_recall_at_10"] - found["text_to_music_recall_at_10_chance"]
    assert abs(difference) < 0.3


def test_of_many_clips_some_at_even_distances_are_ranked(monkeypatch):
    rows = rows_of(similar=True)
    assert summarize(rows)["num_ranked"].value == 18
    monkeypatch.setattr(music_text, "MAX_CLIPS", 6)
    some = {name: values[:18:3] for name, values in rows.items()}
    for name, mean in summarize(rows).items():
        np.testing.assert_array_equal(mean.value, summarize(some)[name].value)


def test_padding_changes_nothing():
    rows = rows_of(similar=True)
    without = {name: values[:18] for name, values in rows.items()}
    for name, mean in summarize(rows).items():
        np.testing.assert_array_equal(mean.value, summarize(without)[name].value)
