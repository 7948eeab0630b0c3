"""The launch path with processes of this machine for nodes: any number, on any mesh, learns the same."""

import numpy as np
import pytest

from muq_jax.checkpoint import newest_step
from muq_jax.cli import DONE, INTERRUPTED
from muq_jax.train.metrics import read_rows

STEPS = 20
MANY_STEPS = 80  # hosts take a second to agree on a stop
SETTINGS = {
    "config": "experiments/configs/muq.py:smoke",
    "train.num_steps": STEPS,
    "train.log_every": 1,
    "train.eval_every": 10,
    "optim.schedule": "constant",  # whatever the length of the run
    "data.batch_size": 8,
    "data.crop_seconds": 1.0,
    "targets.name": "random_projection",
    # The heads are large enough to be cut.
    "model.num_codes": 1024,
    "model.num_books": 2,
}


def losses(workdir, split="train"):
    rows = [row for row in read_rows(workdir / "metrics.jsonl") if row["step"] <= STEPS]
    return np.array([row["loss"] for row in rows if row["split"] == split])


@pytest.fixture(scope="module")
def alone(start_job, tmp_path_factory):
    """Returns the losses of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone")
    status, _, error = start_job(workdir, 1, 1, 1, **SETTINGS).finish()
    assert status == DONE, error
    return {split: losses(workdir, split) for split in ("train", "valid")}


def assert_learned_the_same(workdir, alone):
    assert len(alone["train"]) == STEPS and alone["train"][-1] < alone["train"][0]
    for split, expected in alone.items():
        np.testing.assert_allclose(losses(workdir, split), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes, data, fsdp", [(1, 2, 4), (2, 4, 2), (4, 2, 4)])
def test_every_topology_learns_the_same(start_job, alone, tmp_path, processes, data, fsdp):
    status, _, error = start_job(tmp_path, processes, data, fsdp, **SETTINGS).finish()
    assert status == DONE, error
    assert_learned_the_same(tmp_path, alone)


@pytest.mark.slow
def test_four_processes_told_to_stop_are_queued_again_and_go_on_as_two(start_job, alone, tmp_path, wait_for):
    settings = {**SETTINGS, "train.num_steps": MANY_STEPS}
    job = start_job(tmp_path, 4, 2, 2, **settings)
    wait_for(job.process, lambda: len(losses(tmp_path)) > 3)
    job.tell_to_stop()
    status, _, error = job.finish()
    assert status == INTERRUPTED, error
    assert job.asked.read_text().split() == ["requeue", "7"]
    assert 3 < newest_step(tmp_path) < MANY_STEPS

    status, _, error = start_job(tmp_path, 2, 1, 2, **settings).finish()
    assert status == DONE, error
    assert_learned_the_same(tmp_path, alone)
