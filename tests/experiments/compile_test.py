import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import build, chips, stages, step_report
from experiments import compile as compile_command
from experiments.compile import Target, TooLarge, largest_batch
from experiments.configs import mel_rvq, mulan, muq, muq_iter
from experiments.configs.groups import UPSTREAM_STAT
from muq_jax import parallel
from muq_jax.errors import UserError
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.inference.pretrained import MuQ
from muq_jax.train import loop
from muq_jax.train.optim import make_optimizer
from muq_jax.train.state import abstract_state

REPOSITORY = Path(__file__).parents[2]
GIB = 2**30


def small():
    """A MuQ that compiles fast, large enough for its parameters to be split."""
    config = muq.get_config("smoke")
    config.data.batch_size = 16
    config.data.crop_seconds = 1.0
    config.model.conformer.width = 256
    config.model.conformer.ffn_width = 512
    config.model.dtype = "bfloat16"
    # What a TPU runs.
    config.model.mel.stft = "matmul"
    config.model.conformer.conv_impl = "lax"
    return config


@pytest.fixture(scope="module")
def report():
    mesh = parallel.make_mesh(2, 4)
    return compile_command.compile_report(small(), Target(jax.devices(), chips.TPUS["v5e"]), mesh)


@pytest.mark.slow
def test_no_clip_and_no_activation_is_sent(report):
    assert report["unexpected"] == []
    assert {one["kind"] for one in report["collectives"]} >= {"weights", "statistics"}
    assert {one["op"] for one in report["collectives"]} >= {"all-gather", "all-reduce"}
    gathered = [one for one in report["collectives"] if one["op"] == "all-gather"]
    assert {one["axis"] for one in gathered} == {"fsdp"}


@pytest.mark.slow
def test_memory_is_that_of_the_arrays(report):
    memory, mesh = report["memory"], parallel.make_mesh(2, 4)
    config = small()
    config.model.stat = UPSTREAM_STAT
    rvq = MelRVQ(build.mel_rvq_config(stages.mel_rvq_stage(config)), {})
    objective = build.make_trainee(config, rvq).objective
    state = abstract_state(objective, make_optimizer(build.optim_config(config)), mesh)
    params = jax.tree.leaves(state.params)
    whole = sum(leaf.size * 4 for leaf in params)
    assert whole / 4 < memory["parameters"] < whole / 2
    assert 2 * memory["parameters"] <= memory["optimizer"] <= 2 * memory["parameters"] + 64
    assert memory["batch"] == 2 * (24_000 * 4 + 4 + 4)
    parts = [memory[name] for name in ("parameters", "optimizer", "model_state", "batch")]
    assert sum(parts) <= memory["arguments"] < 1.05 * sum(parts) + 4096
    assert memory["total"] == (
        memory["arguments"] + memory["temporaries"] + memory["output"] - memory["aliased"] + memory["program"]
    )
    # The state is donated.
    assert memory["aliased"] >= sum(parts[:3])
    assert report["fits"] and memory["chip"] == 16 * GIB


@pytest.mark.slow
def test_the_bound_follows_from_the_peaks(report):
    chip, seconds = chips.TPUS["v5e"], report["seconds_at_least"]
    assert seconds["hbm"] == report["hbm_bytes"] / 819e9
    assert seconds["interconnect"] == pytest.approx(
        sum(one["bytes_per_step"] for one in report["collectives"]) / 200e9
    )
    flops = report["program_flops"]
    assert seconds["compute"] == pytest.approx(flops["bfloat16"] / 197e12 + flops["float32"] * 6 / 197e12)
    assert report["bound_seconds"] == max(seconds.values()) == seconds[report["bound"]]
    assert report["utilisation_allowed"] == pytest.approx(
        report["model_flops"] / report["bound_seconds"] / chip.flops["bfloat16"]
    )
    # The program computes a layer's forward pass twice, and the mel.
    assert sum(flops.values()) > report["model_flops"] > 0
    assert report["unknown_loops"] == []
    json.dumps(report)
    assert report["hlo"].startswith("HloModule jit_train_step")


@pytest.mark.slow
def test_the_text_names_what_is_unexpected(report):
    text = "\n".join(step_report.lines(report))
    assert "8 x TPU v5e, mesh data 2 x fsdp 4" in text and "0 of them unexpected" in text
    bad = report["collectives"][0] | {"expected": False, "kind": "activations", "axis": "fsdp"}
    text = "\n".join(step_report.lines(report | {"unexpected": [bad]}))
    assert "1 of them unexpected" in text and f"  unexpected {bad['op']}" in text


def test_a_program_is_read_as_a_tpu_s_compiler_wrote_it(tmp_path):
    """JAX fails at some: "async-update instruction should have 1 operands but sees 4"."""
    compiled = SimpleNamespace(as_text=lambda: "of JAX")
    (tmp_path / "module_0000.jit_train_step.before_optimizations.txt").write_text("before")
    assert compile_command._program_text(compiled, tmp_path) == "of JAX"
    (tmp_path / "module_0000.jit_train_step.after_codegen.txt").write_text("after")
    assert compile_command._program_text(compiled, tmp_path) == "after"


def test_a_second_stage_is_compiled_with_its_teacher_s_statistics_and_stored_codes(muq_folder):
    teacher = MuQ.from_pretrained(muq_folder).config
    config = muq_iter.get_config("smoke")
    config.targets.teacher, config.targets.labels = str(muq_folder), "stored"
    config.data.batch_size, config.model.label_rate = 8, teacher.label_rate
    step = compile_command.make_step(config, parallel.make_mesh(2, 4))
    tokens = round(config.data.crop_seconds * teacher.label_rate)
    assert step.batch["codes"].shape == (8, tokens, 8) and step.batch["codes"].dtype == np.int32
    assert config.model.stat is None, "the caller's own"


def test_the_step_is_the_one_that_is_trained(tmp_path, monkeypatch):
    """What the loop jits and feeds has the shapes, types and shardings that are compiled for."""
    config = muq.get_config("smoke")
    config.data.batch_size = 8
    config.model.stat = UPSTREAM_STAT
    config.targets.name, config.model.num_codes = "random_projection", 64
    mesh = parallel.make_mesh(2, 4)
    ours = compile_command.make_step(config, mesh)
    task = build.make_task(config, build.make_trainee(config, None), mesh)

    class Seen(Exception):
        pass

    def jit_train_step(objective, optim, abstract, mesh, *, accumulate):
        def step(*arguments):
            raise Seen(abstract, *arguments)

        return step

    monkeypatch.setattr(loop, "jit_train_step", jit_train_step)
    with pytest.raises(Seen) as seen:
        loop.run(task, build.loop_config(config), mesh=mesh, workdir=tmp_path)
    abstract, state, batch, key = seen.value.args

    def described(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), tree)

    assert described(ours.state) == described(abstract) == described(state)
    assert described(ours.batch) == described(batch)
    assert described(ours.key) == described(key)


@pytest.mark.slow
def test_of_music_and_text_all_vectors_are_sent_and_no_clip():
    config = mulan.get_config("smoke")
    config.data.batch_size, config.optim.accumulate = 24, 3
    mesh = parallel.make_mesh(4, 2)
    found = compile_command.compile_report(config, Target(jax.devices(), chips.TPUS["v5e"]), mesh)
    vectors = [one for one in found["collectives"] if one["kind"] == "vectors"]
    assert {one["axis"] for one in vectors} == {"data x fsdp"} and len(vectors) >= 2  # audio's, text's
    # On a CPU the mel is a Fourier transform, which is not partitioned; elsewhere a product of matrices.
    assert all(one["source"].endswith("/fft") for one in found["unexpected"])
    assert config.targets.train == "smoke" and config.targets.tokenizer_sha256 is None


def test_a_mulan_of_the_paper_s_sizes_needs_no_data_and_no_weights():
    step = compile_command.make_step(mulan.get_config("large"), parallel.make_mesh(1, 8))
    assert step.batch["ids"].shape == (7680, 128) and step.batch["wave"].shape == (7680, 240_000)
    words = step.state.params["text"]["roberta"]["words"]
    assert jax.tree.leaves(words)[0].shape == (250_002, 768)
    config = mulan.get_config("large")
    config.model.text_model = "bert"
    with pytest.raises(UserError, match=r"model\.text_model='bert': expected xlm-roberta-base or small"):
        compile_command.make_step(config, parallel.make_mesh(1, 8))


def test_the_batch_has_to_divide_over_the_chips():
    config = small()
    config.data.batch_size = 12
    with pytest.raises(UserError, match=r"batch_size=12 does not divide over the 8 .* such as 8 or 16"):
        compile_command.make_step(config, parallel.make_mesh(2, 4))


def test_a_tokenizer_can_be_compiled_too():
    mesh = parallel.make_mesh(8, 1)
    config = mel_rvq.get_config("smoke")
    config.data.batch_size = 8
    config.model.mel.stft = "matmul"
    found = compile_command.compile_report(config, Target(jax.devices(), chips.TPUS["v5e"]), mesh)
    assert found["clips_per_chip"] == 1 and found["model_flops"] > 0


@pytest.mark.parametrize("first", [1, 3, 40])
@pytest.mark.parametrize("most", [1, 2, 7, 30])
def test_the_largest_batch_is_found_in_few_trials(first, most):
    trials = []

    def needs(clips):
        trials.append(clips)
        used = 1.0 + clips * 10.0 / most  # all that there is, at `most`
        return used <= 11.0, used

    assert largest_batch(needs, 11.0, first) == most
    assert len(trials) == len(set(trials)) <= 6


def test_not_even_one_fits():
    assert largest_batch(lambda clips: (False, 30.0 * clips), 16.0, 4) == 0


def too_large(needed):
    return TooLarge(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. "
        f"Used {needed:.2f}G of 15.75G hbm. Exceeded hbm capacity."
    )


def test_what_the_compiler_says_of_memory_is_understood():
    error = too_large(17.25)
    assert (error.needed, error.available) == (17.25 * GIB, 15.75 * GIB)
    assert TooLarge("no room").needed is None


@pytest.fixture
def pod(monkeypatch):
    """Eight devices with room for three clips each, as the compiler would say."""
    monkeypatch.setattr(compile_command, "find_target", lambda *_: Target(jax.devices(), chips.TPUS["v5e"]))

    def compile_report(config, target, mesh):
        clips = config.data.batch_size // mesh.size
        if clips > 3:
            raise too_large(5.0 * clips)
        memory = {"total": 5 * GIB * clips, "chip": 16 * GIB}
        return {"fits": True, "memory": memory, "clips": config.data.batch_size}

    monkeypatch.setattr(compile_command, "compile_report", compile_report)


def test_the_batch_that_fits_is_reported(pod, capsys):
    config = small()
    assert compile_command.run(config, "v5e:2x4", find_batch=True)["clips"] == 24
    assert "4 clips a chip: 20.00 GiB, do not fit" in capsys.readouterr().out
    assert config.data.batch_size == 16


@pytest.mark.parametrize("accumulate, most", [(4, 24), (16, 16)])
def test_the_batch_that_fits_divides_into_the_parts(pod, accumulate, most):
    config = small()
    config.optim.accumulate = accumulate
    assert compile_command.run(config, "v5e:2x4", find_batch=True)["clips"] == most
    config.optim.accumulate = 64
    with pytest.raises(UserError, match="not even 8 clips a chip fit"):
        compile_command.run(config, "v5e:2x4", find_batch=True)


def test_what_does_not_fit_is_an_error(pod):
    config = small()
    config.data.batch_size = 32
    with pytest.raises(UserError, match=r"v5e:2x4: RESOURCE_EXHAUSTED: .*Used 20\.00G of 15\.75G"):
        compile_command.run(config, "v5e:2x4")


def test_a_gpu_has_to_be_there():
    with pytest.raises(UserError, match="JAX sees no GPU on this machine"):
        compile_command.find_target("gpu")


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[tpu\]"'):
        compile_command.find_target("v5e:8x8")


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.compile", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["--config=experiments/configs/muq.py:smoke"], 2, "--config and --topology are needed"),
        (["--config=experiments/configs/muq.py:huge", "--topology=v5e:2x2"], 2, "no variant 'huge'"),
        (["--config=experiments/configs/muq.py:smoke", "--topology=v5e"], 1, "error: --topology='v5e'"),
    ],
)
def test_wrong_usage_is_named(arguments, status, said):
    done = run_command(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler, libtpu")
@pytest.mark.parametrize("topology, num_slices", [("v5e:2x4", 1), ("v5p:2x2x1", 2)])
def test_slices_of_tpus(tmp_path, topology, num_slices):
    out = tmp_path / "report.json"
    done = run_command(
        "--config=experiments/configs/muq.py:smoke",
        "--config.data.batch_size=8",
        "--config.model.dtype=bfloat16",
        f"--topology={topology}",
        f"--num_slices={num_slices}",
        f"--out={out}",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    chip = f"TPU {topology.partition(':')[0]}"
    assert (found["num_chips"], found["chip"], found["clips_per_chip"]) == (8, chip, 1)
    assert (found["bytes_between_slices"] > 0) is (num_slices > 1)
    # The program of one slice of several names its own devices alone: half of `data`, which spans both.
    assert {one["axis"] for one in found["collectives"]} <= {"data", "4 of data", "slices"}
    assert found["unexpected"] == [] and found["unknown_loops"] == []
    assert 0 < found["memory"]["total"] < found["memory"]["chip"]
    assert np.isfinite(found["utilisation_allowed"]) and "memory a chip" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler, libtpu")
def test_a_slice_that_there_is_not():
    done = run_command("--config=experiments/configs/muq.py:smoke", "--topology=v5e:3x3")
    assert done.returncode == 1 and "the compiler knows no such slice" in done.stderr
