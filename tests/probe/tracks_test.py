"""Tracks' vectors: those of the model alone, kept in the cache, and failures by the tracks' own names."""

import numpy as np
import pytest
import soundfile

import muq_jax
from muq_jax.errors import UserError
from muq_jax.inference.embed import Failed, Heard
from muq_jax.probe import tracks as module
from muq_jax.probe.encoders import MuLanEncoder
from muq_jax.probe.task import Item
from muq_jax.probe.tracks import hear_tracks

RATE_HZ = 24_000


@pytest.fixture(scope="module")
def encoder(mulan_folder):
    return MuLanEncoder(muq_jax.MuQMuLan.from_pretrained(mulan_folder), "tiny")


@pytest.fixture(scope="module")
def waves():
    rng = np.random.default_rng(0)
    return [(0.2 * rng.standard_normal(round(s * RATE_HZ))).astype(np.float32) for s in (11.0, 2.5, 3.0)]


@pytest.fixture
def items(waves, tmp_path):
    """No audio, a file, the same one again, a stretch of it, no file, another file, a function."""
    paths = [tmp_path / "long.wav", tmp_path / "short.wav"]
    for path, wave in zip(paths, waves, strict=False):
        soundfile.write(path, wave, RATE_HZ, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no music")
    return [
        Item("no audio", "test", "a", tmp_path / "text.wav"),
        Item("long", "test", "a", paths[0]),
        Item("again", "test", "b", paths[0]),
        Item("stretch", "test", "a", paths[0], None, 2.0, 6.0),
        Item("missing", "test", "a", tmp_path / "nowhere.wav"),
        Item("short", "test", "a", paths[1]),
        Item("function", "test", "a", lambda: waves[2]),
    ]


@pytest.mark.slow
def test_vectors_are_those_of_the_model_alone(encoder, items, waves, tmp_path):
    found = hear_tracks(encoder, items, tmp_path / "cache")
    assert [item.id for item in found.items] == ["long", "again", "stretch", "short", "function"]
    alone = [waves[0], waves[0], waves[0][2 * RATE_HZ : 6 * RATE_HZ], waves[1], waves[2]]
    for wave, vector in zip(alone, found.vectors, strict=True):
        np.testing.assert_allclose(vector, encoder.mulan(wavs=[wave], sampling_rate=RATE_HZ)[0], atol=1e-5)
    assert set(found.failures) == {"no audio", "missing"}
    assert "cannot be decoded" in found.failures["no audio"] and "no such file" in found.failures["missing"]


@pytest.fixture
def planted(monkeypatch):
    """Makes up vectors in the place of hearing files; returns the names of those that were asked for."""
    asked = []

    def embed_files(hearer, files):
        for key, path in files:
            asked.append(path.name)
            if path.suffix == ".wav" and path.read_bytes()[:4] != b"RIFF":
                yield Failed(key, f"{path}: no music")
            else:
                yield Heard(key, np.full((1, 32), len(path.name), np.float32), None, 1.0)
                if path.name == "stop.wav":
                    raise KeyboardInterrupt

    monkeypatch.setattr(module, "embed_files", embed_files)
    return asked


def test_what_was_heard_is_not_heard_again(encoder, items, tmp_path, planted):
    files, cache = [items[i] for i in (1, 2, 0, 5)], tmp_path / "cache"
    first = hear_tracks(encoder, files[:2], cache)
    assert planted == ["long.wav"]
    second = hear_tracks(encoder, files, cache)
    assert planted == ["long.wav", "text.wav", "short.wav"]
    assert [item.id for item in second.items] == ["long", "again", "short"]
    np.testing.assert_array_equal(second.vectors[:, 0], [8, 8, 9])
    np.testing.assert_array_equal(second.vectors[:2], first.vectors)
    # What could not be heard is tried again: the file may have been mended.
    third = hear_tracks(encoder, files[::-1], cache)
    assert planted[3:] == ["text.wav"]
    np.testing.assert_array_equal(third.vectors[:, 0], [9, 8, 8])


def test_a_stop_in_the_middle_costs_nothing(encoder, items, tmp_path, planted):
    stop = tmp_path / "stop.wav"
    stop.write_bytes(items[5].audio.read_bytes() + b"more")
    files = [items[1], Item("stop", "test", "a", stop), items[5]]
    with pytest.raises(KeyboardInterrupt):
        hear_tracks(encoder, files, tmp_path / "cache")
    found = hear_tracks(encoder, files, tmp_path / "cache")
    assert planted == ["long.wav", "stop.wav", "short.wav"]
    np.testing.assert_array_equal(found.vectors[:, 0], [8, 8, 9])


def test_nothing_that_can_be_heard(encoder, items, tmp_path, planted):
    with pytest.raises(UserError, match=r"no track could be heard; the first: .*text\.wav"):
        hear_tracks(encoder, items[:1], tmp_path / "cache")
    with pytest.raises(UserError, match="no track could be heard; the first: there is none"):
        hear_tracks(encoder, [], tmp_path / "cache")
