"""Two hosts, played by two processes on this machine, share one copy of the parameters."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from muq_jax.checkpoint import newest_step
from muq_jax.cli import DONE, INTERRUPTED
from muq_jax.convert import muq as muq_names
from muq_jax.convert.rules import params_sha256
from muq_jax.inference.pretrained import MuQ
from muq_jax.train.metrics import read_rows

REPOSITORY = Path(__file__).parents[2]
STEPS = 100


def start(workdir):
    """Starts the command as `srun --ntasks=2` does; it fits a Mel-RVQ and trains a MuQ with its codes."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    command = [
        *(sys.executable, "-m", "experiments.train", f"--workdir={workdir}"),
        *("--config=experiments/configs/muq.py:smoke", f"--config.train.num_steps={STEPS}"),
        *("--config.train.log_every=1", "--config.train.eval_every=50", "--config.mesh.fsdp=2"),
    ]
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    processes = []
    for rank in ("0", "1"):
        task = {**step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "JAX_COORDINATOR_PORT": str(port)}
        processes.append(
            subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, "XLA_FLAGS": "", **task},
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
