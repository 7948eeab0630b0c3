r"""Trains what a configuration says, in a work directory.

    python -m experiments.train --config=experiments/configs/muq.py:tiny --workdir=runs/muq \
        [--config.data.source=FOLDER|MANIFEST|SHARDS|toy_music|tfds:NAME] [--config.optim.peak_lr=3e-4] \
        [--profile=STEPS]

Ctrl-C or SIGTERM saves and stops; the same command goes on, also after a crash or a `kill -9`, and ends with
the same bits. Exit status: 0 done, 1 failed, 2 wrong usage, 75 interrupted.
"""

import json
import logging
import math
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import app, flags
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from experiments import build, commands, stages
from experiments.clips import READ_SPLITS, audio_paths, train_source, valid_source
from experiments.labels import LABELS, write_labels
from muq_jax import parallel
from muq_jax.checkpoint import has_checkpoint
from muq_jax.cli import DONE, FAILED, INTERRUPTED, WRONG_USAGE
from muq_jax.convert.reader import CONFIG
from muq_jax.convert.rules import params_sha256
from muq_jax.data.splits import split_names
from muq_jax.data.texts import warn_of_cut_texts
from muq_jax.errors import UserError, mistakes_in
from muq_jax.report.training import REPORT, report_training
from muq_jax.train import loop
from muq_jax.train.watchdog import end_process

GROUPS = {"model", "targets", "objective", "data", "optim", "train", "mesh", "seed"}
"""What the configuration of a run is made of."""

MAY_CHANGE = (
    *("mesh.data", "mesh.fsdp", "data.num_workers", "data.num_threads"),
    *("train.log_every", "train.eval_every", "train.checkpoint_every", "train.keep_checkpoints"),
    *("train.max_nonfinite", "train.timeout_seconds"),
)
"""Fields that do not change the result, up to rounding: a run may go on with others."""

_log = logging.getLogger("muq_jax.experiments.train")

flags.declare_key_flag("config")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and metrics go.")
_MULTI_HOST = flags.DEFINE_bool(
    "multi_host", False, "Join the other hosts also where no launcher's variable tells of them: on TPU VMs."
)
_PROFILE = flags.DEFINE_integer("profile", 0, "Record so many steps in WORKDIR/profile.", lower_bound=0)


class Result(NamedTuple):
    """How a run ended; `params_sha256`, once it is done, is that of the tensors under PyTorch's names."""

    status: loop.Status
    step: int
    params_sha256: str | None


def run(config: ConfigDict, workdir: str | os.PathLike[str], *, profile_steps: int = 0) -> Result:
    """Trains what `config` says until it is done or interrupted; goes on where an earlier call ended.

    Args:
        config: of `experiments/configs`.
        workdir: the work directory.
        profile_steps: of `loop.run`.

    Raises:
        UserError: a mistake in the configuration, the data or the work directory.
    """
    workdir = Path(workdir)
    config = ConfigDict(config)
    mesh = parallel.make_mesh(config.mesh.data, config.mesh.fsdp)
    stored = _read_config(workdir)

    before = stages.before(
        config, stored and stored["model"].get("stat"), None if stored is None else workdir
    )
    _check_config(config, stored, workdir)
    # Every mistake shows here, before hours of work.
    trainee = build.make_trainee(config, before.maker)
    task, loop_config = build.make_task(config, trainee, mesh), build.loop_config(config)

    if before.config is not None:
        with mistakes_in(workdir / before.folder):
            trained = run(before.config, workdir / before.folder)
        if trained.status == "interrupted":
            return trained
        # Its last checkpoint is whole once the first host has added the checksums.
        _wait_for_hosts(before.folder)
        trainee = build.make_trainee(config, before.load(workdir / before.folder))
        task = build.make_task(config, trainee, mesh)
    if trainee.stored is not None:
        write_labels(config, trainee.stored, mesh, workdir / LABELS)
        _wait_for_hosts(LABELS)
        task = build.make_task(config, trainee, mesh, workdir / LABELS)
    if stored is None:
        _write_config(config, workdir, trainee.beside)
    _warn_of_data(config, trainee)
    _log.info("%s: training in %s", config.objective.name, workdir)
    state, status = loop.run(task, loop_config, mesh=mesh, workdir=workdir, profile_steps=profile_steps)
    sha256 = None if status == "interrupted" else params_sha256(trainee.to_torch(state))
    return Result(status, int(state.step), sha256)


def _warn_of_data(config: ConfigDict, trainee: build.Trainee) -> None:
    """Says what of the data is not read, or is where it should not be."""
    source, valid = train_source(config), valid_source(config)
    if valid is None and config.train.eval_every:
        _log.warning(
            "no validation: data.source has no split val, valid or validation. Give its rows a `split`, or "
            "set --config.data.valid_source, to see how the model does on what it does not train on"
        )
    if isinstance(config.data.source, str) and (unread := split_names(config.data.source) - READ_SPLITS):
        _log.warning(
            "data.source has rows of the split %s, which nothing here reads; expected %s",
            *(", ".join(sorted(splits)) for splits in (unread, READ_SPLITS)),
        )
    if valid is not None and (both := audio_paths(source) & audio_paths(valid)):
        _log.warning(
            "%d files of the validation are trained on, too, such as %s: it will look better than it is",
            len(both),
            min(both),
        )
    if trainee.texts is not None:
        warn_of_cut_texts(source, trainee.texts)


def _wait_for_hosts(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _read_config(workdir: Path) -> dict[str, Any] | None:
    """Returns the configuration that a run began with; None if none has begun there.

    Before its first checkpoint a run has nothing to go on with: what was wrong may be corrected, and what the
    data says is read anew.

    Raises:
        UserError: the file of its name is something else, such as a model folder's.
    """
    path = workdir / CONFIG
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. Give another work directory.") from None
    if not isinstance(stored, dict) or not stored.keys() >= GROUPS:
        raise UserError(
            f"{path} is not the configuration of a run, which has {', '.join(sorted(GROUPS))}; a model "
            "folder has a file of this name too. Give another work directory."
        )
    return stored if has_checkpoint(workdir) else None


def _write_config(config: ConfigDict, workdir: Path, beside: Mapping[str, bytes] | None = None) -> None:
    """Writes the configuration after the files beside it, without which nothing can go on."""
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        for name, content in (beside or {}).items():
            (workdir / name).write_bytes(content)
        commands.write_json(workdir / CONFIG, config.to_dict())


def _check_config(config: ConfigDict, stored: dict[str, Any] | None, workdir: Path) -> None:
    """Raises a UserError that lists what differs from the configuration that the run began with."""
    if stored is None:
        return
    now = dict(_flat(json.loads(json.dumps(config.to_dict()))))
    then = dict(_flat(stored))
    differing = [
        f"  {name}: {then.get(name, 'absent')!r} there, {now.get(name, 'absent')!r} now"
        for name in sorted(then.keys() | now.keys())
        if name not in MAY_CHANGE and then.get(name, "absent") != now.get(name, "absent")
    ]
    if differing:
        raise UserError(
            f"{workdir / CONFIG}: this work directory belongs to a run with another configuration:\n"
            + "\n".join(differing)
            + "\nTake another --workdir, or the values of then to go on."
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def is_multi_process(environment: Mapping[str, str]) -> bool:
    """Returns whether a launcher has started this as one of several processes, going by its variables."""
    # Slurm sets the number of tasks for a batch script too, which is one process; only srun makes a step.
    return (
        "JAX_COORDINATOR_ADDRESS" in environment
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or ("SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS") or 1) > 1)
        or int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1
    )


def _join_hosts(timeout_seconds: float) -> None:
    """Meets the other processes at the coordinator; ends this one if they do not all come in time."""
    _log.info("waiting for the coordinator and the other hosts, at most %g s", timeout_seconds)
    said = (
        f"the hosts have not all met within {timeout_seconds:g} s (train.timeout_seconds). See that "
        "every host was started, that each one reaches the coordinator, and that its port is free. Ending "
        "this process."
    )
    alarm = threading.Timer(timeout_seconds, end_process, [said])
    alarm.daemon = True
    alarm.start()
    # JAX's own end of a wait, for hosts to come or for one that is gone, is a crash without a reason: it has
    # to come later than ours.
    later = math.ceil(timeout_seconds) + 60
    jax.distributed.initialize(initialization_timeout=later, heartbeat_timeout_seconds=later)
    alarm.cancel()


def main(argv: Sequence[str]) -> int:
    if len(argv) > 1 or not commands.CONFIG.value or not _WORKDIR.value:
        what = f"unexpected argument {argv[1]!r}" if len(argv) > 1 else "--config and --workdir are needed"
        print(f"error: {what}; see --help", file=sys.stderr)
        return WRONG_USAGE
    commands.set_up_logging("%(asctime)s %(message)s")
    config, workdir = commands.CONFIG.value, Path(_WORKDIR.value)
    if config.train.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"

    def work() -> int:
        if _MULTI_HOST.value or is_multi_process(os.environ):
            _join_hosts(config.train.timeout_seconds)
        status, step, sha256 = run(config, workdir, profile_steps=_PROFILE.value)
        if status == "interrupted":
            return INTERRUPTED
        if jax.process_index() == 0:
            print(f"{workdir}: {'already ' if status == 'was done' else ''}done, step {step}")
            # An earlier start may have been killed between its last step and its report.
            if status == "done" or not (workdir / REPORT).exists():
                print(f"report: {report_training(workdir)}")
            print(f"params sha256 {sha256}")
        return DONE

    try:
        status = commands.run_command(work, workdir)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        status = FAILED
    if status == FAILED and jax.distributed.is_initialized():
        # JAX would wait for the other hosts, which wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    app.run(main, flags_parser=commands.parse_flags)
