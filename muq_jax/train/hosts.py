"""What each host has to say of itself beside the metrics: its pace, its wait for data, its memory."""

import os
from pathlib import Path

import jax
import numpy as np

from muq_jax import parallel
from muq_jax.train.metrics import Row

_GB = 1e9


def measure(seconds: float, waited_seconds: float, num_steps: int) -> Row:
    """Returns lists with a number for every host; all hosts have to take part.

    `host_step_seconds` of its own for a step, without its wait for data; `host_data_wait`, the share of its
    time that it waited; `host_memory_gb`, resident, and `host_device_memory_gb`, the most that one of its
    devices has held (10^9 bytes). What a system or a device does not tell is left out.

    Args:
        seconds: that the steps took on this host.
        waited_seconds: of these, for data.
        num_steps: how many they were.
    """
    numbers = {
        "host_step_seconds": max(seconds - waited_seconds, 0.0) / num_steps,
        "host_data_wait": min(waited_seconds / seconds, 1.0),
        "host_memory_gb": _resident_gb(),
        "host_device_memory_gb": _device_gb(),
    }
    table = parallel.gather_hosts(np.array(list(numbers.values()), np.float32))  # [hosts, numbers]
    columns = dict(zip(numbers, table.T.tolist(), strict=True))
    return {name: column for name, column in columns.items() if not np.isnan(column).any()}


def _resident_gb() -> float:
    statm = Path("/proc/self/statm")  # Linux alone has it
    if not statm.exists():
        return float("nan")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _GB


def _device_gb() -> float:
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [found["peak_bytes_in_use"] for found in stats if found and "peak_bytes_in_use" in found]
    return max(peaks) / _GB if peaks else float("nan")
