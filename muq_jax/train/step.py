"""One training step and one evaluation step: pure functions of arrays."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from muq_jax import parallel
from muq_jax.objectives.metric import Mean
from muq_jax.objectives.objective import Batch, LossOutput, Objective, split_rows
from muq_jax.train.optim import OptimConfig, make_optimizer, without_gradient
from muq_jax.train.state import TrainState


class StepOutput(NamedTuple):
    """What a step reports.

    Attributes:
        finite: bool scalar; False when the loss or the gradient was not and the step was skipped.
        loss, grad_norm: scalars as they came out, before clipping, also when not finite.
        num_samples: float32 scalar, real samples in the global batch.
        metrics: named means to be added up over steps; those of a skipped step weigh nothing.
    """

    finite: jax.Array
    loss: jax.Array
    grad_norm: jax.Array
    num_samples: jax.Array
    metrics: dict[str, Mean]


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    frozen: tuple[str, ...] = (),
    axis_name: str | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepOutput]]:
    """Returns `train_step(state, batch, base_key)`, which gives the next state and a `StepOutput`.

    Its key is `fold_in(base_key, state.step)`, so that none is carried. A step whose loss or gradient is not
    finite leaves everything but the step counter as it was.

    Args:
        objective: the loss. All its chance comes from the key and `batch["row"]`.
        optimizer: turns the gradient into an update.
        accumulate: micro-batches that the batch is cut into, to fit into memory. Their gradients are joined
            by `LossOutput.weight`, which makes them the whole batch's masked mean; statistics that depend on
            the batch (BatchNorm's, the count of unused codes) are taken for each micro-batch in turn. A loss
            over all pairs of a batch is not such a mean: `MusicText` has parts of its own, `num_parts`.
        frozen: groups of parameters that have no gradient; the optimizer must leave them, too.
        axis_name: of the mapped axis whose devices hold a part of the batch each; None where it is whole.
    """

    def train_step(state: TrainState, batch: Batch, base_key: jax.Array) -> tuple[TrainState, StepOutput]:
        key = jax.random.fold_in(base_key, state.step)
        output, grads = _loss_and_grads(objective, state, batch, key, accumulate, frozen, axis_name)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(output.loss) & jnp.isfinite(grad_norm)

        # As upstream, rows that replace unused codes are in place before the optimizer's update is added.
        params = _replace_all(objective, state.params, output.updates)
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
        params = optax.apply_updates(params, updates)

        def keep_if_finite(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        state = TrainState(
            step=state.step + 1,
            params=keep_if_finite(params, state.params),
            opt_state=keep_if_finite(opt_state, state.opt_state),
            model_state=keep_if_finite(output.model_state, state.model_state),
        )
        one = jnp.ones(())
        metrics = {
            "loss": Mean(output.loss * output.weight, output.weight),
            "grad_norm": Mean(grad_norm, one),
        }
        metrics = jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), metrics | output.metrics)
        num_samples = _sum_over(axis_name, batch["num_samples"].astype(jnp.float32).sum())
        return state, StepOutput(finite, output.loss, grad_norm, num_samples, metrics)

    return train_step


def jit_train_step(
    objective: Objective, optim: OptimConfig, abstract: TrainState, mesh: Mesh, *, accumulate: int = 1
) -> Any:
    """Returns `make_train_step` jitted for `mesh`: what a run trains with and what `compile` looks at.

    The state given to it is donated.

    Args:
        objective, optim, accumulate: as in `make_train_step`.
        abstract: of `abstract_state`, whose shardings the state keeps.
        mesh: its devices may be real or a topology's that can only be compiled for.
    """
    state = jax.tree.map(lambda a: a.sharding, abstract)
    step = make_train_step(objective, make_optimizer(optim), accumulate=accumulate, frozen=optim.frozen)
    return jax.jit(
        step,
        in_shardings=(state, parallel.batch_sharding(mesh), parallel.replicated(mesh)),
        out_shardings=(state, parallel.replicated(mesh)),
        donate_argnums=0,
    )


def pmap_train_step(
    objective: Objective, optim: OptimConfig, *, devices: Sequence[jax.Device] | None = None
) -> Any:
    """Returns the same step under `jax.pmap`, for programs that are built on it; others do better with `jit`.

    It takes and gives the state with a leading axis of devices [N, ...], all copies equal, and donates it;
    the batch is [N, B / N, ...], the key one for all. The numbers are those of `jit_train_step` where that
    gives every device BatchNorm statistics of its own (`batch_norm_groups` N), but for dropout, which each
    device draws for itself. A quantiser is not fitted so: unused codes are replaced from the whole batch. Nor
    is `MusicText`, whose pairs would be those of one device alone.

    Args:
        objective, optim: as in `make_train_step`.
        devices: all of them by default.
    """
    step = make_train_step(objective, make_optimizer(optim), frozen=optim.frozen, axis_name="devices")
    return jax.pmap(step, "devices", in_axes=(0, 0, None), donate_argnums=0, devices=devices)


def make_eval_step(
    objective: Objective,
) -> Callable[[TrainState, Batch, jax.Array], tuple[dict[str, Mean], dict[str, jax.Array]]]:
    """Returns `eval_step(state, batch, key)`: a batch's metrics, "loss" among them, and its rows."""

    def eval_step(
        state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[dict[str, Mean], dict[str, jax.Array]]:
        output = objective.loss(state.params, state.model_state, batch, key, train=False)
        loss = Mean(output.loss * output.weight, output.weight)
        return {"loss": loss} | output.metrics, output.rows or {}

    return eval_step


def _loss_and_grads(
    objective: Objective,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    accumulate: int,
    frozen: tuple[str, ...],
    axis_name: str | None,
) -> tuple[LossOutput, Any]:
    """Returns the batch's loss and gradient; `updates` are stacked on a leading axis of micro-batches."""

    def scaled_loss(params: Any, model_state: Any, micro: Batch) -> tuple[jax.Array, LossOutput]:
        params = without_gradient(params, frozen)
        output = objective.loss(params, model_state, micro, key, train=True)
        return output.loss * output.weight, output

    def one_micro(carry: Any, micro: Batch) -> tuple[Any, Any]:
        model_state, grads, loss, weight, metrics = carry
        new_grads, output = jax.grad(scaled_loss, has_aux=True)(state.params, model_state, micro)
        sums = new_grads, output.loss * output.weight, output.weight, output.metrics
        sums = jax.tree.map(operator.add, (grads, loss, weight, metrics), sums)
        return (output.model_state, *sums), output.updates

    micros = split_rows(batch, accumulate)
    first = jax.tree.map(lambda rows: rows[0], micros)
    shapes = jax.eval_shape(scaled_loss, state.params, state.model_state, first)[1]
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), (state.params, shapes.loss, shapes.weight, shapes.metrics)
    )
    start = (state.model_state, *zeros)
    if accumulate == 1:
        # No loop, not even of one step: XLA's CPU convolutions are ten times slower out of one.
        carry, updates = one_micro(start, first)
        updates = jax.tree.map(lambda x: x[None], updates)
    else:
        carry, updates = jax.lax.scan(one_micro, start, micros)
    model_state, *sums = carry
    grads, loss, weight, metrics = _sum_over(axis_name, sums)
    if axis_name is not None:
        if jax.tree.leaves(updates):
            raise ValueError("codes are replaced from the whole batch: fit a quantiser with jit_train_step")
        model_state = _join_devices(state.model_state, model_state, axis_name)
    # Nothing masked in the whole batch (weight 0): no loss and no gradient, not 0 / 0.
    scale = jnp.where(weight > 0, 1.0 / jnp.where(weight > 0, weight, 1.0), 0.0)
    grads = jax.tree.map(lambda g: g * scale, grads)
    return LossOutput(loss * scale, weight, model_state, metrics, updates), grads


def _sum_over(axis_name: str | None, tree: Any) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _join_devices(old: Any, new: Any, axis_name: str) -> Any:
    """Returns one model state of what each device has made of its rows.

    Running statistics are the devices' mean, codes are counted over all of them; what else there is, frozen
    targets as large as a teacher, is not sent.
    """
    joined = {**old, "batch_stats": jax.lax.pmean(new["batch_stats"], axis_name)}
    if "code_counts" in old:
        counted = jax.lax.psum(new["code_counts"] - old["code_counts"], axis_name)
        joined["code_counts"] = old["code_counts"] + counted
    return joined


def _replace_all(objective: Objective, params: Any, updates: Any) -> Any:
    """Writes the updates of every micro-batch in turn; without any there is nothing to write."""
    if not jax.tree.leaves(updates):
        return params
    return jax.lax.scan(lambda p, u: (objective.replace(p, u), None), params, updates)[0]
