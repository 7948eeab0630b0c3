import gzip
import json

import jax.numpy as jnp
import pytest

from muq_jax.train.profile import FOLDER, Profile


@pytest.fixture
def recorded(monkeypatch):
    """Returns the list into which the profiler's calls go."""
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
    return calls


def steps(profile, start, end, recorded):
    for step in range(start + 1, end + 1):
        profile.before(step)
        recorded.append(step)
    profile.close()


def test_steps_after_the_warm_up_are_recorded(recorded, tmp_path):
    steps(Profile(tmp_path, 10, 2), 10, 16, recorded)
    assert recorded == [11, 12, "start", 13, 14, "stop", 15, 16]


def test_a_run_that_ends_early_ends_its_recording(recorded, tmp_path):
    steps(Profile(tmp_path, 0, 100), 0, 4, recorded)
    assert recorded == [1, 2, "start", 3, 4, "stop"]


def test_nothing_is_recorded_unasked(recorded, tmp_path):
    steps(Profile(tmp_path, 0, 0), 0, 6, recorded)
    assert recorded == [1, 2, 3, 4, 5, 6]


def test_the_recording_is_one_that_perfetto_reads(tmp_path):
    profile = Profile(tmp_path, 0, 1)
    for step in range(1, 5):
        profile.before(step)
        jnp.ones(8).sum().block_until_ready()
    profile.close()
    (trace,) = (tmp_path / FOLDER).rglob("*.trace.json.gz")
    with gzip.open(trace) as file:
        assert json.load(file)["traceEvents"]
