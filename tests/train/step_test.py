import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax import parallel
from muq_jax.train.optim import OptimConfig, make_optimizer
from muq_jax.train.state import TrainState, abstract_state, init_state
from muq_jax.train.step import make_eval_step, make_train_step, pmap_train_step

OPTIM = OptimConfig(peak_lr=0.05, schedule="constant", weight_decay=0.01)


def train(objective, batches, *, mesh=None, accumulate=1, optim=OPTIM):
    """Returns the state after the batches and every step's output."""
    mesh = mesh or parallel.make_mesh(1, 1, devices=jax.devices()[:1])
    optimizer = make_optimizer(optim)
    outputs = []
    with jax.set_mesh(mesh):
        state = init_state(objective, optimizer, mesh, jax.random.key(0))
        step = jax.jit(make_train_step(objective, optimizer, accumulate=accumulate, frozen=optim.frozen))
        for batch in batches:
            state, output = step(state, parallel.put_batch(batch, mesh), jax.random.key(1))
            outputs.append(jax.device_get(output))
    return jax.device_get(state), outputs


def assert_equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_step_follows_the_gradient_of_the_masked_mean(regression, batch_of):
    objective, batch = regression(), batch_of(1)
    state, [output] = train(objective, [batch])
    params, model_state = objective.init(jax.random.key(0))
    key = jax.random.fold_in(jax.random.key(1), 0)
    arrays = {name: jnp.asarray(batch[name]) for name in ("wave", "num_samples", "row")}

    def loss(params):
        return objective.loss(params, model_state, arrays, key, train=True).loss

    grads = jax.grad(loss)(params)
    np.testing.assert_allclose(output.loss, loss(params), rtol=1e-6)
    np.testing.assert_allclose(
        output.grad_norm, np.sqrt(sum(np.sum(g**2) for g in grads.values())), rtol=1e-6
    )
    assert output.num_samples == batch["num_samples"].sum()
    assert state.step == 1 and state.model_state["batches"] == 1
    # Adam's first update is the sign of the gradient.
    moved = state.params["offset"] - params["offset"]
    np.testing.assert_allclose(moved, -0.05 * np.sign(grads["offset"]), rtol=1e-4)


def test_training_converges(regression, batch_of):
    state, outputs = train(regression(noise=0.0), [batch_of(step) for step in range(200)])
    assert outputs[-1].loss < 1e-3 < outputs[0].loss
    np.testing.assert_allclose(state.params["offset"], 1.0, atol=0.05)


@pytest.mark.parametrize("accumulate", [2, 16])
def test_accumulation_is_the_whole_batch(regression, batch_of, accumulate):
    batches = [batch_of(step) for step in range(5)]
    whole, whole_outputs = train(regression(), batches)
    parts, parts_outputs = train(regression(), batches, accumulate=accumulate)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), parts.params, whole.params
    )
    for a, b in zip(parts_outputs, whole_outputs, strict=True):
        np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5)
        np.testing.assert_allclose(a.grad_norm, b.grad_norm, rtol=1e-5)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a.metrics, b.metrics)
    assert parts.model_state["batches"] == 5 * accumulate


def test_frozen_parameters_stay_and_weigh_nothing_in_the_norm(regression, batch_of):
    objective, batches = regression(), [batch_of(step) for step in range(3)]
    _, free_outputs = train(objective, batches[:1])
    state, outputs = train(objective, batches, optim=dataclasses.replace(OPTIM, frozen=("slope",)))
    start = objective.init(jax.random.key(0))[0]
    np.testing.assert_array_equal(state.params["slope"], start["slope"])
    assert state.params["offset"] != start["offset"]
    assert state.model_state["batches"] == 3
    assert outputs[0].loss == free_outputs[0].loss
    assert 0 < outputs[0].grad_norm < free_outputs[0].grad_norm


def test_rows_that_do_not_divide_are_an_error(regression, batch_of):
    with pytest.raises(ValueError, match="16 rows do not divide into 3"):
        train(regression(), [batch_of(0)], accumulate=3)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counter(regression, batch_of, accumulate):
    good = [batch_of(1), batch_of(2)]
    before, _ = train(regression(), good, accumulate=accumulate)
    after, outputs = train(regression(), [*good, batch_of(3, broken=True)], accumulate=accumulate)
    assert_equal_trees(before.to_items(), after.to_items())
    assert after.step == 3
    assert [bool(output.finite) for output in outputs] == [True, True, False]
    assert np.isnan(outputs[-1].loss)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(outputs[-1].metrics))


def test_a_skipped_step_leaves_a_run_that_goes_on_and_learns(regression, batch_of):
    state, outputs = train(
        regression(noise=0.0), [batch_of(step, broken=step % 7 == 0) for step in range(200)]
    )
    assert outputs[-2].loss < 1e-2
    assert np.isfinite(state.params["slope"]).all()


def test_nothing_to_predict_gives_no_loss_and_no_gradient(regression, batch_of):
    empty = batch_of(0) | {"num_samples": np.zeros(16, np.int32)}
    _, [output] = train(regression(), [empty])
    assert output.finite and output.loss == 0 and output.grad_norm == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_replacements_are_written_before_the_update(regression, batch_of, accumulate):
    optim = OptimConfig(peak_lr=0.5, schedule="constant", weight_decay=0.0)
    state, _ = train(regression(replaces=True), [batch_of(0)], accumulate=accumulate, optim=optim)
    # The old offset's gradient is added to the new value, as upstream's in-place write does.
    assert abs(state.params["offset"] - 100) == pytest.approx(0.5, rel=1e-3)


def test_steps_draw_their_own_noise_and_runs_repeat(regression, batch_of):
    same = [batch_of(0), batch_of(0)]
    frozen = OptimConfig(peak_lr=0.0, schedule="constant", weight_decay=0.0)
    a, outputs_a = train(regression(), same, optim=frozen)
    b, outputs_b = train(regression(), same, optim=frozen)
    assert outputs_a[0].loss != outputs_a[1].loss
    assert_equal_trees(outputs_a, outputs_b)
    assert_equal_trees(a, b)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_eight_devices_give_one_devices_losses(regression, batch_of, accumulate):
    batches = [batch_of(step) for step in range(5)]
    _, one = train(regression(), batches, accumulate=accumulate)
    _, eight = train(regression(), batches, mesh=parallel.make_mesh(2, 4), accumulate=accumulate)
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_allclose(a.loss, b.loss, rtol=1e-6)


def test_a_quantiser_is_not_fitted_by_pmap(regression, batch_of):
    """Its unused codes are replaced from the whole batch, which no device sees."""
    objective = regression(replaces=True)
    params, model_state = objective.init(jax.random.key(0))
    state = TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(OPTIM).init(params), model_state)
    copies = jax.tree.map(lambda a: jnp.broadcast_to(a, (8, *a.shape)), state)
    parts = {name: np.split(np.asarray(rows), 8) for name, rows in batch_of(1).items() if name != "id"}
    parts = {name: np.stack(rows) for name, rows in parts.items()}
    with pytest.raises(ValueError, match="fit a quantiser with jit_train_step"):
        pmap_train_step(objective, OPTIM)(copies, parts, jax.random.key(1))


def test_eval_step_changes_nothing_and_is_the_loss(regression, batch_of):
    objective, mesh = regression(), parallel.make_mesh(8, 1)
    optimizer = make_optimizer(OPTIM)
    with jax.set_mesh(mesh):
        state = init_state(objective, optimizer, mesh, jax.random.key(0))
        batch = parallel.put_batch(batch_of(0), mesh)
        metrics, rows = jax.jit(make_eval_step(objective))(state, batch, jax.random.key(5))
    expected = objective.loss(state.params, state.model_state, batch, jax.random.key(5), train=False)
    np.testing.assert_allclose(metrics["loss"].value, expected.loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["absolute"].value, expected.metrics["absolute"].value, rtol=1e-6)
    np.testing.assert_allclose(rows["error"], expected.rows["error"], rtol=1e-6)


def test_abstract_state_is_the_state(regression):
    mesh, optimizer = parallel.make_mesh(2, 4), make_optimizer(OPTIM)
    state = init_state(regression(), optimizer, mesh, jax.random.key(0))
    abstract = abstract_state(regression(), optimizer, mesh)
    jax.tree.map(
        lambda a, b: (
            np.testing.assert_equal(a.shape, b.shape),
            np.testing.assert_equal(a.sharding, b.sharding),
        ),
        abstract,
        state,
    )
