import json
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal

from experiments.make_goldens import noise_wave
from experiments.original import random_tensors
from muq_jax import MuQ, MusicFM
from muq_jax.cli import main
from muq_jax.convert import musicfm, rules
from muq_jax.convert.port import port
from muq_jax.errors import UserError
from muq_jax.models.config import muq_config

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = muq_config(
    "smoke", rvq=None, num_books=1, num_codes=96, conformer={"num_layers": 3}, mel={"mean": 6.5, "std": 18.0}
)
STATS = {"melspec_2048_cnt": 3, "melspec_2048_mean": 6.5, "melspec_2048_std": 18.0}


@pytest.fixture(scope="module")
def tensors():
    """A state dict with every name of `MusicFM25Hz`, those that it never reads among them."""
    table = musicfm.musicfm_table(CONFIG)
    shapes = rules.state_dict_shapes(table, musicfm.template(CONFIG))
    return random_tensors(shapes) | {u.torch: u.value for u in table.unused if u.value is not None}


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
    """Names and shapes of MusicFM25Hz at its defaults, as its code (minzwon/musicfm) registers them."""
    large = muq_config("large", rvq=None, num_books=1, num_codes=4096)
    shapes = rules.state_dict_shapes(musicfm.musicfm_table(large), musicfm.template(large))
    listed = json.loads((GOLDEN / "musicfm_state_dict.json").read_text())
    assert {name: list(shape) for name, shape in shapes.items()} == listed


def test_constants_that_another_model_computes_are_refused(release, tensors, torch_format):
    for name in ("preprocessor_melspec_2048.mel_stft.mel_scale.fb", "conformer.embed_positions.inv_freq"):
        other = {f"model.{n}": 0.9 * t if n == name else t for n, t in tensors.items()}
        torch_format(release / "pretrained_msd.pt", {"state_dict": other})
        with pytest.raises(UserError, match=f"{name} is not what this configuration computes"):
            MusicFM.from_pretrained(release)
    half = {f"model.{n}": t.astype(np.float16) if t.dtype.kind == "f" else t for n, t in tensors.items()}
    torch_format(release / "pretrained_msd.pt", {"state_dict": half})
    assert MusicFM.from_pretrained(release).config == CONFIG


def test_an_export_without_a_source_holds_the_constants(tensors, tmp_path):
    """The original computes its mel with them."""
    table = musicfm.musicfm_table(CONFIG)
    MusicFM(CONFIG, rules.from_torch(tensors, table, musicfm.template(CONFIG))).save_pretrained(
        tmp_path / "m"
    )
    found = musicfm_tensors(tmp_path / "m")
    np.testing.assert_array_equal(
        found["preprocessor_melspec_2048.mel_stft.mel_scale.fb"],
        librosa.filters.mel(sr=24_000, n_fft=2048, n_mels=128, htk=True, norm=None).T,
    )
    window = found["preprocessor_melspec_2048.mel_stft.spectrogram.window"]
    np.testing.assert_allclose(window, scipy.signal.get_window("hann", 2048), atol=1e-7)


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
    learned = {rule for entry in musicfm.musicfm_table(CONFIG).rules for rule in entry.names()}
    wrapped = {
        f"model.{name}": np.asarray(2 * tensor) if name in learned else tensor
        for name, tensor in tensors.items()
    }
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
