import resource

import jax
import numpy as np
import pytest

from muq_jax import parallel
from muq_jax.train import hosts


def test_a_host_s_numbers():
    row = hosts.measure(10.0, 4.0, 3)
    assert row["host_step_seconds"] == pytest.approx([2.0]) and row["host_data_wait"] == pytest.approx([0.4])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    assert 0.05 < row["host_memory_gb"][0] <= most * 1.01
    assert "host_device_memory_gb" not in row, "a CPU does not tell"


def test_every_host_has_its_place(monkeypatch):
    monkeypatch.setattr(parallel, "gather_hosts", lambda numbers: np.stack([numbers, 2 * numbers]))
    row = hosts.measure(10.0, 2.0, 4)
    assert row["host_step_seconds"] == pytest.approx([2.0, 4.0])
    assert row["host_data_wait"] == pytest.approx([0.2, 0.4])


def test_the_fullest_device_counts(monkeypatch):
    class Device:
        def __init__(self, peak):
            self.peak = peak

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(2e9), Device(3e9)])
    assert hosts.measure(1.0, 0.0, 1)["host_device_memory_gb"] == pytest.approx([3.0])
