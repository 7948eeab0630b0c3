import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from muq_jax.models.config import MelRVQConfig, muq_config
from muq_jax.models.hidden_rvq import HiddenRVQConfig
from muq_jax.models.muq import MuQModel
from muq_jax.objectives.rvq import HiddenRVQObjective, MelRVQObjective
from muq_jax.quantize.rvq import RVQConfig, quantize

CONFIG = MelRVQConfig(rvq=RVQConfig(num_books=3, num_codes=64, stale_tolerance=2))


@pytest.fixture(scope="module")
def fit():
    objective = MelRVQObjective(CONFIG)
    return objective, jax.jit(objective.loss, static_argnames="train"), *objective.init(jax.random.key(0))


def make_batch(num_samples):
    rng = np.random.default_rng(0)
    rows = len(num_samples)
    wave = rng.normal(0, 0.1, (rows, 9_600)) * rng.uniform(0, 1, (rows, 9_600))
    return {
        "wave": wave.astype(np.float32),
        "num_samples": np.asarray(num_samples, np.int32),
        "row": np.arange(rows, dtype=np.int32),
    }


def test_padding_contributes_nothing(fit):
    _, loss, params, state = fit
    batch = make_batch([9_600, 4_800, 0])
    output = loss(params, state, batch, jax.random.key(0), train=False)
    assert output.weight == 10 + 5
    assert output.metrics["code_counts"].total.sum(-1).tolist() == [15, 15, 15]
    two = {name: value[:2] for name, value in batch.items()}
    alone = loss(params, state, two, jax.random.key(0), train=False)
    np.testing.assert_allclose(output.loss, alone.loss, rtol=1e-6)
    nothing = loss(params, state, make_batch([0, 0, 0]), jax.random.key(0), train=True)
    assert nothing.loss == 0 and nothing.weight == 0


def test_metrics_are_the_terms_of_the_loss(fit):
    _, loss, params, state = fit
    output = loss(params, state, make_batch([9_600, 4_800, 9_600]), jax.random.key(0), train=False)
    value = {name: mean.value for name, mean in output.metrics.items()}
    terms = value["codebook_loss"] + 0.25 * value["commitment_loss"] + value["error"][-1]
    np.testing.assert_allclose(output.loss, terms, rtol=1e-6)
    assert value["error"].shape == (3,)


def test_evaluation_changes_nothing(fit):
    objective, loss, params, state = fit
    output = loss(params, state, make_batch([9_600] * 3), jax.random.key(0), train=False)
    jax.tree.map(np.testing.assert_array_equal, output.model_state, state)
    assert output.updates is None and objective.replace(params, output.updates) is params


def test_training_learns_and_replaces_what_is_never_used(fit):
    objective, _, params, state = fit
    optimizer = optax.adam(3e-3)
    opt_state = optimizer.init(params)
    batch = make_batch([9_600] * 3)

    @jax.jit
    def step(params, state, opt_state, key):
        def loss(params):
            output = objective.loss(params, state, batch, key, train=True)
            return output.loss, output

        (_, output), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        params = objective.replace(params, output.updates)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, output

    first, replaced = None, 0
    for n in range(40):
        params, opt_state, output = step(params, state, opt_state, jax.random.key(n))
        state = output.model_state
        replaced += output.metrics["replaced_codes"].total.sum()
        first = output if first is None else first
    assert replaced > 0
    assert output.loss < 0.5 * first.loss
    errors = output.metrics["error"].value
    assert (jnp.diff(errors) < 0).all() and errors[-1] < 0.6 * first.metrics["error"].value[-1]


TEACHER = muq_config("smoke", rvq=None, conformer={"width": 16})
HIDDEN = HiddenRVQConfig(TEACHER, 1, RVQConfig(num_books=3, num_codes=64, code_dim=4, input_dim=16))


@pytest.fixture(scope="module")
def hidden():
    objective = HiddenRVQObjective(HIDDEN)
    return objective, jax.jit(objective.loss, static_argnames="train"), *objective.init(jax.random.key(0))


@pytest.mark.parametrize("train", [True, False])
def test_a_hidden_rvq_is_fitted_to_the_teachers_layer(hidden, train):
    _, loss, params, state = hidden
    batch = make_batch([9_600, 4_000, 9_600, 0])
    output = loss(params, state, batch, jax.random.key(0), train=train)
    states = jax.jit(MuQModel(TEACHER).apply)(
        state["teacher"], batch["wave"], batch["num_samples"] // 960 * 960
    )
    valid = np.arange(10) < np.array([10, 4, 10, 0])[:, None]
    expected = quantize(params, states.hidden_states[1], valid, HIDDEN.rvq)
    np.testing.assert_allclose(output.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(output.metrics["error"].value, expected.errors, rtol=1e-5)
    assert output.weight == 24 and output.metrics["code_counts"].total[0].sum() == 24
    used = np.asarray(output.model_state["codebook_state"]["stale_counter"]) == 0
    assert used.all() == (not train)
    jax.tree.map(np.testing.assert_array_equal, output.model_state["teacher"], state["teacher"])


def test_fitting_reconstructs_the_layer_and_leaves_the_teacher_alone(hidden):
    objective, loss, params, state = hidden
    batch, optimizer = make_batch([9_600] * 4), optax.adam(1e-2)
    opt_state = optimizer.init(params)
    before = loss(params, state, batch, jax.random.key(0), train=False)

    @jax.jit
    def step(params, state, opt_state, key):
        def value(params):
            output = objective.loss(params, state, batch, key, train=True)
            return output.loss, output

        gradient, output = jax.grad(value, has_aux=True)(params)
        params = objective.replace(params, output.updates)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), output.model_state, opt_state

    now = state
    for key in jax.random.split(jax.random.key(1), 30):
        params, now, opt_state = step(params, now, opt_state, key)
    after = loss(params, now, batch, jax.random.key(0), train=False)
    assert after.metrics["error"].value[-1] < 0.7 * before.metrics["error"].value[-1]
    jax.tree.map(np.testing.assert_array_equal, now["teacher"], state["teacher"])
