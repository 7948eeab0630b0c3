r"""Trains what a configuration says, in a work directory.

    python -m experiments.train --config=experiments/configs/muq.py:tiny --workdir=runs/muq \
        [--config.data.source=FOLDER|MANIFEST|SHARDS|toy_music|tfds:NAME] [--config.optim.peak_lr=3e-4]

Ctrl-C or SIGTERM saves and stops; the same command goes on, also after a crash or a `kill -9`, and ends with
the same bits. Exit status: 0 done, 1 failed, 2 wrong usage, 75 interrupted.
"""

import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from experiments import build
from experiments.configs import mel_rvq
from muq_jax import parallel
from muq_jax.cli import DONE, FAILED, INTERRUPTED, WRONG_USAGE
from muq_jax.convert.rules import params_sha256
from muq_jax.errors import UserError
from muq_jax.inference.pretrained import MelRVQ
from muq_jax.report.training import report_training
from muq_jax.train import loop

CONFIG_FILE = "config.json"

MAY_CHANGE = ("mesh.data", "mesh.fsdp", "data.num_workers", "data.num_threads")
"""Fields that do not change the result, up to rounding: a run may go on with others."""

_log = logging.getLogger("muq_jax.experiments.train")

_CONFIG = config_flags.DEFINE_config_file("config", help_string="FILE.py:VARIANT", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and metrics go.")


class Result(NamedTuple):
    """How a run ended; `params_sha256` is that of the tensors in use under PyTorch's names."""

    status: loop.Status
    step: int
    params_sha256: str


def run(config: ConfigDict, workdir: str | os.PathLike[str]) -> Result:
    """Trains what `config` says until it is done or interrupted; goes on where an earlier call ended.

    Raises:
      UserError: a mistake in the configuration, the data or the work directory.
    """
    workdir = Path(workdir)
    config = ConfigDict(config)
    mesh = parallel.make_mesh(config.mesh.data, config.mesh.fsdp)
    stored = _read_config(workdir)
    if config.model.stat is None and stored is not None:
        config.model.stat = tuple(stored["model"]["stat"])
    config.model.stat = build.resolve_stat(config)

    rvq, rvq_config = None, None
    if config.targets.get("name") == "mel_rvq":
        if config.targets.rvq is None:
            rvq_config = _rvq_config(config)
            rvq = MelRVQ(build.mel_rvq_config(rvq_config), {})  # its sizes; it is fitted below
        else:
            rvq = MelRVQ.from_pretrained(config.targets.rvq)
        # The codes are learned from a mel normalised like this, and a model folder has one pair for both.
        config.model.stat = (rvq.config.mel.mean, rvq.config.mel.std)
    _check_config(config, stored, workdir)
    # Every mistake shows here, before hours of work.
    trainee = build.make_trainee(config, rvq)
    task, loop_config = build.make_task(config, trainee, mesh), build.loop_config(config)

    if rvq_config is not None:
        fitted = run(rvq_config, workdir / "mel_rvq")
        if fitted.status == "interrupted":
            return fitted
        trainee = build.make_trainee(config, MelRVQ.from_pretrained(workdir / "mel_rvq"))
        task = build.make_task(config, trainee, mesh)
    if stored is None:
        _write_config(config, workdir)
    _log.info("%s: training in %s", config.objective.name, workdir)
    state, status = loop.run(task, loop_config, mesh=mesh, workdir=workdir)
    return Result(status, int(state.step), params_sha256(trainee.to_torch(state)))


def _rvq_config(config: ConfigDict) -> ConfigDict:
    """Returns the configuration of the Mel-RVQ that a MuQ's own configuration asks to be fitted first.

    Raises:
      UserError: it does not ask.
    """
    if config.targets.fit is None:
        raise UserError(
            "targets.rvq is not set: MuQ learns to predict the codes of a trained Mel-RVQ. Fit one with\n"
            "  python -m experiments.train --config=experiments/configs/mel_rvq.py:large --workdir=RVQ_DIR "
            f"--config.data.source={config.data.source}\n"
            "and add --config.targets.rvq=RVQ_DIR, or let this run fit one first by "
            "--config.targets.fit=tiny."
        )
    rvq = mel_rvq.get_config(config.targets.fit)
    rvq.seed = config.seed
    rvq.mesh = config.mesh
    rvq.model.mel = config.model.mel
    rvq.model.stat = config.model.stat
    rvq.model.label_rate = config.model.label_rate
    frames_per_token = 100 // config.model.label_rate
    rvq.model.rvq.input_dim = config.model.mel.num_mels * frames_per_token
    for name in ("source", "valid_source", "gain_db", "random_channel", "num_workers", "num_threads"):
        rvq.data[name] = config.data[name]
    return rvq


def _read_config(workdir: Path) -> dict[str, Any] | None:
    path = workdir / CONFIG_FILE
    return json.loads(path.read_text()) if path.exists() else None


def _write_config(config: ConfigDict, workdir: Path) -> None:
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        written = workdir / f"{CONFIG_FILE}.tmp"
        written.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        os.replace(written, workdir / CONFIG_FILE)


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
            f"{workdir / CONFIG_FILE}: this work directory belongs to a run with another configuration:\n"
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
    return (
        "JAX_COORDINATOR_ADDRESS" in environment
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or any(int(environment.get(name) or 1) > 1 for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    )


def main(argv: Sequence[str]) -> int:
    if len(argv) > 1 or not _CONFIG.value or not _WORKDIR.value:
        what = f"unexpected argument {argv[1]!r}" if len(argv) > 1 else "--config and --workdir are needed"
        print(f"error: {what}; see --help", file=sys.stderr)
        return WRONG_USAGE
    _set_up_logging()
    config, workdir = _CONFIG.value, Path(_WORKDIR.value)
    if config.train.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    # Before the loop has its own handlers, SIGTERM ends the run as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if is_multi_process(os.environ):
            jax.distributed.initialize()
        status, step, sha256 = run(config, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: {workdir}: the disk is full ({error}). Make room and run the same command again.",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        status = "interrupted"
    if status == "interrupted":
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    if jax.process_index() == 0:
        print(f"{workdir}: {'already ' if status == 'was done' else ''}done, step {step}")
        if status == "done":
            print(f"report: {report_training(workdir)}")
        print(f"params sha256 {sha256}")
    return DONE


def _set_up_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("muq_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # Orbax logs a traceback for each thread that a failed save passes through; the failure itself is raised
    # to us.
    absl_logging.set_verbosity(absl_logging.FATAL)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        # A configuration file that could not be loaded says so only when something of it is read.
        getattr(_CONFIG.value, "seed", None)
        return rest
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        print(f"error: {_last_words(error)}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


def _last_words(error: Exception) -> str:
    """Returns what config_flags means: it puts the traceback of a configuration file into the message."""
    cause: Any = error
    while isinstance(cause, BaseException) and cause.args:
        cause = cause.args[0] if not isinstance(cause, OSError) else str(cause)
    text = str(cause).strip()
    if "Traceback (most recent call last)" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
