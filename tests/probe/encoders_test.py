import types

import jax
import librosa
import numpy as np
import pytest

from muq_jax import MuQ, MuQMuLan
from muq_jax.errors import UserError
from muq_jax.probe.encoders import (
    CallableEncoder,
    MuQEncoder,
    load_encoder,
    log_mel,
    mean_over_time,
    untrained,
)

RATE = 24_000


def chirp(seconds=1.0):
    return librosa.chirp(fmin=100, fmax=4000, sr=RATE, duration=seconds).astype(np.float32)


def librosa_bands(wave):
    """[64, T] in dB."""
    mel = librosa.feature.melspectrogram(
        y=wave, sr=RATE, n_fft=2048, hop_length=480, n_mels=64, htk=True, norm=None, pad_mode="reflect"
    )[:, :-1]
    return librosa.power_to_db(mel, amin=1e-10, top_db=None)


def padded(waves):
    """[B, S] and the lengths, with rubbish where a wave has ended."""
    lengths = np.array([len(wave) for wave in waves], np.int32)
    batch = np.full((len(waves), lengths.max()), 0.7, np.float32)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = wave
    return batch, lengths


def test_log_mel_statistics_are_those_of_librosa():
    waves = [chirp(), chirp(0.37)]
    found = log_mel().pooled(*padded(waves))
    assert found.shape == (2, 1, 192) and found.dtype == np.float32
    for row, wave in zip(found, waves, strict=True):
        mel = librosa_bands(wave)
        expected = np.concatenate([mel.mean(1), mel.std(1), np.abs(np.diff(mel)).mean(1)])
        np.testing.assert_allclose(row[0], expected, atol=0.02)


def test_log_mel_frames_are_two_of_librosa_s_side_by_side():
    waves = [chirp(), chirp(0.37)]
    found, num_valid = log_mel().frames(*padded(waves))
    assert num_valid.tolist() == [25, 9] and found.shape == (2, 1, 25, 128)
    for row, valid, wave in zip(found, num_valid, waves, strict=True):
        expected = librosa_bands(wave).T[: 2 * valid].reshape(valid, 128)
        np.testing.assert_allclose(row[0, :valid], expected, atol=0.02)
        assert not row[0, valid:].any()


@pytest.mark.parametrize("num_samples", [1025, 1439, 1440, 1920])
def test_the_shortest_waves_have_log_mel_features(num_samples):
    wave, lengths = padded([chirp()[:num_samples]])
    assert np.isfinite(log_mel().pooled(wave, lengths)).all()
    frames, num_valid = log_mel().frames(wave, lengths)
    assert np.isfinite(frames).all() and num_valid.tolist() == [max(1, num_samples // 960)]


class Counting:
    """A token is 960 samples; layer l holds the token's mean times l + 1, and padding holds rubbish."""

    def __call__(self, wavs, *, sampling_rate, num_samples):
        assert sampling_rate == RATE
        tokens = wavs[:, : wavs.shape[1] // 960 * 960].reshape(len(wavs), -1, 960).mean(-1)
        num_valid = np.maximum(num_samples // 960, 1)
        rubbish = np.arange(tokens.shape[1]) >= num_valid[:, None]
        hidden = np.where(rubbish, np.nan, tokens)[..., None]
        return types.SimpleNamespace(
            hidden_states=[hidden * (layer + 1) for layer in range(3)], num_valid=num_valid
        )


def test_means_are_over_valid_tokens():
    rng = np.random.default_rng(0)
    waves = [rng.normal(size=n).astype(np.float32) for n in (4800, 9600, 1920, 960 * 7, 1025)]
    found = CallableEncoder("counting", Counting(), 25.0).pooled(*padded(waves))
    assert found.shape == (5, 3, 1) and found.dtype == np.float32
    expected = [w[: len(w) // 960 * 960].mean() for w in waves]
    np.testing.assert_allclose(found[:, 0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(found[:, 2], 3 * found[:, 0], rtol=1e-5)


@pytest.mark.parametrize("mistake", ["two shapes", "no valid token", "one count for all"])
def test_a_callable_that_is_not_like_muq_is_named(mistake):
    def call(wavs, *, sampling_rate, num_samples):
        states = [np.zeros((len(wavs), 5, 4)), np.zeros((len(wavs) + (mistake == "two shapes"), 5, 4))]
        counts = np.full(1 if mistake == "one count for all" else len(wavs), mistake != "no valid token")
        return types.SimpleNamespace(hidden_states=states, num_valid=counts.astype(int))

    with pytest.raises(UserError, match="hidden_states" if mistake == "two shapes" else "num_valid"):
        CallableEncoder("theirs", call).pooled(*padded([chirp(0.2), chirp(0.1)]))


def test_a_muq_s_features_are_its_hidden_states(muq_folder):
    muq = MuQ.from_pretrained(muq_folder)
    encoder = MuQEncoder(muq, "muq")
    waves, lengths = padded([chirp(0.5), chirp(0.3)])
    frames, num_valid = encoder.frames(waves, lengths)
    out = muq(waves, sampling_rate=RATE, num_samples=lengths)
    assert num_valid.tolist() == np.asarray(out.num_valid).tolist()
    assert num_valid[1] < num_valid[0] == frames.shape[2], "the second is padded"
    for layer, state in enumerate(out.hidden_states):
        for row, valid in enumerate(num_valid):
            expected = np.asarray(state)[row, :valid]
            np.testing.assert_allclose(frames[row, layer, :valid], expected, atol=2e-5)
    np.testing.assert_array_equal(encoder.pooled(waves, lengths), mean_over_time(frames, num_valid))


def test_an_untrained_encoder_has_the_sizes_and_not_the_weights(muq_folder, tmp_path):
    muq = MuQ.from_pretrained(muq_folder)
    assert muq.config.rvq is not None
    one, same, other = (untrained(muq, seed) for seed in (0, 0, 1))
    assert one.config == muq.config
    leaves = [jax.tree.leaves(model.params) for model in (muq, one, same, other)]
    assert [leaf.shape for leaf in leaves[1]] == [leaf.shape for leaf in leaves[0]]
    assert all((a == b).all() for a, b in zip(leaves[1], leaves[2], strict=True))
    digests = [MuQEncoder(model, "the same name").digest for model in (muq, one, same, other)]
    assert digests[1] == digests[2] and len(set(digests)) == 3

    one.save_pretrained(tmp_path / "fresh")
    fresh = MuQ.from_pretrained(tmp_path / "fresh")
    codebooks = [model.variables["rvq"]["params"]["codebook"] for model in (muq, fresh)]
    np.testing.assert_array_equal(*codebooks)
    heads = [model.variables["params"]["head"]["kernel"] for model in (muq, one, fresh)]
    assert np.abs(heads[0] - heads[1]).max() > 0
    np.testing.assert_array_equal(heads[1], heads[2])


def test_a_mulan_gives_its_vector(mulan_folder):
    mulan = load_encoder(str(mulan_folder), "joint")
    waves = np.random.default_rng(0).normal(size=(2, 30_000)).astype(np.float32) / 10
    lengths = np.array([30_000, 12_000], np.int32)
    pooled = mulan.pooled(waves, lengths)
    expected = MuQMuLan.from_pretrained(mulan_folder)(
        wavs=[waves[0], waves[1, :12_000]], sampling_rate=24_000
    )
    assert mulan.name == "joint" and mulan.frame_rate_hz is None
    np.testing.assert_allclose(pooled[:, 0], expected, atol=1e-6)
    with pytest.raises(UserError, match="one vector a clip"):
        mulan.frames(waves, lengths)


def test_names_of_floors_and_of_untrained_presets():
    assert load_encoder("logmel").name == "logmel" and load_encoder("cqt", "floor").name == "floor"
    assert load_encoder("logmel", "other").digest == load_encoder("logmel").digest
