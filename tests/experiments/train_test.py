import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import soundfile

from experiments import build, commands, stages, train
from experiments.clips import train_source, valid_source
from experiments.configs import mel_rvq, muq
from experiments.configs.groups import UPSTREAM_STAT
from muq_jax import parallel
from muq_jax.checkpoint import Checkpoints
from muq_jax.cli import DONE, FAILED
from muq_jax.data.prepare import prepare
from muq_jax.data.sources import make_source
from muq_jax.data.statistics import mel_statistics
from muq_jax.errors import UserError
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.inference.pretrained import MuQ
from muq_jax.models.config import MelRVQConfig, muq_config
from muq_jax.models.config_json import mel_rvq_to_json
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
        (("muq.py:smoke", "x", "optim.rate=1"), "error: the configuration has no option 'rate'."),
        (("muq.py:smoke", "x", "optim.peak_lr=fast"), "could not convert string to float: 'fast'"),
        (("muq.py:huge", "x"), "no variant 'huge'; expected one of tiny, smoke, base, large"),
        (("mel_rvk.py", "x"), "No such file or directory: 'experiments/configs/mel_rvk.py'"),
    ],
)
def test_wrong_usage_is_named(tmp_path, arguments, said):
    done = run_command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


def test_help_is_no_failure():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", "--help"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "--workdir" in done.stdout


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"targets.rvq": "nowhere"}, "nowhere"),
        ({"data.source": "nowhere", "targets.name": "random_projection"}, "source 'nowhere'"),
        ({"data.batch_size": 12}, "multiple of 8"),
        ({"data.batch_size": 0}, "data.batch_size=0: expected 1 or more"),
        ({"data.crop_seconds": 0.02}, "data.crop_seconds=0.02: expected 0.1 or more"),
        ({"data.num_threads": -1}, "data.num_threads=-1: expected 0 or more"),
        ({"data.num_workers": -1}, "data.num_workers=-1: expected 0 or more"),
        ({"seed": -1}, "seed=-1: expected 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296: expected 0 to 4294967295"),
        ({"data.gain_db": (6.0, -6.0)}, r"gain_db=\(6.0, -6.0\)"),
        ({"data.random_channel": True}, "toy_music gives one channel; random_channel needs"),
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
    stored = json.loads((tmp_path / "config.json").read_text())
    config.mesh.data, config.data.num_threads, config.train.log_every = 8, 9, 7
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


@pytest.mark.parametrize(
    "written, said",
    [
        ('{"optim": {"peak', "is damaged"),
        ("[]", "is not the configuration of a run"),
        (json.dumps(mel_rvq_to_json(MelRVQConfig())), "a model folder has a file of this name too"),
    ],
    ids=["cut off", "strange", "model folder"],
)
def test_a_work_directory_that_is_none_is_refused(tmp_path, written, said):
    (tmp_path / "config.json").write_text(written)
    with pytest.raises(UserError, match=said):
        train.run(mel_rvq.get_config("smoke"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Returns the work directory of a Mel-RVQ whose run has come to its end, step 40."""
    config = resolved(mel_rvq.get_config("smoke"), stat=(3.0, 20.0))
    trainee = build.make_trainee(config, None)
    params, model_state = trainee.objective.init(jax.random.key(0))
    workdir = tmp_path_factory.mktemp("fitted")
    train._write_config(config, workdir)
    with Checkpoints(workdir) as checkpoints:
        items = {"params": params, "opt": {}, "model_state": model_state}
        checkpoints.save(40, items, {"model": trainee.model_config})
    return workdir


def test_a_trained_mel_rvq_brings_its_statistics(fitted, tmp_path, monkeypatch):
    config = muq.get_config("tiny")
    config.targets.rvq, config.data.source = str(fitted), "toy_music:10"
    monkeypatch.setattr(build, "resolve_stat", lambda config: pytest.fail("it measures"))

    def trains(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.loop, "run", trains)
    with pytest.raises(KeyboardInterrupt):
        train.run(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model"]["stat"] == [3.0, 20.0]


def test_a_half_fitted_mel_rvq_is_refused(fitted, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(fitted, half)
    settings = json.loads((half / "config.json").read_text())
    settings["train"]["num_steps"] = 4000
    (half / "config.json").write_text(json.dumps(settings))
    config = muq.get_config("smoke")
    config.targets.rvq = str(half)
    with pytest.raises(UserError, match=r"half: this Mel-RVQ is fitted to step 40 of 4000 only"):
        train.run(config, tmp_path / "run")


@pytest.fixture
def command_after(monkeypatch, tmp_path):
    """Returns a function that runs the command in `tmp_path`, after training that ended with a status."""

    def main(status):
        monkeypatch.setattr(commands, "CONFIG", SimpleNamespace(value=mel_rvq.get_config("smoke")))
        monkeypatch.setattr(train, "_WORKDIR", SimpleNamespace(value=str(tmp_path)))
        monkeypatch.setattr(train, "_MULTI_HOST", SimpleNamespace(value=False))
        monkeypatch.setattr(train, "_PROFILE", SimpleNamespace(value=0))
        monkeypatch.setattr(train, "run", lambda *args, **kwargs: train.Result(status, 40, "abc"))
        return train.main(["train"])

    return main


def test_a_run_killed_before_its_report_gets_one(command_after, tmp_path, capsys):
    row = {"split": "train", "step": 40, "loss": 1.0, "error": [1.0, 0.5], "audio_hours": 0.1}
    row |= {"num_codes": 4, "codes_used": [4, 3], "codes_perplexity": [3.0, 2.0], "codes_counted": 99.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert command_after("was done") == DONE
    assert "report: " in capsys.readouterr().out
    page = tmp_path / "report" / "index.html"
    written = page.stat().st_mtime_ns
    assert command_after("was done") == DONE
    assert page.stat().st_mtime_ns == written and "report: " not in capsys.readouterr().out


def test_a_report_that_cannot_be_made_is_no_traceback(command_after, capsys):
    assert command_after("done") == FAILED
    assert "no training metrics yet" in capsys.readouterr().err


def test_statistics_are_the_shards_else_given_else_measured(tmp_path):
    (tmp_path / "music").mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(24_000)
    soundfile.write(tmp_path / "music" / "a.wav", noise, 24_000)
    prepare(tmp_path / "music", tmp_path / "shards")
    for folder in ("music", "shards"):
        (tmp_path / folder / "stats.json").write_text('{"mean": 3.5, "std": 4.5, "count": 7}')
    measured = mel_statistics(make_source(tmp_path / "music"))
    measured = (measured["mean"], measured["std"])
    assert measured != (3.5, 4.5)
    config = mel_rvq.get_config("smoke")
    for folder, given, expected in [
        ("shards", (1.0, 2.0), (3.5, 4.5)),
        ("shards", None, (3.5, 4.5)),
        ("music", (1.0, 2.0), (1.0, 2.0)),
        ("music", None, measured),
    ]:
        config.data.source = str(tmp_path / folder)
        config.model.stat = given
        assert build.resolve_stat(config) == expected


def test_a_mixture_of_corpora_has_the_statistics_of_what_is_drawn(tmp_path):
    for name, mean in (("one", 0.0), ("two", 4.0)):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * np.ones(24_000), 24_000)
        (tmp_path / f"{name}.jsonl").write_text(f'{{"path": "{name}.wav"}}\n')
        prepare(tmp_path / f"{name}.jsonl", tmp_path / name)
        (tmp_path / name / "stats.json").write_text(f'{{"mean": {mean}, "std": 1.0, "count": 7}}')
    config = mel_rvq.get_config("smoke")
    config.data.source = f"{tmp_path}/one=3,{tmp_path}/two=1"
    assert build.resolve_stat(config) == (1.0, 2.0)
    assert len(train_source(config)) == 2 and valid_source(config) is None
    config.data.source += ",toy_music:64=1"
    assert train_source(config).weights == [3, 1, 1]
    assert {valid_source(config)[i]["id"] for i in range(2)} < {
        example["id"] for example in map(make_source("toy_music:64").__getitem__, range(64))
    }


def test_each_corpus_of_a_mixture_has_its_own_name_for_validation(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(24_000), 24_000)
    for name, split in (("one", "val"), ("two", "valid"), ("three", "test")):
        rows = [{"path": "a.wav", "id": f"{name}-{s}", "split": s} for s in ("train", split)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = mel_rvq.get_config("smoke")
    config.data.source = ",".join(f"{tmp_path}/{name}.jsonl=1" for name in ("one", "two", "three"))
    valid = valid_source(config)
    assert [valid[n]["id"] for n in range(len(valid))] == ["one-val", "two-valid"]


def test_large_builds_the_released_models_sizes():
    config = resolved(muq.get_config("large"), stat=UPSTREAM_STAT)
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
    rvq = stages.mel_rvq_stage(config)
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
        ({"SLURM_NTASKS": "4"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "node[1-4]"}, True),
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
    assert (tmp_path / "report" / "index.html").exists()
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
def test_sigterm_saves_and_says_how_to_go_on(tmp_path, wait_for):
    arguments = ("mel_rvq.py:smoke", tmp_path, "train.num_steps=100000", "data.source=toy_music:10")
    process = subprocess.Popen(
        command(*arguments),
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(process, lambda: read_rows(tmp_path / "metrics.jsonl"))
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "run the same command again" in stderr
    saved = int(max((p.name for p in (tmp_path / "checkpoints").iterdir()), key=int))
    assert read_rows(tmp_path / "metrics.jsonl")[-1]["step"] == saved
