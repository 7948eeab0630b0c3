import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import build, train
from experiments.configs import mel_rvq, muq
from muq_jax import parallel
from muq_jax.errors import UserError
from muq_jax.inference.pretrained import MelRVQ, MuQ
from muq_jax.models.config import MelRVQConfig, muq_config
from muq_jax.train.metrics import read_rows

REPOSITORY = Path(__file__).parents[2]


def command(config, workdir, *overrides):
    return [
        sys.executable,
        "-m",
        "experiments.train",
        f"--config=experiments/configs/{config}",
        f"--workdir={workdir}",
    ] + [f"--config.{override}" for override in overrides]


def run_command(*args):
    environment = {**os.environ, "XLA_FLAGS": ""}
    return subprocess.run(
        command(*args),
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def sizes_of_rvq():
    return MelRVQ(MelRVQConfig(), {})


def resolved(config, **stat):
    config.model.stat = stat.get("stat", (6.0, 18.0))
    return config


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("muq.py:smoke", "x", "optim.peek_lr=1"), 'Did you mean "peak_lr" instead of "peek_lr"?'),
        (("muq.py:smoke", "x", "optim.peak_lr=fast"), "could not convert string to float: 'fast'"),
        (("muq.py:huge", "x"), "no variant 'huge'; expected one of tiny, smoke, base, large"),
        (("mel_rvk.py", "x"), "No such file or directory: 'experiments/configs/mel_rvk.py'"),
    ],
)
def test_wrong_usage_is_named(tmp_path, arguments, said):
    done = run_command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"targets.rvq": "nowhere"}, "nowhere"),
        ({"data.source": "nowhere", "targets.name": "random_projection"}, "source 'nowhere'"),
        ({"data.batch_size": 12}, "multiple of 8"),
        ({"mesh.data": 3}, "mesh.data=3"),
        ({"model.dtype": "float16", "targets.name": "random_projection"}, "model.dtype='float16'"),
        ({"model.stat": (0.0, 0.0)}, "model.stat="),
        ({"objective.name": "magic"}, "objective.name='magic'"),
        ({"targets.fit": None}, "targets.rvq is not set"),
        ({"targets.name": "mel_rvk"}, "targets.name='mel_rvk'"),
        ({"optim.schedule": "cosine", "targets.name": "random_projection"}, "optim.schedule='cosine'"),
        ({"model.num_codes": 7}, "codes"),
        ({"train.num_steps": 3}, "warmup_steps=5"),
    ],
)
def test_mistakes_in_a_configuration_are_named_before_anything_is_written(
    tmp_path, monkeypatch, changes, said
):
    config = muq.get_config("smoke")
    config.data.batch_size = 8
    for path, value in changes.items():
        config.update_from_flattened_dict({path: value})
    monkeypatch.setattr(train.loop, "run", lambda *args, **kwargs: pytest.fail("it trains"))
    with pytest.raises(UserError, match=said):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_changed_configuration_lists_what_differs(tmp_path):
    config = resolved(mel_rvq.get_config("smoke"))
    train._write_config(config, tmp_path)
    stored = train._read_config(tmp_path)
    config.mesh.data, config.data.num_threads = 8, 9
    train._check_config(config, stored, tmp_path)
    config.optim.peak_lr, config.model.rvq.num_books = 0.5, 2
    del stored["optim"]["eps"]
    with pytest.raises(UserError) as caught:
        train._check_config(config, stored, tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[1:4] == [
        "  model.rvq.num_books: 8 there, 2 now",
        "  optim.eps: 'absent' there, 1e-08 now",
        "  optim.peak_lr: 0.001 there, 0.5 now",
    ]


def test_statistics_are_the_shards_else_given_else_measured(tmp_path):
    config = mel_rvq.get_config("smoke")
    config.data.source = "toy_music:10"
    config.model.stat = (1.0, 2.0)
    assert build.resolve_stat(config) == (1.0, 2.0)
    config.model.stat = None
    mean, std = build.resolve_stat(config)
    assert -40 < mean < 40 and 5 < std < 40
    (tmp_path / "stats.json").write_text('{"mean": 3.5, "std": 4.5, "count": 7}')
    config.data.source = str(tmp_path)
    config.model.stat = (1.0, 2.0)
    assert build.resolve_stat(config) == (3.5, 4.5)


def test_large_builds_the_released_models_sizes():
    config = resolved(muq.get_config("large"))
    trainee = build.make_trainee(config, sizes_of_rvq())
    model = trainee.objective.model.config
    assert model.conformer == muq_config("large").conformer
    assert (model.conv_channels, model.num_books, model.num_codes) == (512, 8, 1024)
    assert trainee.model_config["encoder_dim"] == 1024
    optim, loop = build.optim_config(config), build.loop_config(config)
    assert optim.total_steps == loop.num_steps == 400_000


def test_random_projection_targets_need_no_rvq():
    config = resolved(muq.get_config("smoke"))
    config.targets.name = "random_projection"
    config.model.num_books, config.model.num_codes = 1, 4096
    trainee = build.make_trainee(config, None)
    assert trainee.objective.targets.num_codes == 4096
    assert trainee.objective.model.config.rvq is None


def test_a_mel_rvq_to_be_fitted_hears_the_same_data():
    config = resolved(muq.get_config("smoke"))
    config.data.source, config.seed, config.model.label_rate = "toy_music:30", 5, 50
    rvq = train._rvq_config(config)
    assert (rvq.data.source, rvq.seed, rvq.model.stat) == ("toy_music:30", 5, (6.0, 18.0))
    assert (rvq.model.label_rate, rvq.model.rvq.input_dim) == (50, 256)
    build.make_trainee(rvq, None)


def test_batches_start_at_the_step_and_validation_is_its_own_split():
    config = resolved(mel_rvq.get_config("smoke"))
    config.data.batch_size = 8
    task = build.make_task(config, build.make_trainee(config, None), parallel.make_mesh())
    with task.train_batches(0) as batches:
        first = [next(batches) for _ in range(3)]
    with task.train_batches(2) as batches:
        third = next(batches)
    np.testing.assert_array_equal(first[2]["wave"], third["wave"])
    with task.valid_batches() as batches:
        valid = {id for batch in batches for id in batch["id"]} - {""}
    assert len(valid) == 4
    assert valid.isdisjoint({id for batch in first for id in batch["id"]})


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, False),
        ({"SLURM_NTASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"SLURM_NTASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, True),
    ],
)
def test_several_processes_are_recognised(environment, expected):
    assert train.is_multi_process(environment) is expected


@pytest.mark.slow
def test_smoke_from_the_command_line(tmp_path):
    """Fits its own Mel-RVQ, trains, is loadable, and is left alone by the same command."""
    done = run_command("muq.py:smoke", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "done, step 30" in done.stdout
    sha256 = done.stdout.split("params sha256 ")[1].strip()
    rows = read_rows(tmp_path / "metrics.jsonl")
    trained = [row for row in rows if row["split"] == "train"]
    assert trained[-1]["step"] == 30 and trained[-1]["loss"] < trained[0]["loss"]
    assert trained[-1]["chance"] == pytest.approx(np.log(1024))
    assert [row["step"] for row in rows if row["split"] == "valid"] == [15, 30]
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["model"]["stat"] == [6.768444971712967, 18.417922652295623]
    assert MuQ.from_pretrained(tmp_path).config.conformer.num_layers == 2
    assert MelRVQ.from_pretrained(tmp_path / "mel_rvq").config == MelRVQ.from_pretrained(tmp_path).config

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = run_command("muq.py:smoke", tmp_path)
    assert again.returncode == 0 and "already done, step 30" in again.stdout and sha256 in again.stdout
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    changed = run_command("muq.py:smoke", tmp_path, "optim.peak_lr=0.5")
    assert changed.returncode == 1 and "optim.peak_lr: 0.001 there, 0.5 now" in changed.stderr
    assert "Traceback" not in changed.stderr

    info = subprocess.run(
        [sys.executable, "-m", "muq_jax", "info", str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert f"params sha256 {sha256}" in info.stdout
    assert "newest checkpoint: step 30 of 30" in info.stdout and "chance 6.9315" in info.stdout


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    arguments = ("mel_rvq.py:smoke", tmp_path, "train.num_steps=100000", "data.source=toy_music:10")
    process = subprocess.Popen(
        command(*arguments),
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 600
    while not read_rows(tmp_path / "metrics.jsonl"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "run the same command again" in stderr
    saved = int(max((p.name for p in (tmp_path / "checkpoints").iterdir()), key=int))
    assert read_rows(tmp_path / "metrics.jsonl")[-1]["step"] == saved
