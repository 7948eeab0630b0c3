"""Two hosts, played by two processes on this machine, share one copy of the parameters."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from muq_jax.checkpoint import newest_step
from muq_jax.cli import DONE, FAILED, INTERRUPTED
from muq_jax.convert import muq as muq_names
from muq_jax.convert.rules import params_sha256
from muq_jax.inference.pretrained import MuQ
from muq_jax.train.metrics import read_rows

REPOSITORY = Path(__file__).parents[2]
STEPS = 100


# Only the first host would find a kept program, and then wait 30 s at most while the other compiles.
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "false"}


def free_port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def start(workdir, *overrides):
    """Starts the command as `srun --ntasks=2` does; it fits a Mel-RVQ and trains a MuQ with its codes."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "experiments.train", f"--workdir={workdir}"),
        *("--config=experiments/configs/muq.py:smoke", f"--config.train.num_steps={STEPS}"),
        *("--config.train.log_every=1", "--config.train.eval_every=50", "--config.mesh.fsdp=2"),
        *(f"--config.{override}" for override in overrides),
    ]
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    processes = []
    for rank in ("0", "1"):
        task = {**step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "JAX_COORDINATOR_PORT": str(port)}
        processes.append(
            subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**ENVIRONMENT, **task},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


@pytest.mark.slow
def test_one_host_s_sigterm_saves_and_the_run_goes_on_to_a_whole_model(tmp_path, wait_for):
    first, second = start(tmp_path)
    wait_for(second, lambda: read_rows(tmp_path / "metrics.jsonl"))
    second.send_signal(signal.SIGTERM)
    for process in (first, second):
        _, error = process.communicate(timeout=600)
        assert process.returncode == INTERRUPTED, error
    saved = newest_step(tmp_path)
    assert 0 < saved < STEPS and read_rows(tmp_path / "metrics.jsonl")[-1]["step"] == saved

    first, second = start(tmp_path)
    outputs = []
    for process in (first, second):
        output, error = process.communicate(timeout=600)
        assert process.returncode == DONE, error
        outputs.append(output)
    assert f"done, step {STEPS}" in outputs[0] and "done" not in outputs[1], "one host speaks for both"
    assert (tmp_path / "report" / "index.html").exists()
    muq = MuQ.from_pretrained(tmp_path)
    digest = params_sha256(muq_names.to_torch_names(muq.variables, muq.config))
    assert f"params sha256 {digest}" in outputs[0]


# Two hosts that fit two parameters: a MuQ takes longer to compile than a test should wait for one that halts.
TRAIN = """
import functools, logging, sys
from pathlib import Path
import jax
from muq_jax import parallel
from muq_jax.train import loop
from muq_jax.train.optim import OptimConfig
from tests.train.conftest import Batches, Regression

logging.basicConfig()
logging.getLogger("muq_jax").setLevel(logging.INFO)
host, port, workdir = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", 2, host)

class HostBatches(Batches):
    def __next__(self):
        rows = slice(8 * host, 8 * host + 8)
        return {name: value[rows] for name, value in super().__next__().items()}

optim = OptimConfig(peak_lr=0.05, warmup_steps=5, total_steps=10**6)
config = loop.LoopConfig(num_steps=10**6, log_every=1, checkpoint_every=10, timeout_seconds=30)
task = loop.Task(Regression(), optim, HostBatches)
_, status = loop.run(task, config, mesh=parallel.make_mesh(), workdir=workdir)
sys.exit({"interrupted": 75}.get(status, 0))
"""


@pytest.fixture
def train():
    """Returns a function that starts the hosts of `TRAIN`, which end with the test at the latest."""
    hosts = []

    def start(workdir):
        port = str(free_port())
        started = [
            subprocess.Popen(
                [sys.executable, "-c", TRAIN, host, port, str(workdir)],
                cwd=REPOSITORY,
                env=ENVIRONMENT,
                stderr=subprocess.PIPE,
                text=True,
            )
            for host in "01"
        ]
        hosts.extend(started)
        return started

    yield start
    for host in hosts:
        host.kill()
        host.wait()


@pytest.mark.slow
@pytest.mark.parametrize("told", [(1,), (0, 1)])
def test_a_run_is_told_to_stop_before_it_has_gone_on(train, tmp_path, wait_for, told):
    """A signal before the first step of a run that does not begin at 0, and one after many saves."""
    saved = 0
    for goes_on in (False, True):
        hosts = train(tmp_path)
        if goes_on:
            for line in hosts[1].stderr:
                if "going on from the checkpoint" in line:
                    break
        else:
            wait_for(hosts[0], lambda: len(read_rows(tmp_path / "metrics.jsonl")) > 35)
        for host in told:
            hosts[host].send_signal(signal.SIGTERM)
        for host in hosts:
            _, error = host.communicate(timeout=120)  # a signal that is lost leaves a million steps to go
            assert host.returncode == INTERRUPTED, error
        before, saved = saved, newest_step(tmp_path)
        assert before < saved


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_a_host_that_stands_still_or_is_gone_is_named_and_the_other_ends(train, tmp_path, wait_for, sent):
    first, second = train(tmp_path)
    wait_for(first, lambda: len(read_rows(tmp_path / "metrics.jsonl")) > 3)
    row = read_rows(tmp_path / "metrics.jsonl")[0]
    assert len(row["host_data_wait"]) == len(row["host_memory_gb"]) == 2
    second.send_signal(sent)
    _, error = first.communicate(timeout=600)
    second.kill()
    second.communicate(timeout=60)
    assert first.returncode == INTERRUPTED, error
    said = {
        signal.SIGSTOP: r"host 0: no progress for \d+ s, training, step \d+; .*Ending this process",
        signal.SIGKILL: r"host 0: another host is gone .*, step \d+; .*Ending this process",
    }
    assert re.search(said[sent], error), error


@pytest.mark.slow
def test_a_host_whose_data_worker_dies_is_named_and_nothing_hangs(tmp_path, wait_for):
    timeout = "train.timeout_seconds=90"  # a compilation has to fit in
    settings = ("targets.name=random_projection", "data.num_workers=1", "train.num_steps=100000", timeout)
    first, second = start(tmp_path, *settings)
    wait_for(second, lambda: len(read_rows(tmp_path / "metrics.jsonl")) > 3)
    children = (path.read_text() for path in Path(f"/proc/{second.pid}/task").glob("*/children"))
    commands = {
        int(child): Path(f"/proc/{child}/cmdline").read_text() for child in " ".join(children).split()
    }
    [worker] = [child for child, command in commands.items() if "spawn_main" in command]
    os.kill(worker, signal.SIGKILL)
    _, error = second.communicate(timeout=60)
    assert second.returncode == FAILED and "error: a data worker of this host has died" in error
    _, error = first.communicate(timeout=300)
    assert first.returncode == INTERRUPTED and "host 1: failed (UserError)" in error, error


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 1])
def test_a_host_that_never_comes_is_not_waited_for_for_ever(tmp_path, missing):
    processes = start(tmp_path, "train.timeout_seconds=5")
    processes[missing].kill()
    processes[missing].communicate(timeout=60)
    _, error = processes[1 - missing].communicate(timeout=600)
    assert processes[1 - missing].returncode == INTERRUPTED
    assert "the hosts have not all met within 5 s" in error and "Fatal" not in error
