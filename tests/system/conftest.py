"""Jobs as a cluster runs them: `slurm.sh`, with processes of this machine for nodes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# What Slurm's does: starts every task, tells it its place, hands on SIGTERM, ends with the highest status.
SRUN = f"""#!/usr/bin/env bash
shift 3  # --kill-on-bad-exit=0 --gpu-bind=none .venv/bin/python
export SLURM_STEP_NODELIST=localhost
tasks=()
trap 'told=1; kill -TERM "${{tasks[@]}}"' TERM
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank {sys.executable} "$@" &
  tasks+=($!)
done
highest=0
for task in "${{tasks[@]}}"; do
  wait "$task"
  status=$?
  if [ -n "$told" ]; then # the signal may have ended the wait, and not the task
    wait "$task"
    again=$?
    status=$((again == 127 ? status : again))
  fi
  highest=$((status > highest ? status : highest))
done
exit $highest
"""


class Job:
    """A run of `slurm.sh`; `asked` is where its `scontrol` writes down what it is told."""

    def __init__(self, folder: Path, workdir: Path, processes: int, devices: int, settings: dict):
        with socket.create_server(("localhost", 0)) as server:
            port = server.getsockname()[1]
        self.processes = processes
        self.asked = folder / "asked"
        self.asked.unlink(missing_ok=True)
        environment = {
            "CONFIG": settings.pop("config"),
            "WORKDIR": str(workdir),
            "SLURM_JOB_ID": "7",
            "SLURM_NTASKS": str(processes),
            "JAX_COORDINATOR_PORT": str(port),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}",
            # Of several processes on CPUs only the first finds what is kept, and waits 30 s for the others.
            "JAX_ENABLE_COMPILATION_CACHE": str(processes == 1).lower(),
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
        self.process = subprocess.Popen(
            [
                "experiments/launch/slurm.sh",
                *(f"--config.{name}={value}" for name, value in settings.items()),
            ],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> tuple[int, str, str]:
        """Returns the exit status and what was printed, once it has ended."""
        output, error = self.process.communicate(timeout=900)
        return self.process.returncode, output, error

    def tell_to_stop(self) -> None:
        """SIGTERM to every task, as Slurm sends it before a preemption: through `srun`."""
        srun = []
        while not srun or len(children_of(srun[0])) < self.processes:  # it is being started
            assert self.process.poll() is None, self.process.communicate()
            srun = children_of(self.process.pid)
        os.kill(srun[0], signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to everything at once, as when the power fails."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def children_of(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


@pytest.fixture(scope="module")
def start_job(tmp_path_factory):
    """Returns a function that starts a job in a work directory, with so many processes and such a mesh."""
    folder = tmp_path_factory.mktemp("bin")
    for name, text in (("srun", SRUN), ("scontrol", f'#!/bin/sh\necho "$*" >> {folder}/asked\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    jobs = []

    def start(workdir, processes, data, fsdp, **overrides):
        settings = {"mesh.data": data, "mesh.fsdp": fsdp, **overrides}
        jobs.append(Job(folder, workdir, processes, data * fsdp, settings))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.process.poll() is None:  # of a test that failed
            job.kill()
