import json

import numpy as np
import pytest

from experiments.make_goldens import noise_wave
from experiments.original import random_tensors
from muq_jax import MuQ, MusicFM
from muq_jax.cli import main
from muq_jax.convert import musicfm, rules
from muq_jax.convert.port import port
from muq_jax.errors import UserError
from muq_jax.models.config import muq_config

CONFIG = muq_config(
    "smoke", rvq=None, num_books=1, num_codes=96, conformer={"num_layers": 3}, mel={"mean": 6.5, "std": 18.0}
)
STATS = {"melspec_2048_cnt": 3, "melspec_2048_mean": 6.5, "melspec_2048_std": 18.0}


@pytest.fixture(scope="module")
def tensors():
    """A state dict with every name of `MusicFM25Hz`, those that it never reads among them."""
    table = musicfm.musicfm_table(CONFIG)
    shapes = rules.state_dict_shapes(table, musicfm.template(CONFIG))
    return random_tensors(shapes)


@pytest.fixture
def release(torch_format, tensors, tmp_path):
    """A folder as the release has it: a Lightning checkpoint and the statistics."""
    folder = tmp_path / "data"
    folder.mkdir()
    wrapped = {f"model.{name}": tensor for name, tensor in tensors.items()}
    torch_format(folder / "pretrained_msd.pt", {"state_dict": wrapped})
    (folder / "msd_stats.json").write_text(json.dumps(STATS))
    return folder


def test_the_tensors_are_upstreams():
    """Names and shapes of MusicFM25Hz at its defaults, as its constructor registers them."""
    large = muq_config("large", rvq=None, num_books=1, num_codes=4096)
    shapes = rules.state_dict_shapes(musicfm.musicfm_table(large), musicfm.template(large))
    expected = {
        "cls_token": (1024,),
        "linear.weight": (4096, 1024),
        "conv.linear.weight": (1024, 16384),
        "conv.conv.1.conv3.weight": (512, 512, 3, 3),
        "conformer.layers.11.self_attn.linear_out.bias": (1024,),
        "conformer.embed_positions.inv_freq": (32,),
        "conformer.pos_conv_embed.conv.bias": (1024,),
        "preprocessor_melspec_2048.mel_stft.spectrogram.window": (2048,),
        "preprocessor_melspec_2048.mel_stft.mel_scale.fb": (1025, 128),
        "quantizer_melspec_2048_0.random_projection": (512, 16),
        "quantizer_melspec_2048_0.codebook": (4096, 16),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert not any(name.startswith("model.") for name in shapes)


def test_a_release_is_read_with_its_statistics(release, tensors):
    model = MusicFM.from_pretrained(release)
    assert model.config == CONFIG
    same = MuQ(CONFIG, rules.from_torch(tensors, musicfm.musicfm_table(CONFIG), musicfm.template(CONFIG)))
    for a, b in zip(
        model([noise_wave(1)], sampling_rate=24_000).hidden_states,
        same([noise_wave(1)], sampling_rate=24_000).hidden_states,
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["", "pretrained_msd.pt"])
def test_a_release_becomes_a_model_folder(release, tensors, tmp_path, name):
    port(release / name, tmp_path / "model")
    model = MusicFM.from_pretrained(tmp_path / "model")
    assert model.config == CONFIG
    model.save_pretrained(tmp_path / "again")
    for folder in ("model", "again"):
        found = rules.checked(
            musicfm_tensors(tmp_path / folder), musicfm.musicfm_table(CONFIG), musicfm.template(CONFIG)
        )
        assert all(np.array_equal(found[rule], tensors[rule]) for rule in found)
    with pytest.raises(UserError, match=r"Load it with muq_jax\.MusicFM"):
        MuQ.from_pretrained(tmp_path / "model")


def musicfm_tensors(folder):
    from muq_jax.convert.reader import read_tensors

    found = read_tensors(folder)
    assert "preprocessor_melspec_2048.mel_stft.mel_scale.fb" in found
    return found


def test_statistics_are_needed(release):
    (release / "msd_stats.json").rename(release / "x_stats.json")
    assert MusicFM.from_pretrained(release).config == CONFIG  # the only ones there
    (release / "y_stats.json").write_text(json.dumps(STATS))
    with pytest.raises(UserError, match=r"msd_stats\.json, beside it; found x_stats\.json, y_stats\.json"):
        MusicFM.from_pretrained(release)
    for path in release.glob("*.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"msd_stats\.json, beside it; found none"):
        MusicFM.from_pretrained(release)
    (release / "msd_stats.json").write_text('{"melspec_2048_mean": 1}')
    with pytest.raises(UserError, match=r"melspec_2048_mean and melspec_2048_std are expected"):
        MusicFM.from_pretrained(release)


def test_two_releases_in_one_folder_are_told_apart(release, tensors, torch_format, tmp_path):
    wrapped = {f"model.{name}": np.asarray(2 * tensor) for name, tensor in tensors.items()}
    torch_format(release / "pretrained_fma.pt", {"state_dict": wrapped})
    (release / "fma_stats.json").write_text(json.dumps(STATS | {"melspec_2048_mean": 1.5}))
    with pytest.raises(UserError, match=r"pretrained_fma\.pt, pretrained_msd\.pt; give the path of one"):
        MusicFM.from_pretrained(release)
    found = {name: MusicFM.from_pretrained(release / f"pretrained_{name}.pt") for name in ("fma", "msd")}
    assert (found["fma"].config.mel.mean, found["msd"].config.mel.mean) == (1.5, 6.5)
    np.testing.assert_array_equal(
        found["fma"].params["head"]["bias"], 2 * found["msd"].params["head"]["bias"]
    )
    assert main(["info", str(release / "pretrained_fma.pt")]) == 0


def test_a_tensor_that_is_lacking_is_named(release, tensors, torch_format):
    lacking = {f"model.{name}": tensor for name, tensor in tensors.items() if "inv_freq" not in name}
    torch_format(release / "pretrained_msd.pt", {"state_dict": lacking})
    with pytest.raises(UserError, match=r"lacks the tensor model\.conformer\.embed_positions\.inv_freq"):
        MusicFM.from_pretrained(release)
