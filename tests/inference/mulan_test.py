import json
from pathlib import Path

import numpy as np
import pytest

import muq_jax
from experiments.make_goldens import noise_wave
from experiments.original import (
    random_tensors,
    upstream_mulan_config,
)
from muq_jax.convert.reader import read_tensors, write_tensors
from muq_jax.errors import UserError
from muq_jax.inference import mulan as mulan_module
from muq_jax.models.mulan_json import mulan_from_json, mulan_to_json
from tests.models.mulan_test import small_config

GOLDEN = Path(__file__).parents[1] / "golden"
TEXTS = ["a slow piano piece", "欢快的吉他", "heavy metal with distorted guitars and screaming"]


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "mulan.npz")


@pytest.fixture(scope="module")
def mulan(mulan_folder):
    return muq_jax.MuQMuLan.from_pretrained(mulan_folder)


def test_tracks_are_cut_as_upstream_cuts_them(golden, mulan):
    waves = [noise_wave(seconds) for seconds in (12, 3, 7)]
    found = mulan(wavs=waves, sampling_rate=24_000)
    expected = np.stack([golden[f"audio_{seconds}s"] for seconds in (12, 3, 7)])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.linalg.norm(found[0]) < 1  # a mean of two clips


def test_a_track_is_heard_as_if_alone(mulan):
    waves = [noise_wave(seconds) for seconds in (3, 21, 1)]
    together = mulan.extract_audio_latents(waves, sampling_rate=24_000)
    alone = [mulan.extract_audio_latents([wave], sampling_rate=24_000)[0] for wave in waves]
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_padding_of_an_array_is_not_heard(mulan):
    batch = np.zeros((2, 48_000), np.float32)
    batch[0], batch[1, :30_000] = noise_wave(2), noise_wave(2)[:30_000]
    found = mulan(wavs=batch, sampling_rate=24_000, num_samples=[48_000, 30_000])
    alone = mulan(wavs=[batch[1, :30_000]], sampling_rate=24_000)
    np.testing.assert_allclose(found[1], alone[0], atol=2e-6)


def test_texts_do_not_depend_on_their_batch_unless_asked(mulan):
    together = mulan(texts=TEXTS)
    alone = np.concatenate([mulan(texts=[text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    upstream = mulan(texts=TEXTS, compat="upstream")
    np.testing.assert_allclose(upstream[2], alone[2], atol=2e-6)  # the longest has no padding
    assert np.abs(upstream[0] - alone[0]).max() > 0.01
    np.testing.assert_allclose(mulan(texts=TEXTS[:1], compat="upstream"), alone[:1], atol=2e-6)


def test_more_texts_than_are_read_at_a_time(mulan):
    texts = [f"{text} {i}" for i in range(13) for text in TEXTS]
    found = mulan(texts=texts)
    assert found.shape == (39, 32)
    np.testing.assert_allclose(found[[0, 38]], mulan(texts=[texts[0], texts[38]]), atol=2e-6)


def test_a_text_that_is_too_long_is_cut_with_a_warning(mulan):
    text = "piano " * 60
    with pytest.warns(UserWarning, match=r"'piano piano.*longer than 38 tokens; the end is not read"):
        found = mulan(texts=[text])
    assert np.isfinite(found).all()
    with pytest.warns(UserWarning, match=r"2 texts, the first 'piano piano") as said:
        mulan(texts=["short", text, text])
    assert len(said) == 1 and mulan.num_cut(["short", text, text]) == 2


def test_similarity(mulan):
    audio, text = np.eye(3, 5), np.arange(10.0).reshape(2, 5)
    np.testing.assert_array_equal(mulan.calc_similarity(audio, text), [[0, 5], [1, 6], [2, 7]])
    np.testing.assert_array_equal(mulan.calc_similarity(audio[1], text), [1, 6])
    np.testing.assert_array_equal(mulan.calc_similarity(audio, text[1]), [5, 6, 7])
    assert mulan.calc_similarity(audio[2], text[1]) == 7
    with pytest.raises(UserError, match=r"cannot compare shapes \(3, 5\) and \(2, 4\)"):
        mulan.calc_similarity(audio, text[:, :4])


def test_what_is_saved_is_loaded_and_upstreams_own(mulan, mulan_folder, tmp_path):
    mulan.save_pretrained(tmp_path / "saved")
    again = muq_jax.MuQMuLan.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(again(texts=TEXTS), mulan(texts=TEXTS))
    assert again.config == mulan.config
    was, now = read_tensors(mulan_folder), read_tensors(tmp_path / "saved")
    assert now.keys() - was.keys() == {"mulan.audio.model.model.conformer.embed_positions.inv_freq"}
    for name, tensor in was.items():
        np.testing.assert_array_equal(now[name], tensor)


def test_mistakes_are_named(mulan, mulan_folder, tmp_path):
    wave = noise_wave(1)
    for call, message in (
        (lambda: mulan(), "give either wavs or texts"),
        (lambda: mulan(wavs=[wave], texts=["x"], sampling_rate=24_000), "give either wavs or texts"),
        (lambda: mulan(wavs=[wave]), "wavs need sampling_rate"),
        (lambda: mulan(texts="piano"), "texts is 'piano'; expected a list"),
        (lambda: mulan(texts=["\ud800"]), "is not valid Unicode"),
        (lambda: mulan.warmup(seconds=float("nan")), "seconds is nan"),
        (lambda: mulan.warmup(batch_size=1.5), "clips 1.5"),
        (lambda: mulan(texts=[]), r"texts is \[\]; expected a list"),
        (lambda: mulan(wavs=[wave], sampling_rate=24_000, compat="x"), "compat is 'x'"),
        (lambda: mulan(texts=["a"], compat="x"), "compat is 'x'"),
        (lambda: mulan(wavs=[wave[:0]], sampling_rate=24_000), "clip 0 has no samples"),
        (lambda: muq_jax.MuQ.from_pretrained(mulan_folder), r"Load it with muq_jax\.MuQMuLan"),
        (lambda: muq_jax.MuQMuLan.from_pretrained(mulan_folder, dtype="int8"), "dtype is 'int8'"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    mute = muq_jax.MuQMuLan(mulan.config, mulan.variables)
    with pytest.raises(UserError, match=r"no tokenizer: its folder holds no tokenizer\.json"):
        mute(texts=["a"])


def test_upstreams_configuration_is_read_and_written():
    upstream = upstream_mulan_config(1024, 768, 0, 768, 8, 8, 64, 512)
    config = mulan_from_json(upstream)
    assert config == mulan_from_json({**upstream, "model_type": "mulan"})
    written = mulan_to_json(config)
    assert "muq_jax" not in written
    assert {name: written[name] for name in upstream} == upstream


def test_what_training_alone_reads_survives_the_file():
    upstream = upstream_mulan_config(1024, 768, 0, 768, 8, 8, 64, 512)
    upstream["mulan"]["decoupled_contrastive_learning"] = False
    assert mulan_to_json(mulan_from_json(upstream))["mulan"] == upstream["mulan"]


def test_texts_may_be_any_sequence(mulan):
    expected = mulan(texts=TEXTS)
    np.testing.assert_array_equal(mulan(texts=np.array(TEXTS)), expected)
    np.testing.assert_array_equal(mulan(texts=(text for text in TEXTS)), expected)


def test_small_towers_survive_the_file():
    config = small_config(2)
    assert mulan_from_json(json.loads(json.dumps(mulan_to_json(config)))) == config


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"text_model": {"name": "Qwen3", "model_dim": None}},
            r"text_model\.name is 'Qwen3'; only",
        ),
        ({"audio_model": {"name": "m-a-p/MERT-v1-330M"}}, r"audio_model\.name is 'm-a-p/MERT-v1-330M'; only"),
        ({"text_model": {"name": "xlm-roberta-base", "model_dim": 64}}, "a projection between the two"),
        ({"mulan": {"dim_latent": "512"}}, "mulan.dim_latent is '512'; expected a whole number"),
        ({"mulan": {}}, r"the key 'mulan\.dim_latent' is missing or null"),
        (
            {"mulan": {"dim_latent": 512, "hierarchical_contrastive_loss": True}},
            "hierarchical_contrastive_loss is true, which is not supported",
        ),
        ({"mulan": {"dim_latent": 512, "sr": 16_000}}, r"mulan\.sr is 16000; a MuQ hears 24000 Hz"),
    ],
)
def test_a_configuration_that_is_not_this_model_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        mulan_from_json({**upstream_mulan_config(1024, 768, 0, 768, 8, 8, 64, 512), **change})


def test_weights_of_other_towers_are_refused(golden, mulan_folder, tmp_path):
    """The file names the released towers; the tensors have other sizes."""
    tensors = random_tensors(json.loads(str(golden["shapes"])))
    (tmp_path / "config.json").write_text(json.dumps(upstream_mulan_config()))
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(UserError, match=r"text_transformer\.width is 48, roberta\.width 768"):
        muq_jax.MuQMuLan.from_pretrained(tmp_path)


def test_calls_after_warmup_compile_nothing(mulan):
    assert mulan.warmup(seconds=11, batch_size=2, num_texts=3) > 0
    before = [function._cache_size() for function in (mulan_module._hear, mulan_module._read)]
    mulan(wavs=[noise_wave(12)] * 2, sampling_rate=24_000)
    mulan(texts=["a", "b", "c"])
    assert [function._cache_size() for function in (mulan_module._hear, mulan_module._read)] == before
