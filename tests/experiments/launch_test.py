"""The launchers with stand-ins for gcloud, srun and python, which write down how they are called."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LAUNCH = REPOSITORY / "experiments" / "launch"
SLICE = {"NAME": "muq", "ZONE": "us-west4-a", "SHARE": "10.0.0.2:/share"}


@pytest.fixture
def stand_in(tmp_path):
    """Returns a function that puts a shell script of a name in front of all others on the path."""
    (tmp_path / "bin").mkdir()

    def make(name, body):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{body}\n')
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def launch(tmp_path):
    """Returns a function that runs a launcher, and gives how it ended and the calls that it made."""

    def run(script, *arguments, **variables):
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            [str(LAUNCH / script), *arguments],
            env={**os.environ, "PATH": path, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


def test_shellcheck_has_nothing_to_say():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    command = [str(shellcheck) if shellcheck.exists() else "shellcheck"]
    assert shutil.which(command[0]), "of requirements-dev.txt"
    scripts = [*sorted(LAUNCH.glob("*.sh")), REPOSITORY / ".ci" / "run"]
    done = subprocess.run([*command, *map(str, scripts)], capture_output=True, text=True, check=False)
    assert len(scripts) == 4 and done.returncode == 0, done.stdout


def test_a_dry_run_prints_and_does_nothing(stand_in, launch):
    for name in ("gcloud", "git", "srun", "python"):
        stand_in(name, "exit 1")
    for command in ("create", "install", "start", "log", "stop", "keep", "fetch", "delete"):
        done, calls = launch("tpu.sh", command, DRY_RUN="1", SPOT="1", **SLICE)
        assert done.returncode == 0 and "gcloud compute tpus" in done.stdout, (command, done.stderr)
    for script in ("slurm.sh", "gpu.sh"):
        done, calls = launch(script, "--config.seed=3", DRY_RUN="1", WORKDIR="runs/a")
        assert "-m experiments.train --config=experiments/configs/muq.py:" in done.stdout
        assert "--workdir=runs/a --config.seed=3" in done.stdout
    assert not calls


@pytest.mark.parametrize(
    "arguments, variables, status, said",
    [
        ((), SLICE, 2, "gives the slice back"),
        (("destroy",), SLICE, 2, "gives the slice back"),
        (("create",), {"ZONE": "z"}, 1, "NAME: a name for the slice"),
        (("install",), SLICE | {"SHARE": ""}, 1, "the hosts need one folder in common"),
    ],
)
def test_what_is_missing_is_named(stand_in, launch, arguments, variables, status, said):
    stand_in("gcloud", "exit 1")
    done, calls = launch("tpu.sh", *arguments, **variables)
    assert done.returncode == status and said in done.stdout + done.stderr and not calls


def test_a_slice_is_kept_until_the_run_is_done(stand_in, launch, tmp_path):
    """The first slice is preempted, a host of the second is told to stop, the third run is done."""
    stand_in("git", "")
    stand_in("sleep", "")
    stand_in(
        "gcloud",
        f"""
        cd {tmp_path}
        starts=$(grep -c experiments.train calls)
        gone=$([ "$starts" = 1 ] && ! grep -q 'resources create' calls && echo yes)
        case "$gone $*" in
          yes*describe*) echo SUSPENDED ;;
          yes*ssh*sort*) exit 255 ;;
          *describe*) echo ACTIVE ;;
          *sort*) if [ "$starts" = 2 ]; then printf '0\\n75\\n'; else echo 0; fi ;;
        esac""",
    )
    done, calls = launch("tpu.sh", "keep", SPOT="1", **SLICE)
    assert done.returncode == 0, done.stderr
    what = [call for call in calls if any(word in call for word in ("resources create", "resources delete"))]
    assert len(what) == 2 and "delete" in what[0] and "--spot" in what[1]
    assert sum("experiments.train --multi_host" in call for call in calls) == 3


def test_a_run_that_fails_is_not_started_again(stand_in, launch, tmp_path):
    stand_in("git", "")
    stand_in("sleep", "")
    stand_in("gcloud", 'case "$*" in *describe*) echo ACTIVE ;; *"sort -nu"*) printf "0\\n1\\n" ;; esac')
    done, calls = launch("tpu.sh", "keep", **SLICE)
    assert done.returncode == 1 and sum("experiments.train" in call for call in calls) == 1


@pytest.mark.parametrize("status, again", [(0, False), (1, False), (75, True), (137, True), (143, True)])
def test_slurm_queues_again_what_was_interrupted(stand_in, launch, status, again):
    stand_in("srun", f"exit {status}")
    stand_in("scontrol", "")
    done, calls = launch("slurm.sh", "--config.seed=3", SLURM_JOB_ID="7")
    assert done.returncode == status
    assert calls[0].endswith("--config.seed=3") and ("scontrol requeue 7" in calls) is again


def test_one_machine_starts_again_what_stood_still(stand_in, launch, tmp_path):
    stand_in("python", f'[ "$(wc -l < {tmp_path}/calls)" -lt 3 ] && exit 75; exit 1')
    done, calls = launch("gpu.sh", "--config.seed=3")
    assert done.returncode == 1 and len(calls) == 3 and calls[2] == calls[0]


def test_one_machine_stops_when_it_is_told(stand_in, tmp_path, wait_for):
    stand_in("python", f"trap 'exit 75' TERM; echo ready > {tmp_path}/ready; while :; do sleep 0.01; done")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    process = subprocess.Popen(
        [str(LAUNCH / "gpu.sh")], env={**os.environ, "PATH": path}, stderr=subprocess.PIPE
    )
    wait_for(process, (tmp_path / "ready").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75 and len((tmp_path / "calls").read_text().splitlines()) == 1
