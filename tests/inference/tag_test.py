import json

import numpy as np
import pytest
import soundfile

import muq_jax
from muq_jax.cli import DONE, FAILED, SOME_FILES_FAILED, main
from muq_jax.errors import UserError
from muq_jax.inference import tag as tag_module
from muq_jax.inference.embed import Failed, Heard
from muq_jax.inference.embed_to_store import embed_to_store
from muq_jax.inference.tag import Tagger, tag
from muq_jax.text.templates import BACKGROUND

LABELS = ["calm", "a string quartet", "欢快的民谣吉他"]
TEMPLATES = ["{}", "music: {}", "{} on the radio"]


@pytest.fixture(scope="module")
def mulan(mulan_folder):
    return muq_jax.MuQMuLan.from_pretrained(mulan_folder)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(0)
    for i, seconds in enumerate((11.0, 2.0, 3.0)):
        wave = 0.2 * rng.standard_normal(round(seconds * 24_000)) * (1 + np.sin(np.arange(seconds * 24_000)))
        soundfile.write(folder / f"{i}.wav", np.clip(wave, -1, 1), 24_000)
    return folder


def test_scores_are_deviations_from_the_background(mulan):
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((4, mulan.config.latent_size)).astype(np.float32)
    scores, similarities = Tagger(mulan, LABELS, TEMPLATES)(latents)

    usual = mulan(texts=list(BACKGROUND)) @ latents.T
    for n, label in enumerate(LABELS):
        texts = [template.replace("{}", label) for template in TEMPLATES]
        mean = np.mean([mulan(texts=[text])[0] for text in texts], axis=0)
        expected = latents @ (mean / np.linalg.norm(mean))
        np.testing.assert_allclose(similarities[:, n], expected, atol=1e-5)
        np.testing.assert_allclose(scores[:, n], (expected - usual.mean(0)) / usual.std(0), rtol=1e-3)


def test_labels_may_have_prompts_of_their_own(mulan):
    latents = np.random.default_rng(2).standard_normal((3, mulan.config.latent_size)).astype(np.float32)
    own = {"calm": ["a calm piece", "quiet"], "strings": ["a string quartet, calm and warm"]}
    tagger = Tagger(mulan, own)
    mean = mulan(texts=own["calm"]).mean(axis=0)
    expected = np.stack([mean / np.linalg.norm(mean), mulan(texts=own["strings"])[0]])
    assert tagger.labels == ("calm", "strings")
    np.testing.assert_allclose(tagger(latents)[1], latents @ expected.T, atol=1e-5)
    with pytest.raises(UserError, match="the label 'strings' has no prompt"):
        Tagger(mulan, {**own, "strings": []})


def test_the_scores_of_the_background_have_no_mean_and_unit_deviation(mulan):
    latents = np.random.default_rng(1).standard_normal((2, mulan.config.latent_size)).astype(np.float32)
    scores, _ = Tagger(mulan, BACKGROUND, ["{}"])(latents)
    np.testing.assert_allclose(scores.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(scores.std(1), 1, atol=1e-4)
    quieter, _ = Tagger(mulan, BACKGROUND, ["{}"])(0.5 * latents)  # a track's vector is a mean of unit ones
    np.testing.assert_allclose(quieter, scores, atol=1e-4)


def test_equal_tracks_and_equal_labels_are_equally_near(mulan):
    rng = np.random.default_rng(3)
    latents = rng.standard_normal((7, mulan.config.latent_size)).astype(np.float32)
    own = {str(n): ["calm"] if n % 2 else [f"piece {n}"] for n in range(41)}
    for found in Tagger(mulan, own)(latents[[*range(7), 2, 2, *range(7), 2]]):
        assert np.array_equal(found[:, 1:2].repeat(20, axis=1), found[:, 1::2])
        assert np.array_equal(found[[2, 7, 8, 11, 16]], found[[2] * 5])
        assert np.array_equal(found[:7], found[9:16])


def test_no_labels_and_a_dead_text_tower_are_refused(mulan, monkeypatch):
    with pytest.raises(UserError, match="no labels"):
        Tagger(mulan, [])
    dead = np.ones((1, mulan.config.latent_size), np.float32) / mulan.config.latent_size**0.5
    monkeypatch.setattr(mulan, "extract_text_latents", lambda texts: np.repeat(dead, len(texts), axis=0))
    with pytest.raises(UserError, match="text tower is dead"):
        Tagger(mulan, LABELS)


def test_files_are_tagged_as_the_model_hears_them(mulan, mulan_folder, music):
    found = list(tag(mulan_folder, [music], labels=LABELS, workers=3))
    assert [tagged.name for tagged in found] == ["0.wav", "1.wav", "2.wav"]
    waves = [soundfile.read(music / tagged.name, dtype="float32")[0] for tagged in found]
    scores, similarities = Tagger(mulan, LABELS)(mulan(wavs=waves, sampling_rate=24_000))
    np.testing.assert_allclose([tagged.similarities for tagged in found], similarities, atol=1e-5)
    np.testing.assert_allclose([tagged.scores for tagged in found], scores, atol=2e-3)
    assert found[0].labels == tuple(LABELS)


def test_a_store_is_tagged_without_hearing_it_again(mulan_folder, muq_folder, music, tmp_path, monkeypatch):
    embed_to_store(mulan_folder, [music], tmp_path / "store")
    heard = list(tag(mulan_folder, [music], labels=LABELS))
    embed_to_store(muq_folder, [music], tmp_path / "other", window_seconds=2.0)
    monkeypatch.setattr(tag_module, "embed_files", None)
    stored = list(tag(mulan_folder, [tmp_path / "store"], labels=LABELS))
    assert [tagged.name for tagged in stored] == [tagged.name for tagged in heard]
    np.testing.assert_array_equal([t.scores for t in stored], [t.scores for t in heard])
    with pytest.raises(UserError, match="cannot be compared"):
        tag(mulan_folder, [tmp_path / "other"], labels=LABELS)


def test_results_come_in_the_order_of_the_names():
    results = [Failed("c", "no"), Heard("a", np.zeros(1), None, 1.0), Failed("b", "no")]
    assert [result.name for result in tag_module._in_order(results, ["a", "b", "c"])] == ["a", "b", "c"]


def test_another_kind_of_model_is_refused(muq_folder, music):
    with pytest.raises(UserError, match="is a muq, which knows no text"):
        tag(muq_folder, [music])


def test_the_command(mulan_folder, music, tmp_path, capsys):
    labels = tmp_path / "labels"
    labels.write_text("\n".join(LABELS), encoding="utf-8")
    assert main(["tag", str(mulan_folder), str(music), "--labels", str(labels), "--top", "2"]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(".wav")] == ["0.wav", "1.wav", "2.wav"]
    assert sum(line.split(maxsplit=2)[-1] in LABELS for line in lines) == 6


def test_the_command_in_json_with_files_that_cannot_be_heard(mulan_folder, music, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("this is no music")
    command = ["tag", str(mulan_folder), str(tmp_path / "text.wav"), "--json", "--template", "the tag {}"]
    assert main([*command, "--top", "50"]) == FAILED
    assert main([*command, "--top", "50", str(music / "1.wav")]) == SOME_FILES_FAILED
    printed = capsys.readouterr()
    [row] = map(json.loads, printed.out.splitlines())
    assert row["id"] == "1.wav" and len(row["tags"]) == 50
    scores = [found["score"] for found in row["tags"]]
    assert scores == sorted(scores, reverse=True)
    assert printed.err.count("text.wav: cannot be decoded") == 2 and "1 of 2 files failed" in printed.err


def test_an_impossible_number_of_labels(mulan_folder, music, capsys):
    assert main(["tag", str(mulan_folder), str(music), "--top", "0"]) == FAILED
    assert "top must be at least 1" in capsys.readouterr().err
