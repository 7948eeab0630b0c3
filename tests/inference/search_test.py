import json

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from muq_jax.cli import main
from muq_jax.errors import UserError
from muq_jax.inference import search as search_module
from muq_jax.inference.embed_to_store import embed_to_store
from muq_jax.inference.search import nearest, search


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99), st.integers(1, 9))
def test_the_nearest_are_scikit_learns(rows, width, k, seed, block):
    rng = np.random.default_rng(seed)
    matrix, queries = rng.standard_normal((rows, width)), rng.standard_normal((3, width))
    k = min(k, rows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(search_module, "_BLOCK", block)
        scores, places = nearest(matrix, queries, k)
    distances, _ = NearestNeighbors(n_neighbors=k, metric="cosine").fit(matrix).kneighbors(queries)
    np.testing.assert_allclose(scores, 1 - distances, atol=1e-5)
    units = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (matrix, queries)]
    np.testing.assert_allclose(np.take_along_axis(units[1] @ units[0].T, places, 1), scores, atol=1e-5)


def test_equal_vectors_come_in_order(monkeypatch):
    monkeypatch.setattr(search_module, "_BLOCK", 2)
    _, places = nearest(np.ones((5, 3)), np.ones((1, 3)), 4)
    assert places.tolist() == [[0, 1, 2, 3]]


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracks")
    rng = np.random.default_rng(0)
    for i, cutoff in enumerate((2, 3, 40, 41)):  # two dull noises, two bright ones
        wave = np.convolve(rng.standard_normal(60_000), np.ones(cutoff) / cutoff, "same").astype(np.float32)
        soundfile.write(folder / f"{i}.wav", 0.3 * wave / np.abs(wave).max(), 24_000)
    return folder


@pytest.fixture(scope="module")
def store(muq_folder, music, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "muq"
    embed_to_store(muq_folder, [music], out, layers=[0, 2], window_seconds=2.0)
    return out


def test_an_example_in_the_store_finds_its_like_and_not_itself(store):
    for name, like in (("0.wav", "1.wav"), ("3.wav", "2.wav")):
        matches = search(store, audio=name, layer=0)
        assert matches[0].id == like
        assert len(matches) == 3 and name not in {match.id for match in matches}
        assert [m.score for m in matches] == sorted((m.score for m in matches), reverse=True)
    assert {match.layer for match in search(store, audio="0.wav")} == {2}


def test_a_file_from_elsewhere_is_heard_first(store, muq_folder, music, tmp_path):
    (tmp_path / "copy.wav").write_bytes((music / "2.wav").read_bytes())
    best, *_ = search(store, audio=tmp_path / "copy.wav", model=muq_folder, layer=0, k=2)
    assert best.id == "2.wav" and best.score == pytest.approx(1, abs=1e-5)


def test_a_text_finds_what_the_towers_say(mulan_folder, music, tmp_path):
    import muq_jax

    embed_to_store(mulan_folder, [music], tmp_path / "s")
    matches = search(tmp_path / "s", text="heavy metal", model=mulan_folder)
    mulan = muq_jax.MuQMuLan.from_pretrained(mulan_folder)
    assert search(tmp_path / "s", text="heavy metal", model=mulan) == matches
    text = mulan(texts=["heavy metal"])[0]
    for match in matches:
        wave, _ = soundfile.read(music / match.id, dtype="float32")
        audio = mulan(wavs=[wave], sampling_rate=24_000)[0]
        assert match.score == pytest.approx(audio @ text / np.linalg.norm(audio), abs=1e-5)
    assert len(matches) == 4


def test_stores_of_one_space_are_searched_as_one(store, muq_folder, music, tmp_path, capsys):
    shards = [tmp_path / "0", tmp_path / "1"]
    for index, shard in enumerate(shards):
        embed_to_store(muq_folder, [music], shard, layers=[0, 2], window_seconds=2.0, shard=(index, 2))
    together = search(shards, audio="0.wav", layer=0)
    for found, wanted in zip(together, search(store, audio="0.wav", layer=0), strict=True):
        assert found.id == wanted.id and found.score == pytest.approx(wanted.score, abs=1e-6)
    assert main(["search", *map(str, shards), "--audio", "0.wav", "--layer", "0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    embed_to_store(muq_folder, [music], tmp_path / "2", window_seconds=2.0)
    with pytest.raises(UserError, match=r"2 holds vectors of layers \(2,\); those of \(0, 2\) are another"):
        search([*shards, tmp_path / "2"], audio="0.wav")


def test_mistakes_are_named(store, muq_folder, mulan_folder, music, tmp_path):
    elsewhere = tmp_path / "x.wav"
    elsewhere.write_bytes((music / "2.wav").read_bytes())
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    for options, message in (
        ({}, "give either a text or an audio file"),
        ({"text": "a", "audio": "0.wav"}, "give either a text or an audio file"),
        ({"text": " "}, "the text is empty"),
        ({"text": "a"}, "is of a muq, which knows no text"),
        ({"audio": elsewhere}, r"is not in the store, whose names are relative paths such as '0\.wav'"),
        ({"audio": elsewhere, "model": mulan_folder}, "their vectors cannot be compared"),
        ({"audio": text, "model": muq_folder}, "cannot be decoded"),
        ({"audio": "0.wav", "layer": 1}, "layer is 1; the store has 0, 2"),
        ({"audio": "0.wav", "k": 0}, "k must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            search(store, **options)
    with pytest.raises(UserError, match=r"is not a store: it has no store\.json"):
        search(music, audio="0.wav")


def test_the_command(store, capsys):
    assert main(["search", str(store), "--audio", "0.wav", "--layer", "0", "-k", "2"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1] == "1.wav" and second.split()[1] in ("2.wav", "3.wav")
    assert main(["search", str(store), "--audio", "0.wav", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3 and rows[0].keys() == {"id", "score", "layer"}
