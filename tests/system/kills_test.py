"""Killed at random moments, on one topology and on changing ones: the run ends as one that nobody touched.

MUQ_JAX_KILLS=30 python -m pytest -m slow tests/system/kills_test.py
"""

import os
import subprocess

import numpy as np
import pytest

from muq_jax.checkpoint import newest_step
from muq_jax.cli import DONE, INTERRUPTED
from muq_jax.convert import muq as muq_names
from muq_jax.inference.pretrained import MuQ
from muq_jax.train.metrics import read_rows

KILLS = int(os.environ.get("MUQ_JAX_KILLS", "2"))
SEED = 0
STEPS_BETWEEN = 12
STEPS = 30 * KILLS  # the hosts of a job take a second to agree on a stop
CHECKPOINT_EVERY = 5
SETTINGS = {
    "config": "experiments/configs/muq.py:smoke",
    "train.num_steps": STEPS,
    "train.log_every": 1,
    "train.eval_every": STEPS,
    "train.checkpoint_every": CHECKPOINT_EVERY,
    "data.batch_size": 8,
    "data.crop_seconds": 1.0,
    "targets.name": "random_projection",
    "model.num_codes": 1024,
    "model.num_books": 2,
    # At more, rounding grows with every step, to 5e-5 of the loss after 100 and to 7e-4 after 400; so small,
    # it stays small, and a row or a mask of another batch or a lost moment shows.
    "optim.peak_lr": 1e-5,
}


@pytest.fixture(scope="module")
def whole(start_job, tmp_path_factory):
    """Returns the work directory of a run on one device that nobody touches, and what it says at its end."""
    workdir = tmp_path_factory.mktemp("whole")
    status, output, error = start_job(workdir, 1, 1, 1, **SETTINGS).finish()
    assert status == DONE, error
    return workdir, output.split("params sha256 ")[1].strip()


def train_rows(workdir):
    return [row for row in read_rows(workdir / "metrics.jsonl") if row["split"] == "train"]


def losses_of(workdir):
    return [row["loss"] for row in train_rows(workdir)]


def last_step(workdir):
    rows = train_rows(workdir)
    return rows[-1]["step"] if rows else 0


def kill_at_random(start_job, workdir, topologies, wait_for):
    """Starts the job and ends it, again and again: by SIGKILL or SIGTERM, at starting, training or saving.

    Returns the step of each kill and its signal.
    """
    rng = np.random.default_rng(SEED)
    kills = []
    while len(kills) < KILLS:
        job = start_job(workdir, *topologies[len(kills) % len(topologies)], **SETTINGS)
        # Some steps past the last checkpoint, and some milliseconds; one time in six while it starts.
        wanted = (newest_step(workdir) or 0) + int(rng.integers(0, STEPS_BETWEEN + 1))
        moment = rng.uniform(1, 8) if rng.random() < 1 / 6 else rng.uniform(0, 0.2)
        if moment < 1:
            wait_for(job.process, lambda wanted=wanted: last_step(workdir) >= wanted, look_every=0.002)
        with pytest.raises(subprocess.TimeoutExpired):
            job.process.wait(moment)
        saved, reached = newest_step(workdir) or 0, last_step(workdir)
        if rng.random() < 0.5:
            job.kill()
            kills.append((reached, "SIGKILL"))
            # The last checkpoint may have been on its way to the disk; the next one would have waited for it.
            assert (newest_step(workdir) or 0) >= reached - 2 * CHECKPOINT_EVERY
        else:
            job.tell_to_stop()
            status, _, error = job.finish()
            kills.append((reached, "SIGTERM"))
            # 143: before the command could listen.
            assert status in (INTERRUPTED, 143), error
            assert (newest_step(workdir) or 0) >= saved
    return kills


def finish(start_job, workdir, topology):
    status, output, error = start_job(workdir, *topology, **SETTINGS).finish()
    assert status == DONE, error
    assert [row["step"] for row in train_rows(workdir)] == list(range(1, STEPS + 1))
    return output.split("params sha256 ")[1].strip()


@pytest.mark.slow
@pytest.mark.parametrize("topology", [(1, 1, 1), (2, 2, 2)])
def test_on_one_topology_the_bits_are_the_same(start_job, whole, tmp_path, wait_for, topology):
    untouched, sha256 = whole
    if topology != (1, 1, 1):
        untouched = tmp_path / "untouched"
        sha256 = finish(start_job, untouched, topology)
    killed = tmp_path / "killed"
    print(topology, kill_at_random(start_job, killed, [topology], wait_for))
    assert finish(start_job, killed, topology) == sha256
    assert losses_of(killed) == losses_of(untouched)


@pytest.mark.slow
def test_on_changing_topologies_the_parameters_are_the_same(start_job, whole, tmp_path, wait_for):
    topologies = [(1, 2, 4), (2, 1, 2), (1, 1, 1), (4, 4, 1)]
    print(kill_at_random(start_job, tmp_path, topologies, wait_for))
    finish(start_job, tmp_path, (1, 1, 4))
    losses, expected = losses_of(tmp_path), losses_of(whole[0])
    print("losses differ by", np.max(np.abs(np.divide(losses, expected) - 1)))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    ours, theirs = (
        muq_names.to_torch_names(muq.variables, muq.config)
        for muq in map(MuQ.from_pretrained, (tmp_path, whole[0]))
    )
    differences = {name: np.max(np.abs(ours[name] - theirs[name])) for name in ours}
    print("parameters differ by", max(differences.values()), max(differences, key=differences.get))
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-4, err_msg=name)
