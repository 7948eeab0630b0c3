import json
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from experiments.make_goldens import noise_wave
from experiments.original import random_tensors, upstream_config
from muq_jax import MuQ, MuQMuLan
from muq_jax.convert import mulan as mulan_names
from muq_jax.convert import muq as muq_names
from muq_jax.convert import rules
from muq_jax.inference.embed import Failed, embed_files
from muq_jax.inference.hearers import MuLanHearer, MuQHearer
from muq_jax.models.config_json import from_upstream_json
from tests.models.mulan_test import small_config

GOLDEN = Path(__file__).parents[1] / "golden"
SECONDS = {"blip": 0.02, "short": 0.7, "middle": 3.3, "long": 9.1}


@pytest.fixture(scope="module")
def muq():
    config = from_upstream_json(upstream_config())
    shapes = rules.state_dict_shapes(muq_names.muq_table(config), muq_names.template(config))
    return MuQ(config, muq_names.from_torch_names(random_tensors(shapes), config))


@pytest.fixture(scope="module")
def mulan():
    config = small_config()
    shapes = json.loads(str(np.load(GOLDEN / "mulan.npz")["shapes"]))
    return MuQMuLan(config, mulan_names.from_torch_names(random_tensors(shapes), config))


@pytest.fixture(scope="module")
def waves():
    return {name: noise_wave(10)[: round(24_000 * seconds)] for name, seconds in SECONDS.items()}


@pytest.fixture(scope="module")
def files(waves, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    for name, wave in waves.items():
        soundfile.write(folder / f"{name}.wav", wave, 24_000, "FLOAT")
    return [(name, folder / f"{name}.wav") for name in waves]


def results(model, files, **options):
    return {found.name: found for found in embed_files(model, files, **options)}


@pytest.mark.parametrize("layers", ["last", [0, 2]])
def test_files_are_heard_as_the_model_hears_them(muq, files, waves, layers):
    hearer = MuQHearer(muq, layers, window_seconds=2.0)
    found = results(hearer, files, batch_size=3, frames=True)
    assert found.keys() == waves.keys()
    for name, wave in waves.items():
        out = muq([wave], sampling_rate=24_000, layers=layers, window_seconds=2.0)
        states = np.stack([out.hidden_states[n][0] for n in hearer.layers])
        np.testing.assert_allclose(found[name].frames, states, atol=2e-5)
        np.testing.assert_allclose(found[name].vectors, states.mean(axis=1), atol=2e-5)
        assert found[name].seconds == pytest.approx(len(wave) / 24_000)


def test_a_file_has_the_same_bits_in_any_company(muq, files):
    hearer = MuQHearer(muq, window_seconds=2.0)
    whole = results(hearer, files, batch_size=3, workers=4)
    again = results(hearer, files[::-1], batch_size=3, workers=1)
    alone = {name: results(hearer, [(name, path)], batch_size=3)[name] for name, path in files}
    for name, heard in whole.items():
        np.testing.assert_array_equal(heard.vectors, again[name].vectors)
        np.testing.assert_array_equal(heard.vectors, alone[name].vectors)
        assert heard.frames is None


def test_mulan_hears_the_clips_that_upstream_cuts(mulan, waves, files, tmp_path):
    wave = np.concatenate([noise_wave(12), noise_wave(11)])
    soundfile.write(tmp_path / "track.wav", wave, 24_000, "FLOAT")
    found = results(MuLanHearer(mulan), [("track", tmp_path / "track.wav"), *files[1:3]], batch_size=2)
    expected = mulan([wave, waves["short"], waves["middle"]], sampling_rate=24_000)
    for name, vector in zip(("track", "short", "middle"), expected, strict=True):
        np.testing.assert_allclose(found[name].vectors[0], vector, atol=2e-6)


def test_what_cannot_be_heard_is_named_and_the_rest_go_on(muq, files, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "empty.wav").touch()
    broken = np.ones(24_000 * 5, np.float32)
    broken[-1] = np.nan  # found after windows of it have been heard
    soundfile.write(tmp_path / "nan.wav", broken, 24_000, "FLOAT")
    bad = [(name, tmp_path / f"{name}.wav") for name in ("text", "empty", "nan", "absent")]
    found = results(MuQHearer(muq, window_seconds=2.0), [*bad, files[2]], batch_size=3)
    assert {name: type(f).__name__ for name, f in found.items()} == {
        **dict.fromkeys(("text", "empty", "nan", "absent"), "Failed"),
        "middle": "Heard",
    }
    reasons = {"text": "cannot be decoded", "empty": "is empty", "nan": "is nan", "absent": "no such file"}
    for name, part in reasons.items():
        assert isinstance(found[name], Failed) and part in found[name].reason


@pytest.mark.parametrize(
    "devices, backend, batch_size, rows",
    [(1, "cpu", 3, 3), (8, "cpu", 3, 8), (4, "cpu", 5, 8), (1, "cpu", None, 1), (2, "gpu", None, 8)],
)
def test_one_compiled_shape_that_the_devices_share(
    muq, files, monkeypatch, devices, backend, batch_size, rows
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    hearer = MuQHearer(muq, window_seconds=2.0, devices=jax.devices()[:devices])
    shapes = set()
    hear = hearer.hear
    hearer.hear = lambda waves, lengths: shapes.add(waves.shape) or hear(waves, lengths)
    results(hearer, files, batch_size=batch_size)
    assert shapes == {(rows, 48_000)}


def test_stopping_early_leaves_no_thread(muq, files):
    import threading

    before = threading.active_count()
    stream = embed_files(MuQHearer(muq, window_seconds=2.0), files * 3, batch_size=1, workers=3)
    next(stream)
    stream.close()
    assert threading.active_count() == before
