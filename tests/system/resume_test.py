"""`kill -9` at some moment, then the same command: the run ends with the bits of one never touched."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from muq_jax.train.metrics import read_rows

REPOSITORY = Path(__file__).parents[2]
STEPS = 40


def command(workdir):
    return [
        sys.executable,
        "-m",
        "experiments.train",
        "--config=experiments/configs/mel_rvq.py:smoke",
        f"--workdir={workdir}",
        f"--config.train.num_steps={STEPS}",
        "--config.data.source=toy_music:10",
        "--config.train.checkpoint_every=7",
        "--config.train.log_every=1",
        "--config.train.eval_every=10",
    ]


def start(workdir):
    environment = {**os.environ, "XLA_FLAGS": ""}
    return subprocess.Popen(
        command(workdir),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir):
    process = start(workdir)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return out.split("params sha256 ")[1].strip()


def kill_when(workdir, reached, wait_for):
    """Starts the run and kills it the moment `reached(workdir)` holds."""
    process = start(workdir)
    wait_for(process, lambda: reached(workdir), look_every=0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def step_is(number):
    def reached(workdir):
        rows = read_rows(workdir / "metrics.jsonl")
        return bool(rows) and rows[-1]["step"] >= number

    return reached


def saving(step):
    """Holds while a checkpoint is being written: Orbax's folder is there under its temporary name."""
    return lambda workdir: any((workdir / "checkpoints").glob(f"{step}.*"))


def steady(rows):
    return [
        {name: row[name] for name in ("split", "step", "loss", "error")}
        for row in rows
        if row["split"] != "health"
    ]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(tmp_path, wait_for):
    whole = finish(tmp_path / "whole")
    killed = tmp_path / "killed"
    for reached in (step_is(3), saving(21), step_is(33)):
        kill_when(killed, reached, wait_for)
    assert finish(killed) == whole

    rows = read_rows(killed / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, STEPS + 1))
    assert steady(rows) == steady(read_rows(tmp_path / "whole" / "metrics.jsonl"))
