"""The iterative stage from the command line: all its stages, each of them killed, and what it ends in."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import build, stages, train
from experiments.configs import muq, muq_iter
from muq_jax import MelRVQ, MuQ
from muq_jax.checkpoint import Checkpoints
from muq_jax.data.labels import LabelledSource
from muq_jax.data.sources import make_source
from muq_jax.errors import UserError
from muq_jax.inference.load import params_sha256
from muq_jax.objectives.targets import HiddenRVQTargets
from muq_jax.report.text import describe
from muq_jax.train.metrics import read_rows

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
SOURCE = "toy_music:12"
CROP = 48_000


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The work directory of a finished MuQ, its weights fresh but for BatchNorm's statistics."""
    config = muq.get_config("smoke")
    config.targets.name, config.data.source = "random_projection", SOURCE
    stages.before(config)
    trainee = build.make_trainee(config, None)
    params, state = jax.jit(trainee.objective.init)(jax.random.key(3))
    workdir = tmp_path_factory.mktemp("teacher")
    train._write_config(config, workdir)
    with Checkpoints(workdir) as checkpoints:
        items = {"params": params, "opt": {}, "model_state": state}
        checkpoints.save(config.train.num_steps, items, {"model": trainee.model_config})
    return workdir


def start(teacher, workdir):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "experiments.train",
            "--config=experiments/configs/muq_iter.py:smoke",
            f"--workdir={workdir}",
            f"--config.targets.teacher={teacher}",
            "--config.targets.labels=stored",
            f"--config.data.source={SOURCE}",
            "--config.train.log_every=1",
        ],
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    return out.split("params sha256 ")[1].strip()


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    """The work directory and the digest of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, finish(start(teacher, workdir))


def steps(folder):
    return max((row["step"] for row in read_rows(folder / "metrics.jsonl")), default=0)


def test_every_stage_may_be_killed(teacher, whole, tmp_path, wait_for):
    for reached in (
        lambda: steps(tmp_path / "hidden_rvq") >= 10,
        lambda: (tmp_path / "labels" / "train" / "labels.json").exists(),
        lambda: steps(tmp_path) >= 12,
    ):
        process = start(teacher, tmp_path)
        wait_for(process, reached, look_every=0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert finish(start(teacher, tmp_path)) == whole[1]
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 31))


def test_a_finished_run_is_left_alone(teacher, whole):
    workdir, sha256 = whole
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert finish(start(teacher, workdir)) == sha256
    assert before == {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_it_ends_in_an_ordinary_work_directory(whole, tmp_path):
    workdir, sha256 = whole
    muq = MuQ.from_pretrained(workdir)
    assert params_sha256(muq) == sha256
    muq.save_pretrained(tmp_path / "model")
    model = MuQ.from_pretrained(tmp_path / "model")
    assert params_sha256(model) == sha256
    assert model(np.ones((1, 24_000), np.float32), sampling_rate=24_000).last_hidden_state.shape == (
        1,
        25,
        64,
    )
    with pytest.raises(UserError, match="carries no Mel-RVQ"):
        MelRVQ.from_pretrained(workdir)
    trained = [row for row in read_rows(workdir / "metrics.jsonl") if row["split"] == "train"]
    assert trained[-1]["loss"] < trained[0]["loss"]
    fitted = [row for row in read_rows(workdir / "hidden_rvq" / "metrics.jsonl") if row["split"] == "train"]
    assert fitted[-1]["loss"] < fitted[0]["loss"]
    assert json.loads((workdir / "config.json").read_text())["targets"]["layer"] == 1
    assert (workdir / "report" / "index.html").exists()
    described = describe(workdir / "hidden_rvq")
    assert "codes used" in described and "parameters: " in described and "params sha256 " in described


@pytest.mark.parametrize("split", ["train", "valid"])
def test_stored_labels_are_the_computed_ones_for_every_window(whole, split):
    """Windows of a crop's length from a clip's start: 2 s, in clips of 10 s."""
    maker = stages.fitted_hidden_rvq(whole[0] / "hidden_rvq")
    source = make_source(SOURCE, split="val" if split == "valid" else split)
    labelled = LabelledSource(source, whole[0] / "labels" / split, token_samples=960, num_books=8)
    targets = jax.jit(HiddenRVQTargets(maker.config))
    assert len(source) > 0
    for index in range(len(source)):
        example = labelled[index]
        windows = example["wave"].reshape(-1, CROP)
        codes, valid = targets(maker.variables, windows, np.full(len(windows), CROP))
        assert valid.all()
        np.testing.assert_array_equal(example["codes"], np.concatenate(codes))


def test_computed_labels_need_nothing_stored_and_are_in_the_checkpoint(whole, tmp_path):
    """On eight devices, the teacher split over four of them."""
    config = muq_iter.get_config("smoke")
    config.targets.rvq, config.data.source = str(whole[0] / "hidden_rvq"), SOURCE
    config.data.batch_size, config.mesh.fsdp, config.train.num_steps = 8, 4, 6
    config.train.log_every = 1
    assert train.run(config, tmp_path / "run").status == "done"
    assert not (tmp_path / "run" / "labels").exists()
    trained = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["split"] == "train"]
    assert trained[-1]["loss"] < trained[0]["loss"]
    shutil.move(whole[0] / "hidden_rvq" / "checkpoints", tmp_path / "away")
    try:
        assert MuQ.from_pretrained(tmp_path / "run").variables.keys() == {"params", "batch_stats"}
    finally:
        shutil.move(tmp_path / "away", whole[0] / "hidden_rvq" / "checkpoints")
