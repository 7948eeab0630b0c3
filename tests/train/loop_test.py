import dataclasses
import functools
import json
import os
import signal
import threading
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from muq_jax import parallel
from muq_jax.checkpoint import newest_step
from muq_jax.errors import UserError
from muq_jax.objectives.metric import Mean
from muq_jax.train import loop, watchdog
from muq_jax.train.metrics import read_rows
from muq_jax.train.optim import OptimConfig

OPTIM = OptimConfig(peak_lr=0.05, warmup_steps=5, total_steps=30)
CONFIG = loop.LoopConfig(num_steps=30, log_every=4, eval_every=10, checkpoint_every=7, max_nonfinite=3)


BROKEN = (6, 13)


class Crash(Exception):
    """Ends a run without a save. Unlike a kill (tests/system/resume_test.py) it closes what is open."""


@pytest.fixture(scope="module")
def start(regression, batches_from):
    """Returns a function that runs the stand-in task in a work directory."""

    def run(
        workdir,
        config=CONFIG,
        *,
        optim=OPTIM,
        crash_at=None,
        signal_at=None,
        broken_steps=(),
        mesh=(1, 1),
        halt=None,
        profile_steps=0,
    ):
        class Train(batches_from):
            def __next__(self):
                batch = super().__next__()
                if self.step == crash_at:
                    raise Crash
                if halt and self.step == halt[0]:
                    halt[1].wait(timeout=60)
                    raise Crash
                if self.step == signal_at:
                    os.kill(os.getpid(), signal.SIGTERM)
                return batch

        class Valid(batches_from):
            def __next__(self):
                if self.step >= 2:
                    raise StopIteration
                return super().__next__()

        task = loop.Task(
            objective=regression(),
            optim=optim,
            train_batches=functools.partial(Train, broken_steps=broken_steps),
            valid_batches=functools.partial(Valid, 0),
            flops_per_step=1e6,
            meta={"model": "regression"},
            summarize=worst_error,
        )
        devices = jax.devices()[: mesh[0] * mesh[1]]
        return loop.run(
            task,
            config,
            mesh=parallel.make_mesh(*mesh, devices=devices),
            workdir=workdir,
            profile_steps=profile_steps,
        )

    return run


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """Returns the final state and the work directory of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    state, status = start(workdir, broken_steps=BROKEN)
    assert status == "done"
    return state, workdir


def worst_error(rows):
    """Returns what takes all rows of an evaluation at once."""
    return {"worst": Mean(np.abs(rows["error"]).max(), 1.0), "count": Mean(len(rows["error"]), 1.0)}


def assert_equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def steady(rows):
    """Returns the rows without what the clock decides."""
    timed = {
        "audio_seconds_per_second",
        "steps_per_second",
        "model_flops_per_second",
        "data_wait",
        "train_seconds",
    }
    timed |= {key for row in rows for key in row if key.startswith("host_")}
    return [{k: v for k, v in row.items() if k not in timed} for row in rows if row.get("split") != "health"]


def test_rows_cover_every_step_once(whole):
    state, workdir = whole
    assert state.step == 30
    rows = read_rows(workdir / "metrics.jsonl")
    trained = [row for row in rows if row["split"] == "train"]
    # Rows every 4 steps, and where a checkpoint is saved.
    assert [row["step"] for row in trained] == [4, 7, 8, 12, 14, 16, 20, 21, 24, 28, 30]
    assert [row["step"] - row["steps"] for row in trained] == [0, 4, 7, 8, 12, 14, 16, 20, 21, 24, 28]
    assert [row["step"] for row in rows if row["split"] == "valid"] == [10, 20, 30]
    # 28 updates: two of the 30 steps were skipped.
    assert trained[-1]["learning_rate"] == pytest.approx(0.05 * 3 / 25)
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert newest_step(workdir) == 30


def test_rows_of_a_whole_evaluation_become_one_number(whole):
    valid = [row for row in read_rows(whole[1] / "metrics.jsonl") if row["split"] == "valid"]
    assert all(row["count"] == 2 * 16 and row["worst"] > row["absolute"] for row in valid)


def test_every_row_says_how_each_host_fares(whole):
    trained = [row for row in read_rows(whole[1] / "metrics.jsonl") if row["split"] == "train"]
    assert all(len(row[name]) == 1 for row in trained for name in ("host_step_seconds", "host_data_wait"))


def test_a_run_whose_data_never_comes_ends_and_says_so(start, tmp_path, monkeypatch):
    release = threading.Event()

    def end(text):
        if "waiting for data, step 9" in text:  # a machine that is busy may be slow elsewhere, too
            release.set()

    monkeypatch.setattr(watchdog, "end_process", end)
    config = dataclasses.replace(CONFIG, timeout_seconds=2.0)
    with pytest.raises(Crash):
        start(tmp_path, config, halt=(9, release))
    assert release.is_set()


def test_every_batch_of_an_evaluation_is_progress(start, tmp_path, monkeypatch):
    said = []
    doing = watchdog.Watchdog.doing

    def note(self, what, step):
        said.append((what, step))
        doing(self, what, step)

    monkeypatch.setattr(watchdog.Watchdog, "doing", note)
    start(tmp_path)
    assert said.count(("evaluating", 10)) == 2, "as many as there are validation batches"


def test_a_profile_is_taken_of_so_many_steps(start, whole, tmp_path):
    state, _ = start(tmp_path, broken_steps=BROKEN, profile_steps=2)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert_equal_trees(state, whole[0])


def test_audio_hours_count_real_samples(whole, batch_of):
    samples = sum(batch_of(step)["num_samples"].sum() for step in range(1, 31))
    last = [row for row in read_rows(whole[1] / "metrics.jsonl") if row["split"] == "train"][-1]
    assert last["audio_hours"] == pytest.approx(samples / 24_000 / 3600)


@pytest.mark.parametrize("crash_at", [2, 8, 16])
def test_a_run_that_crashed_goes_on_to_the_same_bits_and_rows(start, whole, tmp_path, crash_at):
    with pytest.raises(Crash):
        start(tmp_path, crash_at=crash_at, broken_steps=BROKEN)
    state, status = start(tmp_path, broken_steps=BROKEN)
    assert status == "done"
    assert_equal_trees(state, whole[0])
    for name in ("metrics.jsonl", "nonfinite.jsonl"):
        assert steady(read_rows(tmp_path / name)) == steady(read_rows(whole[1] / name))


def test_a_run_with_frozen_parameters_goes_on_to_the_same_bits(start, tmp_path):
    frozen = dataclasses.replace(OPTIM, frozen=("slope",))
    undisturbed, _ = start(tmp_path / "whole", optim=frozen)
    with pytest.raises(Crash):
        start(tmp_path / "crashed", optim=frozen, crash_at=16)
    state, _ = start(tmp_path / "crashed", optim=frozen)
    assert_equal_trees(state, undisturbed)


def test_other_intervals_go_on_to_the_same_bits(start, whole, tmp_path):
    with pytest.raises(Crash):
        start(tmp_path, crash_at=16, broken_steps=BROKEN)
    others = dict(log_every=3, eval_every=0, checkpoint_every=5, keep_checkpoints=3, max_nonfinite=9)
    state, _ = start(tmp_path, dataclasses.replace(CONFIG, **others), broken_steps=BROKEN)
    assert_equal_trees(state, whole[0])


def test_another_mesh_goes_on_with_the_same_numbers(start, whole, tmp_path):
    with pytest.raises(Crash):
        start(tmp_path, crash_at=16, broken_steps=BROKEN)
    start(tmp_path, mesh=(2, 4), broken_steps=BROKEN)
    moved, expected = (steady(read_rows(folder / "metrics.jsonl")) for folder in (tmp_path, whole[1]))
    assert [row["step"] for row in moved] == [row["step"] for row in expected]
    assert [row["loss"] for row in moved] == pytest.approx([row["loss"] for row in expected], rel=1e-5)


def test_sigterm_saves_and_the_run_goes_on(start, whole, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    state, status = start(tmp_path, signal_at=10, broken_steps=BROKEN)
    assert status == "interrupted"
    assert state.step == newest_step(tmp_path) == 10
    assert signal.getsignal(signal.SIGTERM) is handler
    state, status = start(tmp_path, broken_steps=BROKEN)
    assert status == "done"
    assert_equal_trees(state, whole[0])


def test_a_save_that_failed_ends_the_run_before_the_next(start, tmp_path, monkeypatch):
    failed = UserError("the disk is full")
    monkeypatch.setattr(loop.Checkpoints, "raise_if_failed", Mock(side_effect=[None] * 8 + [failed]))
    with pytest.raises(UserError, match="the disk is full"):
        start(tmp_path)
    assert newest_step(tmp_path) == 7
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [4, 7, 8]


def test_a_finished_run_is_left_alone(start, whole):
    first, workdir = whole
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    state, status = start(workdir, broken_steps=BROKEN)
    assert status == "was done"
    assert_equal_trees(state, first)
    assert before == {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_skipped_steps_are_counted_and_their_clips_listed(whole):
    rows = [json.loads(line) for line in (whole[1] / "nonfinite.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [6, 13]
    assert rows[0]["ids"][3] == "clip6-3" and rows[0]["loss"] == "nan"
    metrics = read_rows(whole[1] / "metrics.jsonl")
    assert sum(row["skipped"] for row in metrics if row["split"] == "train") == 2
    assert all(np.isfinite(row["loss"]) for row in metrics if row["split"] == "train")
    [finding] = [row for row in metrics if row.get("check") == "skipped_steps"]
    assert "1 step gave" in finding["message"]


def test_too_many_skipped_steps_in_a_row_end_the_run(start, tmp_path):
    broken = (5, 9, 10, 11)
    with pytest.raises(UserError, match=r"last 3 steps up to step 11 .*nonfinite\.jsonl .*new --workdir"):
        start(tmp_path, broken_steps=broken)
    assert [row["step"] for row in read_rows(tmp_path / "nonfinite.jsonl")] == [5, 9, 10, 11]
    assert newest_step(tmp_path) == 7
    _, status = start(tmp_path, dataclasses.replace(CONFIG, max_nonfinite=4), broken_steps=broken)
    assert status == "done"


def test_the_step_is_compiled_once(start, tmp_path, caplog):
    with jax.log_compiles(), caplog.at_level("WARNING"):
        start(tmp_path)
    compiled = [r for r in caplog.records if "Finished XLA compilation of jit(train_step)" in r.getMessage()]
    assert len(compiled) == 1


@pytest.mark.parametrize(
    "field", ["num_steps", "log_every", "checkpoint_every", "max_nonfinite", "accumulate"]
)
def test_impossible_numbers_are_named(field):
    with pytest.raises(UserError, match=rf"train\.{field}=0"):
        loop.LoopConfig(**{"num_steps": 1, field: 0})
