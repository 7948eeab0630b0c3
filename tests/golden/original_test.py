"""The PyTorch original itself beside ours, at full size. Needs the environment of requirements-torch.txt.

python -m pytest -m torch
"""

import dataclasses
import json

import numpy as np
import pytest

from experiments.make_goldens import book_gaps, clip
from experiments.original import as_wave, build, import_original, load_random, random_tensors, upstream_config
from muq_jax import MelRVQ, MuQ
from muq_jax.convert import muq as muq_names
from muq_jax.convert import rules
from muq_jax.convert.reader import read_tensors
from muq_jax.models.config_json import from_upstream_json

pytestmark = pytest.mark.torch

LARGE = upstream_config(1024, 12, 16, 4096, 512, 8)
SMALL = upstream_config(128, 3, 4, 256, 32, 8)


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    torch = pytest.importorskip("torch")
    import_original()
    torch.set_num_threads(2)


def features(original, wave):
    """Hidden states of the original, [L + 1, B, T, D]."""
    import torch

    with torch.no_grad():
        return np.stack([states.numpy() for states in original(torch.from_numpy(wave)).hidden_states])


def relative(found, want):
    """The largest difference over the RMS, for each layer."""
    axes = tuple(range(1, want.ndim))
    return np.abs(found - want).max(axis=axes) / np.sqrt(np.mean(want**2, axis=axes))


def noise(seconds):
    return (0.1 * np.random.default_rng(0).standard_normal((1, int(24_000 * seconds)))).astype(np.float32)


def music(seconds):
    return as_wave(clip(0, int(24_000 * seconds)))[None]


def save_original(original, config, folder):
    """Writes a PyTorch model as the hub holds one: its state dict and upstream's config.json."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(original.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """MuQ-large with random weights: the original, and ours read from the original's own file."""
    original = build(LARGE)
    folder = save_original(original, LARGE, tmp_path_factory.mktemp("large") / "model")
    return original, MuQ.from_pretrained(folder)


@pytest.mark.parametrize("seconds", [1, 10])
def test_large_hears_what_the_original_hears(large, seconds):
    original, muq = large
    for wave in (noise(seconds), music(seconds)):
        want = features(original, wave)
        found = np.stack(muq(wave, sampling_rate=24_000).hidden_states)
        assert found.shape == want.shape == (13, 1, 25 * seconds, 1024)
        assert relative(found, want).max() < 1e-4


def test_large_goes_back_to_pytorch_unchanged(large, tmp_path):
    import torch
    from safetensors.torch import load_file

    original, muq = large
    muq.save_pretrained(tmp_path / "model")
    written = load_file(tmp_path / "model" / "model.safetensors")
    for name, tensor in original.state_dict().items():
        assert written[name].dtype == tensor.dtype and torch.equal(written[name], tensor), name
    assert written.keys() == original.state_dict().keys()


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"label_rate": 50},
        {"rvq_multi_layer_num": 2},
        {"rvq_multi_layer_num": 4},
        {"recon_loss_ratio": 1.0},
        {"use_rvq_target": False, "codebook_size": 4096},
    ],
    ids=str,
)
def test_pytorch_loads_an_export_strictly_and_hears_the_same(overrides, tmp_path):
    import torch
    from safetensors.torch import load_file

    config = SMALL | overrides
    MuQ.from_pretrained(save_original(build(config), config, tmp_path / "torch")).save_pretrained(
        tmp_path / "ours"
    )
    muq = MuQ.from_pretrained(tmp_path / "ours")
    muq._unused = {}
    muq.save_pretrained(tmp_path / "ours")

    package = import_original()
    exported = json.loads((tmp_path / "ours" / "config.json").read_text())
    known = {
        key: value for key, value in exported.items() if key in package.muq.muq.MuQConfig.__dataclass_fields__
    }
    model = package.MuQ(known).eval()
    model.load_state_dict(load_file(tmp_path / "ours" / "model.safetensors"), strict=True)
    wave = noise(1.03)
    found = np.stack(muq(wave, sampling_rate=24_000).hidden_states)
    assert relative(found, features(model, wave)).max() < 1e-4
    frequencies = model.model.conformer.embed_positions.inv_freq
    assert torch.equal(frequencies, package.MuQ(known).model.conformer.embed_positions.inv_freq)


def test_pytorch_loads_a_model_of_the_iterative_stage_strictly(tmp_path):
    """It carries no Mel-RVQ; upstream builds a random projection in its place, which nothing reads."""
    from safetensors.torch import load_file

    config = dataclasses.replace(from_upstream_json(SMALL), rvq=None)
    assert (config.num_books, config.num_codes) == (8, 1024)
    shapes = rules.state_dict_shapes(muq_names.muq_table(config), muq_names.template(config))
    variables = muq_names.from_torch_names(random_tensors(shapes), config)
    MuQ(config, variables).save_pretrained(tmp_path / "muq")

    package = import_original()
    exported = json.loads((tmp_path / "muq" / "config.json").read_text())
    fields = package.muq.muq.MuQConfig.__dataclass_fields__
    model = package.MuQ({key: value for key, value in exported.items() if key in fields}).eval()
    model.load_state_dict(load_file(tmp_path / "muq" / "model.safetensors"), strict=True)
    wave = noise(1.03)
    muq = MuQ.from_pretrained(tmp_path / "muq")
    assert muq.config == config
    found = np.stack(muq(wave, sampling_rate=24_000).hidden_states)
    assert relative(found, features(model, wave)).max() < 1e-4


def test_the_packages_own_loader_takes_an_export(tmp_path):
    package = import_original()
    original = build(SMALL)
    muq = MuQ.from_pretrained(save_original(original, SMALL, tmp_path / "torch"))
    muq.save_pretrained(tmp_path / "ours")
    loaded = package.MuQ.from_pretrained(str(tmp_path / "ours")).eval()
    wave = noise(1)
    np.testing.assert_array_equal(features(loaded, wave), features(original, wave))


def test_tables_name_the_originals_tensors():
    for overrides in ({}, {"label_rate": 50}, {"rvq_multi_layer_num": 3}, {"recon_loss_ratio": 0.1}):
        config = from_upstream_json(SMALL | overrides)
        names = rules.state_dict_shapes(muq_names.muq_table(config), muq_names.template(config))
        original = import_original().MuQ(SMALL | overrides)
        assert names == {name: tuple(tensor.shape) for name, tensor in original.state_dict().items()}


def test_codes_of_a_long_clip(tmp_path):
    import torch

    original = build(SMALL)
    rvq = MelRVQ.from_pretrained(save_original(original, SMALL, tmp_path / "torch"))
    wave = music(9.6)
    with torch.no_grad():
        _, stacked = original.model.get_targets(torch.from_numpy(wave))
        codes = original.model.rvq(stacked.transpose(1, 2))[1].numpy().transpose(0, 2, 1)
        gaps = book_gaps(original.model.rvq, stacked.transpose(1, 2)).transpose(0, 2, 1)
    decided = np.logical_and.accumulate(gaps > 5e-5, axis=-1)
    found = rvq.encode(wave, sampling_rate=24_000)
    assert decided.mean() > 0.9 and found.shape == codes.shape
    np.testing.assert_array_equal(found[decided], codes[decided])


def test_a_mel_rvq_folder_loads_into_upstreams_quantizer(tmp_path):
    import torch
    from muq.muq.modules.rvq import ResidualVectorQuantize
    from safetensors.torch import load_file

    original = build(SMALL)
    MelRVQ.from_pretrained(save_original(original, SMALL, tmp_path / "torch")).save_pretrained(
        tmp_path / "rvq"
    )
    loaded = ResidualVectorQuantize(512, 8, 1024, 16)
    load_random(loaded)
    loaded.load_state_dict(load_file(tmp_path / "rvq" / "model.safetensors"), strict=True)
    for name, tensor in original.model.rvq.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_sharded_weights_and_old_spellings_load(tmp_path):
    """As an older torch and a large model's export write them."""
    from safetensors.torch import save_file

    original = build(SMALL)
    whole = save_original(original, SMALL, tmp_path / "whole")
    state = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor.float()
        for name, tensor in original.state_dict().items()
    }
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "config.json").write_text(json.dumps(SMALL))
    names = sorted(state)
    placed = {name: f"model-0000{1 + (i > 50)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(placed.values()):
        save_file({n: state[n] for n in names if placed[n] == file}, tmp_path / "shards" / file)
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    first, second = MuQ.from_pretrained(whole), MuQ.from_pretrained(tmp_path / "shards")
    for (path, a), (_, b) in zip(
        rules.flatten(first.variables), rules.flatten(second.variables), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=path)
    second.save_pretrained(tmp_path / "again")
    assert read_tensors(tmp_path / "again")["model.conv.conv.0.bn1.num_batches_tracked"].dtype == np.int64
