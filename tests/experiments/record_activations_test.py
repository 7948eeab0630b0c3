"""PyTorch's files to ours and back, beside the original. Needs the environment of requirements-torch.txt.

python -m pytest -m torch
"""

import json
import sys

import numpy as np
import pytest
import soundfile

from experiments import record_activations
from experiments.make_goldens import noise_wave
from experiments.original import (
    build,
    build_mulan,
    load,
    make_muq,
    roberta_config,
    upstream_config,
    upstream_mulan_config,
)
from muq_jax import MuQ, MuQMuLan
from muq_jax.convert.port import port, prove
from muq_jax.convert.reader import read_tensors
from muq_jax.errors import UserError
from muq_jax.models.mulan_json import mulan_to_json
from tests.models.mulan_test import small_config

pytestmark = pytest.mark.torch


@pytest.fixture
def saved(tmp_path):
    """Returns a function that saves a PyTorch model as the hub has it."""
    torch = pytest.importorskip("torch")

    def save(model, config, name="pytorch_model.bin", **how):
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        torch.save(model.state_dict(), folder / name, **how)
        return folder

    return save


def record(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["record_activations", *map(str, arguments)])
    record_activations.main()


@pytest.mark.parametrize("label_rate", [25, 50])
def test_a_muq_there_and_back(saved, tmp_path, monkeypatch, label_rate):
    import torch

    config = upstream_config(48, 3, 2, 96, 12, 2, label_rate=label_rate)
    original = build(config)
    source = saved(original, config)
    record(monkeypatch, source, tmp_path / "recorded.npz", "--seconds", 1025 / 24_000, 0.7, 7.77)
    report = port(source, tmp_path / "model", activations=tmp_path / "recorded.npz")
    assert len(report["original"]) == 3 * 4
    MuQ.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "back")
    again = load(make_muq(config), read_tensors(tmp_path / "back"))
    wave = torch.from_numpy(noise_wave(1))[None]
    with torch.no_grad():
        a, b = (model(wave).last_hidden_state.numpy() for model in (original, again))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layers", [0, 2])  # the released audio tower has none above its MuQ
def test_a_mulan_there_and_back(saved, tmp_path, monkeypatch, layers):
    described = mulan_to_json(small_config(layers))
    config = upstream_mulan_config(audio_layers=layers) | {"muq_jax": described["muq_jax"]}
    original = build_mulan(config, upstream_config(), roberta_config())
    source = saved(original, config)
    record(monkeypatch, source, tmp_path / "recorded.npz", "--seconds", 2.5)
    report = port(source, tmp_path / "model", activations=tmp_path / "recorded.npz")
    assert len(report["original"]) == 3 + layers + 1 + 2 * (4 + 2 + 2), (
        "layers of the encoder and above it, and vectors: one of the clip, two of each text"
    )
    MuQMuLan.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "back")
    names = original.state_dict()
    back = read_tensors(tmp_path / "back")
    assert back.keys() == names.keys()
    for name, tensor in names.items():
        np.testing.assert_array_equal(back[name], tensor.numpy(), err_msg=name)


def test_a_checkpoint_of_lightnings_kind(saved, tmp_path):
    import torch

    config = upstream_config()
    source = saved(build(config), config)
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(wrapped, tmp_path / "last.ckpt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert port(tmp_path / "last.ckpt", tmp_path / "a") | {"source": 0} == port(source, tmp_path / "b") | {
        "source": 0
    }


def test_a_right_model_passes_on_tones(saved, tmp_path, monkeypatch):
    """Full-scale tones, of which all but a few mel bins are rounding in float32."""
    config = upstream_config(48, 3, 2, 96, 12, 2)
    source = saved(build(config), config)
    seconds = np.arange(10 * 24_000) / 24_000
    tones = {
        "sweep": np.sin(2 * np.pi * 50 * np.expm1(0.5 * seconds) / 0.5),  # to 7.4 kHz
        "tone": np.sin(2 * np.pi * 440 * seconds),
    }
    files = [tmp_path / f"{name}.wav" for name in tones]
    for path, tone in zip(files, tones.values(), strict=True):
        soundfile.write(path, tone, 24_000, subtype="FLOAT")
    record(monkeypatch, source, tmp_path / "recorded.npz", "--audio", *files)
    assert len(prove(source, tmp_path / "recorded.npz")["original"]) == 4 * 4
    monkeypatch.setattr(record_activations, "FLOOR", 0.0)
    record(monkeypatch, source, tmp_path / "recorded.npz", "--audio", *files)
    with pytest.raises(UserError, match="0_sweep, layer 0: RMS"):
        prove(source, tmp_path / "recorded.npz")
