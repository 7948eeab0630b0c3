"""Every test sees eight simulated CPU devices: what is sharded here is sharded on a pod."""

import os
import signal
import subprocess
import time

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("MPLBACKEND", "agg")
# A shell hands SIGINT down as ignored to what it runs in the background; commands under test are to hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def wait_for():
    """Waits until a condition holds while a process runs; fails when it ends or ten minutes pass first."""

    def wait(process, condition, look_every=0.01):
        deadline = time.monotonic() + 600
        while not condition():
            try:
                process.wait(timeout=look_every)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline, "waited for ten minutes"
            else:
                pytest.fail(f"ended with {process.returncode}: {process.communicate()}")

    return wait
