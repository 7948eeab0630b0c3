r"""Compiles a configuration's training step for a pod that is not there, and says what it would cost.

    python -m experiments.compile --config=experiments/configs/muq.py:large --topology=v5e:8x8 \
        [--config.data.batch_size=256] [--find_batch] [--num_slices=2] [--out=FILE.json] \
        [--hlo=FILE.txt] [--all]

The TPU's own compiler runs on any machine with the extra `tpu`; no TPU and no data are needed. It prints the
memory of a chip by part, a bound on the step from the chip's published peaks, and what is sent between chips:
weights, gradients and small statistics are expected, clips and activations are not. `--topology=gpu` takes
the GPUs of this machine. Exit status: 0 it fits, 1 it does not, or something else is wrong, 2 wrong usage.
"""

import copy
import dataclasses
import importlib.util
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import build, chips, commands, stages, step_report
from experiments.chips import Chip
from experiments.clips import crop_samples
from experiments.collectives import Expected
from experiments.configs.groups import UPSTREAM_STAT
from muq_jax import parallel
from muq_jax.cli import DONE, FAILED, WRONG_USAGE
from muq_jax.errors import UserError
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.nn.subsample import TIME_STRIDES
from muq_jax.objectives.music_text import MusicText
from muq_jax.objectives.objective import Objective
from muq_jax.train.optim import make_optimizer
from muq_jax.train.state import TrainState, abstract_state
from muq_jax.train.step import jit_train_step

flags.declare_key_flag("config")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Such as v5e:16x16, v5p:4x4x4, v6e:8x8, v4:2x2x2; or gpu.")
_NUM_SLICES = flags.DEFINE_integer(
    "num_slices", 1, "Slices of that shape, joined by the data-centre network."
)
_FIND_BATCH = flags.DEFINE_boolean("find_batch", False, "Find the most clips a chip that fit.")
_OUT = flags.DEFINE_string("out", None, "A JSON file for the whole report.")
_HLO = flags.DEFINE_string("hlo", None, "A file for the text of the optimised program.")
_ALL = flags.DEFINE_boolean("all", False, "Print every collective, not the largest of the expected ones.")


class Target(NamedTuple):
    """What to compile for: devices, real or not, and what their chips can do."""

    devices: Sequence[jax.Device]
    chip: Chip


class TooLarge(Exception):
    """The compiler found no room; `needed` and `available` are in bytes, None where it did not say."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        found = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", message)
        units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
        self.needed = float(found.group(1)) * units[found.group(2)] if found else None
        self.available = float(found.group(3)) * units[found.group(4)] if found else None


class Step(NamedTuple):
    """A training step and what goes into it, as shapes with shardings."""

    jitted: Any
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    key: jax.ShapeDtypeStruct
    model_flops: float
    objective: Objective


def find_target(topology: str, num_slices: int = 1) -> Target:
    """Returns the devices of `--topology`.

    Raises:
        UserError: there is no such topology, or what it takes is not on this machine.
    """
    if topology == "gpu":
        try:
            devices = jax.devices("gpu")
        except RuntimeError as error:
            raise UserError(f"--topology=gpu: JAX sees no GPU on this machine ({error}).") from None
        chip = chips.gpu(devices[0].device_kind)
        # JAX leaves some of it to others.
        memory = (devices[0].memory_stats() or {}).get("bytes_limit", chip.hbm_bytes)
        return Target(devices, dataclasses.replace(chip, hbm_bytes=memory))
    chip = chips.tpu(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f'--topology={topology}: the TPU compiler is not installed. Run: pip install -e ".[tpu]" (or pip '
            "install libtpu, of the version that this jax asks for). No TPU is needed."
        )
    # The compiler asks the cloud what machine it is on, for minutes, and locks the chips: there are none.
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(name, value)
    # A v4 has two cores, which JAX uses as one device; the others are so by default.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    if num_slices > 1:
        options["num_slices"] = num_slices
    try:
        found = topologies.get_topology_desc(topology_name=topology, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology={topology}: the compiler knows no such slice: {error}") from None
    return Target(found.devices, chip)


def make_step(config: ConfigDict, mesh: Mesh) -> Step:
    """Returns the step that a run of `config` would make on `mesh`; nothing is computed.

    Raises:
        UserError: a mistake in the configuration; the batch does not divide over the devices.
    """
    config = copy.deepcopy(config)
    parallel.check_batch_size(mesh, config.data.batch_size)
    # Constants of the program, which they do not change.
    if "stat" in config.model:
        config.model.stat = config.model.stat or UPSTREAM_STAT
    trainee = build.make_trainee(config, _untrained_maker(config))
    objective = trainee.objective
    optim = build.optim_config(config)
    rows, samples = parallel.batch_sharding(mesh), crop_samples(config)
    size = config.data.batch_size
    batch = {
        "wave": jax.ShapeDtypeStruct((size, samples), np.float32, sharding=rows),
        "num_samples": jax.ShapeDtypeStruct((size,), np.int32, sharding=rows),
        "row": jax.ShapeDtypeStruct((size,), np.int32, sharding=rows),
    }
    if trainee.stored is not None:
        codes = (size, samples // trainee.token_samples, trainee.stored.config.rvq.num_books)
        batch["codes"] = jax.ShapeDtypeStruct(codes, np.int32, sharding=rows)
    if trainee.texts is not None:
        batch["ids"] = jax.ShapeDtypeStruct((size, trainee.texts.max_tokens), np.int32, sharding=rows)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=parallel.replicated(mesh))
    with jax.set_mesh(mesh):
        state = abstract_state(objective, make_optimizer(optim), mesh)
        accumulate = build.loop_config(config).accumulate
        jitted = jit_train_step(objective, optim, state, mesh, accumulate=accumulate)
    return Step(jitted, state, batch, key, trainee.flops_per_clip * size / mesh.size, objective)


def _untrained_maker(config: ConfigDict) -> build.Maker:
    """What makes the targets or begins a run; where that would be trained first, its sizes alone."""
    if config.objective.name == "music_text":
        return stages.untrained_towers(config)
    if config.objective.name != "masked_prediction" or config.targets.name not in ("mel_rvq", "hidden_rvq"):
        return None
    if config.targets.rvq is None:
        config.targets.fit = config.targets.fit or "large"
    if config.targets.name == "hidden_rvq":
        return stages.before(config).maker
    if config.targets.rvq:
        return MelRVQ.from_pretrained(config.targets.rvq)
    return MelRVQ(build.mel_rvq_config(stages.mel_rvq_stage(config)), {})


def compile_report(config: ConfigDict, target: Target, mesh: Mesh) -> dict[str, Any]:
    """Compiles the step of `config` and returns what `step_report.make_report` tells of it.

    Beside that the batch, the time, `fits`, and `hlo`, the program's text.

    Raises:
        UserError: as of `make_step`.
        TooLarge: the compiler refuses, because memory does not suffice.
    """
    step = make_step(config, mesh)
    started = time.monotonic()
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as dump:
        lowered = step.jitted.lower(step.state, step.batch, step.key)
        options = {"xla_dump_to": dump, "xla_dump_hlo_as_text": True}
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise TooLarge(str(error)) from None
        text = _program_text(compiled, Path(dump))
    memory = step_report.memory_parts(compiled, step.state, step.batch)
    report = step_report.make_report(
        text,
        memory=memory,
        chip=target.chip,
        mesh=mesh,
        model_flops=step.model_flops,
        dtype=config.model.get("dtype", "float32"),
        expected=_expected(config, step, mesh),
    )
    return {
        "clips": config.data.batch_size,
        "clips_per_chip": config.data.batch_size // mesh.size,
        "clip_seconds": config.data.crop_seconds,
        "compile_seconds": round(time.monotonic() - started, 1),
        "fits": memory["total"] <= target.chip.hbm_bytes,
        **report,
        "hlo": text,
    }


def _program_text(compiled: Any, dump: Path) -> str:
    """Returns the optimised program: as a TPU's compiler has written it to `dump`, else as JAX gives it.

    The compiler may be newer than JAX, which then cannot read what it made: jaxlib 0.10.2 fails so with what
    libtpu 0.0.52 makes of `large` for a v5p.
    """
    written = next(dump.glob("*.jit_train_step.*after_codegen.txt"), None)
    return compiled.as_text() if written is None else written.read_text()


def _expected(config: ConfigDict, step: Step, mesh: Mesh) -> Expected:
    """What of this configuration's step may be sent."""
    samples, pairs, model, layers = crop_samples(config), None, config.model, []
    if isinstance(step.objective, MusicText):
        mulan = step.objective.config
        model, pairs = mulan.muq, (config.data.batch_size, mulan.latent_size)
        layers = [mulan.muq.conformer.num_layers, mulan.roberta.num_layers, mulan.text_transformer.num_layers]
    elif "conformer" in model:
        layers = [model.conformer.num_layers]
    frames = samples // model.mel.hop_length
    lengths = [samples, frames]
    for stride in TIME_STRIDES[model.label_rate]:
        frames = -(-frames // stride)
        lengths.append(frames)
    return Expected(
        [leaf.shape for leaf in jax.tree.leaves(step.state)],
        layers=layers,
        fsdp=mesh.shape["fsdp"],
        times=lengths,
        pairs=pairs,
    )


def largest_batch(needs: Callable[[int], tuple[bool, float]], limit: float, first: int) -> int:
    """Returns the most clips a chip, or units of some, that fit; 0 if not even one does.

    Memory grows nearly in proportion to them, so the next number to try is the one at which it would be used
    up, kept between the largest known to fit and the smallest known not to: three or four trials.

    Args:
        needs: from so many to whether they fit, and the bytes that they take.
        limit: bytes that there are.
        first: how many to begin with.
    """
    fitting, too_many, guess = 0, None, first
    while too_many is None or too_many - fitting > 1:
        fits, used = needs(guess)
        if fits:
            fitting = guess
        else:
            too_many = guess
        highest = 8 * guess if too_many is None else too_many - 1
        guess = min(max(int(guess * limit / used), fitting + 1), highest)
    return fitting


def run(
    config: ConfigDict, topology: str, *, num_slices: int = 1, find_batch: bool = False
) -> dict[str, Any]:
    """Compiles, and returns the report; with `find_batch`, that of the largest batch that fits.

    Raises:
        UserError: a mistake in what is asked for, or the step does not fit.
    """
    target = find_target(topology, num_slices)
    mesh = parallel.make_mesh(config.mesh.data, config.mesh.fsdp, devices=target.devices)
    config = copy.deepcopy(config)
    if not find_batch:
        try:
            report = compile_report(config, target, mesh)
        except TooLarge as error:
            raise UserError(f"{topology}: {_first_line(error)}") from None
        if not report["fits"]:
            memory = report["memory"]
            raise UserError(
                f"{topology}: needs {memory['total'] / 2**30:.2f} GiB a chip, {target.chip.name} has "
                f"{memory['chip'] / 2**30:.2f}."
            )
        return report
    reports: dict[int, dict[str, Any]] = {}
    # The batch has to divide into optim.accumulate parts.
    unit = config.optim.accumulate // math.gcd(config.optim.accumulate, mesh.size)

    def needs(units: int) -> tuple[bool, float]:
        clips = units * unit
        config.data.batch_size = clips * mesh.size
        try:
            report = reports[units] = compile_report(config, target, mesh)
            fits, used = report["fits"], report["memory"]["total"]
        except TooLarge as error:
            fits, used = False, error.needed or 2 * target.chip.hbm_bytes
        print(f"{clips} clips a chip: {used / 2**30:.2f} GiB, {'fit' if fits else 'do not fit'}", flush=True)
        return fits, used

    first = max(config.data.batch_size // mesh.size // unit, 1)
    most = largest_batch(needs, target.chip.hbm_bytes, first)
    if not most:
        raise UserError(
            f"{topology}: not even {unit} clip{'s' if unit > 1 else ''} a chip fit. Shorten "
            "data.crop_seconds or raise mesh.fsdp."
        )
    return reports[most]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no memory")


def main(argv: Sequence[str]) -> int:
    if len(argv) > 1 or not commands.CONFIG.value or not _TOPOLOGY.value:
        what = f"unexpected argument {argv[1]!r}" if len(argv) > 1 else "--config and --topology are needed"
        print(f"error: {what}; see --help", file=sys.stderr)
        return WRONG_USAGE
    # A program out of the cache is not compiled, and so not written down.
    jax.config.update("jax_enable_compilation_cache", False)
    if _TOPOLOGY.value != "gpu":
        # With the TPU's compiler installed, JAX would look for a TPU to run on.
        jax.config.update("jax_platforms", "cpu")
    try:
        report = run(
            commands.CONFIG.value, _TOPOLOGY.value, num_slices=_NUM_SLICES.value, find_batch=_FIND_BATCH.value
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    text = report.pop("hlo")
    clips = f"{report['clips']} clips of {report['clip_seconds']:g} s, {report['clips_per_chip']} a chip"
    print(f"{clips}; compiled in {report['compile_seconds']:.0f} s")
    print("\n".join(step_report.lines(report, all_collectives=_ALL.value)))
    if _HLO.value:
        Path(_HLO.value).write_text(text)
    if _OUT.value:
        commands.write_json(Path(_OUT.value), report)
    return DONE


if __name__ == "__main__":
    app.run(main, flags_parser=commands.parse_flags)
