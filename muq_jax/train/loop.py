"""The training loop: resume, step, evaluate, save, stop. It knows no task."""

import dataclasses
import logging
import operator
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from muq_jax import parallel
from muq_jax.checkpoint import Checkpoints, load_meta
from muq_jax.errors import UserError
from muq_jax.objectives.metric import Mean
from muq_jax.objectives.objective import Objective
from muq_jax.train.journal import Counters, Journal
from muq_jax.train.optim import OptimConfig, make_optimizer
from muq_jax.train.profile import Profile
from muq_jax.train.state import TrainState, abstract_state, init_state
from muq_jax.train.step import jit_train_step, make_eval_step
from muq_jax.train.stopping import stops
from muq_jax.train.watchdog import Watchdog

_log = logging.getLogger(__name__)

Status = Literal["done", "interrupted", "was done"]


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, how often, and when to give up; every interval is in steps.

    Attributes:
        num_steps: steps in the whole run, skipped ones included.
        log_every: steps that one row of metrics covers.
        eval_every: steps between evaluations (there is one at the end as well); 0 for none.
        checkpoint_every: steps between checkpoints (there is one at the end as well).
        keep_checkpoints: newest checkpoints kept.
        max_nonfinite: so many skipped steps in a row end the run.
        accumulate: micro-batches that a batch is cut into.
        seed: of the parameters, masks, noise and dropout.
        timeout_seconds: without progress for so long, a host says where all of them are and ends.
    """

    num_steps: int
    log_every: int = 100
    eval_every: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    max_nonfinite: int = 20
    accumulate: int = 1
    seed: int = 0
    timeout_seconds: float = 900.0

    def __post_init__(self) -> None:
        for name in ("num_steps", "log_every", "checkpoint_every", "max_nonfinite", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name}={getattr(self, name)}: expected 1 or more.")
        if not self.timeout_seconds > 0:
            raise UserError(f"train.timeout_seconds={self.timeout_seconds}: expected more than 0.")


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, and on what.

    Attributes:
        objective: the model and its loss.
        optim: the optimizer.
        train_batches: opens this host's rows of the global batches, from a step (0 is the first) onwards;
            with `close`.
        valid_batches: opens this host's rows of all validation batches; None where there are none.
        flops_per_step: analytic count of the model's arithmetic in one step, for the FLOP/s metric.
        levels: constants written beside the metrics, such as the loss of chance.
        meta: saved with every checkpoint: what describes the model.
        given: what a run begins with, such as a trained teacher; of `init_state`.
        summarize: makes metrics of the rows of all validation batches, where the objective gives rows.
    """

    objective: Objective
    optim: OptimConfig
    train_batches: Callable[[int], Any]
    valid_batches: Callable[[], Any] | None = None
    flops_per_step: float = 0.0
    levels: Mapping[str, float] = dataclasses.field(default_factory=dict)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    summarize: Callable[[Mapping[str, np.ndarray]], dict[str, Mean]] | None = None


def run(
    task: Task, config: LoopConfig, *, mesh: Mesh, workdir: Path, profile_steps: int = 0
) -> tuple[TrainState, Status]:
    """Trains until `num_steps`, from the newest whole checkpoint in `workdir` if there is one.

    A run that was ended at any moment and is started again ends with the bits that it would have had. SIGINT
    and SIGTERM end it with a checkpoint after the step at hand, were it the last; on several hosts only
    SIGTERM does, on any.

    Args:
        task: what is trained.
        config: how.
        mesh: on which devices.
        workdir: where checkpoints and metrics go.
        profile_steps: so many steps are recorded in `workdir/profile`.

    Returns:
        The state, and "done", "interrupted", or "was done" where there was nothing left to do.

    Raises:
        UserError: too many steps in a row were not finite, or a checkpoint does not fit on the disk.
    """
    with (
        jax.set_mesh(mesh),
        Watchdog(config.timeout_seconds) as watchdog,
        Checkpoints(workdir, keep=config.keep_checkpoints) as checkpoints,
    ):
        optimizer = make_optimizer(task.optim)
        abstract = abstract_state(task.objective, optimizer, mesh)
        start = checkpoints.newest or 0
        counters = Counters()
        if start:
            _log.info("going on from the checkpoint of step %d", start)
            state = TrainState.from_items(start, checkpoints.restore(start, abstract.to_items()), abstract)
            counters = Counters(**load_meta(workdir, start)["counters"])
        else:
            state = init_state(task.objective, optimizer, mesh, jax.random.key(config.seed), task.given)
        if start >= config.num_steps:
            return state, "was done"

        journal = Journal(
            workdir,
            task.optim,
            step=start,
            num_steps=config.num_steps,
            log_every=config.log_every,
            max_nonfinite=config.max_nonfinite,
            flops_per_step=task.flops_per_step,
            levels=task.levels,
            counters=counters,
        )
        train_step = jit_train_step(task.objective, task.optim, abstract, mesh, accumulate=config.accumulate)
        evaluate = _make_evaluate(task, config, mesh)
        base_key = jax.device_put(jax.random.key(config.seed), parallel.replicated(mesh))

        def save(step: int) -> None:
            meta = {**task.meta, "step": step, "counters": dataclasses.asdict(journal.counters)}
            checkpoints.save(step, state.to_items(), meta)

        with (
            closing(journal),
            closing(Profile(workdir, start, profile_steps)) as profile,
            closing(task.train_batches(start)) as batches,
            stops() as is_to_stop,
        ):
            late: tuple[Any, ...] | None = None
            for step in range(start + 1, config.num_steps + 1):
                profile.before(step)
                watchdog.doing("waiting for data", step)
                with journal.waiting_for_data():
                    batch = next(batches)
                watchdog.doing("training", step)
                with jax.transfer_guard("disallow"):
                    state, output = train_step(state, parallel.put_batch(batch, mesh), base_key)
                    # Reading the metrics of the step before leaves the device busy with this one.
                    if late is not None:
                        journal.record(*late)
                    late = (step, output, batch["id"])
                if step == start + 1:
                    journal.restart_clock()

                # What failed in the background since the last save: now, not when the next one is due.
                checkpoints.raise_if_failed()
                stop = is_to_stop()
                ends = stop or step == config.num_steps
                saves = ends or step % config.checkpoint_every == 0
                evaluate_now = evaluate if _is_due(step, config) else None
                if saves or evaluate_now:
                    journal.record(*late)
                    late = None
                if saves:
                    # Before the checkpoint: no window reaches over the step that a run resumes from.
                    journal.end_window()
                with journal.not_training():
                    if stop:
                        # There is little time; the evaluation is not to be missing from a run that goes on.
                        watchdog.doing("saving", step)
                        save(step)
                        checkpoints.wait()
                    if evaluate_now:
                        # A large validation set may take longer than the timeout: its batches are progress.
                        progress = partial(watchdog.doing, "evaluating", step)
                        journal.record_valid(step, evaluate_now(state, progress))
                    if saves and not stop:
                        watchdog.doing("saving", step)
                        save(step)
                if stop:
                    return state, "interrupted"
            # A signal that came too late to be asked for ends the program when it is let through: not before
            # the last checkpoint is whole.
            checkpoints.wait()
        return state, "done"


def _is_due(step: int, config: LoopConfig) -> bool:
    return config.eval_every > 0 and (step % config.eval_every == 0 or step == config.num_steps)


def _make_evaluate(
    task: Task, config: LoopConfig, mesh: Mesh
) -> Callable[[TrainState, Callable[[], None]], dict[str, Mean]] | None:
    """Returns a function from a state to its validation metrics, with the same masks every time.

    It also takes what is to be called before each batch.
    """
    valid_batches = task.valid_batches
    if valid_batches is None:
        return None
    # A jit of its own arguments' shardings: the state's are the training step's.
    eval_step = jax.jit(make_eval_step(task.objective), out_shardings=parallel.replicated(mesh))
    key = jax.device_put(jax.random.key(config.seed), parallel.replicated(mesh))

    def evaluate(state: TrainState, progress: Callable[[], None]) -> dict[str, Mean]:
        sums: dict[str, Mean] = {}
        rows: dict[str, list[np.ndarray]] = {}
        with closing(valid_batches()) as batches:
            for index, batch in enumerate(batches):
                progress()
                # What is drawn goes by row: other rows, other masks.
                batch = {
                    **batch,
                    "row": batch["row"] + np.int32(index * len(batch["row"]) * jax.process_count()),
                }
                metrics, found = jax.device_get(eval_step(state, parallel.put_batch(batch, mesh), key))
                sums = jax.tree.map(operator.add, sums, metrics) if sums else metrics
                for name, values in found.items():
                    rows.setdefault(name, []).append(values)
        joined = {name: np.concatenate(parts) for name, parts in rows.items()}
        return sums if task.summarize is None else sums | task.summarize(joined)

    return evaluate
