import types
from functools import partial

import librosa
import numpy as np
import pytest

from muq_jax.data.manifest import Clip
from muq_jax.probe.features import LabelledClip, hidden_state_means, labelled_clip, log_mel_statistics


def clip(wave: np.ndarray, name: str = "x") -> LabelledClip:
    return LabelledClip(name, "train", {}, partial(np.array, wave.astype(np.float32)))


class CountingEncoder:
    """A token is 960 samples; layer l holds the token's mean times l + 1, and padding holds rubbish."""

    def __init__(self):
        self.shapes = set()

    def __call__(self, wavs, *, sampling_rate, num_samples):
        assert sampling_rate == 24_000
        self.shapes.add(wavs.shape)
        tokens = wavs[:, : wavs.shape[1] // 960 * 960].reshape(len(wavs), -1, 960).mean(-1)
        num_valid = np.maximum(num_samples // 960, 1)
        rubbish = np.arange(tokens.shape[1]) >= num_valid[:, None]
        hidden = np.where(rubbish, np.nan, tokens)[..., None]
        return types.SimpleNamespace(
            hidden_states=[hidden * (layer + 1) for layer in range(3)], num_valid=num_valid
        )


def test_means_are_over_valid_tokens_and_shapes_are_static():
    rng = np.random.default_rng(0)
    waves = [rng.normal(size=n) for n in (4800, 9600, 24_000, 1920, 960 * 7)]
    encoder = CountingEncoder()
    means = hidden_state_means(encoder, [clip(w) for w in waves], clip_seconds=0.4, batch_size=2)
    assert means.shape == (3, 5, 1)
    assert means.dtype == np.float32
    assert encoder.shapes == {(2, 9600)}
    expected = [w[:9600].mean() for w in waves]
    np.testing.assert_allclose(means[0, :, 0], expected, atol=1e-6)
    np.testing.assert_allclose(means[2, :, 0], 3 * means[0, :, 0], rtol=1e-5)


def test_log_mel_statistics_are_those_of_librosa():
    wave = librosa.chirp(fmin=100, fmax=4000, sr=24_000, duration=1.0).astype(np.float32)
    mel = librosa.feature.melspectrogram(
        y=wave, sr=24_000, n_fft=2048, hop_length=480, n_mels=64, htk=True, norm=None, pad_mode="reflect"
    )[:, :-1]
    mel = librosa.power_to_db(mel, amin=1e-10, top_db=None)
    expected = np.concatenate([mel.mean(1), mel.std(1), np.abs(np.diff(mel)).mean(1)])
    found = log_mel_statistics([clip(wave)], clip_seconds=5)
    assert found.shape == (1, 1, 192)
    np.testing.assert_allclose(found[0, 0], expected, atol=0.02)


@pytest.mark.parametrize("num_samples", [0, 1, 500])
def test_clips_shorter_than_a_window_are_padded(num_samples):
    found = log_mel_statistics([clip(np.ones(num_samples))], clip_seconds=1)
    assert np.isfinite(found).all()
    means = hidden_state_means(CountingEncoder(), [clip(np.ones(num_samples))], clip_seconds=1)
    assert np.isfinite(means).all()


def test_a_clip_of_a_manifest_is_decoded_when_it_is_needed(tmp_path):
    import soundfile

    row = Clip(id="a", path=tmp_path / "a.wav", split="val")
    made = labelled_clip(row, {"genre": "folk"})
    assert (made.id, made.split, made.labels["genre"]) == ("a", "val", "folk")
    soundfile.write(tmp_path / "a.wav", np.full(480, 0.5, np.float32), 24_000, subtype="FLOAT")
    np.testing.assert_array_equal(made.load(), np.full(480, 0.5, np.float32))


def test_an_untrained_encoder_has_the_sizes_and_not_the_weights():
    import jax

    from muq_jax.models.config import muq_config
    from muq_jax.probe.features import untrained

    small = {"width": 16, "num_layers": 1, "num_heads": 2, "ffn_width": 16}
    config = muq_config("smoke", conformer=small, rvq=None)
    model = types.SimpleNamespace(config=config, sample_rate_hz=24_000, variables={})
    one, same, other = (untrained(model, seed) for seed in (0, 0, 1))
    assert one.config == config
    leaves = [jax.tree.leaves(encoder.params) for encoder in (one, same, other)]
    assert all((a == b).all() for a, b in zip(leaves[0], leaves[1], strict=True))
    assert any((a != b).any() for a, b in zip(leaves[0], leaves[2], strict=True))


def test_an_untrained_encoder_can_be_saved_with_the_mel_rvq_of_the_trained(muq_folder, tmp_path):
    from muq_jax import MuQ
    from muq_jax.probe.features import untrained

    muq = MuQ.from_pretrained(muq_folder)
    assert muq.config.rvq is not None
    untrained(muq, seed=0).save_pretrained(tmp_path / "fresh")
    fresh = MuQ.from_pretrained(tmp_path / "fresh")
    codebooks = [m.variables["rvq"]["params"]["codebook"] for m in (muq, fresh)]
    np.testing.assert_array_equal(*codebooks)
    heads = [m.variables["params"]["head"]["kernel"] for m in (muq, fresh)]
    assert np.abs(heads[0] - heads[1]).max() > 0
