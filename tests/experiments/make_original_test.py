"""Folders as upstream releases them. Needs the environment of requirements-torch.txt.

python -m pytest -m torch
"""

import itertools
import json
import re
import sys

import numpy as np
import pytest

from experiments import make_original, record_activations
from experiments.original import load, make_muq
from muq_jax.convert.port import prove
from muq_jax.convert.reader import read_tensors

pytestmark = pytest.mark.torch

MUQ = ["--muq", "width=48", "heads=3", "layers=2", "ffn=80", "conv=12", "books=3"]
MULAN = ["--mulan", "audio=40", "text=48", "text_layers=2", "heads=2", "head_size=16", "latent=32"]
ROBERTA = ["--roberta", "vocab=101", "width=48", "layers=3", "heads=4", "ffn=96", "positions=40"]


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Returns a function that runs the command and returns the folder."""
    pytest.importorskip("torch")

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", ["make_original", str(tmp_path / name), *arguments])
        make_original.main()
        return tmp_path / name

    return run


def differences(folder, monkeypatch, *arguments):
    """How far ours are from the original's, by what was compared."""
    recorded = folder / "activations.npz"
    monkeypatch.setattr(sys, "argv", ["record_activations", str(folder), str(recorded), *arguments])
    record_activations.main()
    return prove(folder, recorded)["original"]


@pytest.mark.parametrize("label_rate", [25, 50])
def test_a_muq_as_upstream_releases_it(make, monkeypatch, label_rate):
    folder = make("muq", "--model", "muq", *MUQ, f"label_rate={label_rate}")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["label_rate"] == label_rate and config["codebook_size"] == 3 * 1024
    assert config["w2v2_config"]["num_hidden_layers"] == config["encoder_depth"] == 2
    tensors = read_tensors(folder)
    assert load(make_muq(config), tensors).model.linear.out_features == 3 * 1024
    for name in ("mean", "var"):
        statistics = tensors[f"model.conv.conv.0.bn1.running_{name}"]
        assert np.std(statistics) > 0.05, "statistics that nobody would miss"
    assert len(differences(folder, monkeypatch, "--seconds", "1.3")) == 3


def test_the_seed_alone_decides_the_weights(make):
    first, same, other = (
        make(name, "--model", "muq", *MUQ, "--seed", seed) / "model.safetensors"
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert first.read_bytes() == same.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    "form, file",
    [(None, "pytorch_model.bin"), ("bin", "pytorch_model.bin"), ("safetensors", "model.safetensors")],
)
def test_a_mulan_as_upstream_releases_it(make, monkeypatch, form, file):
    how = [] if form is None else ["--format", form]
    folder = make("mulan", "--model", "mulan", *MUQ, *MULAN, *ROBERTA, *how)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["config.json", file])
    found = differences(folder, monkeypatch, "--seconds", "2.5", "--tokens", "3", "17", "38")
    kinds = [re.sub(r"layer \d+", "layer", name) for name in found]
    assert [kind for kind, _ in itertools.groupby(kinds)] == [
        "noise_2.5s, layer",
        "noise_2.5s, audio",
        *(
            f"{n}_tokens, {what}"
            for n in (3, 17, 38)
            for what in ("XLM-RoBERTa layer", "transformer layer", "text", "text in a batch")
        ),
    ]


def test_the_released_sizes_need_no_words_of_ours():
    muq = make_original.upstream_config(**make_original.MUQ_LARGE)
    mulan = make_original.upstream_mulan_config(1024, **make_original.MULAN_LARGE)
    roberta = make_original.roberta_config(**make_original.XLM_ROBERTA_BASE)
    assert make_original.mulan_json(mulan, muq, roberta) == mulan
