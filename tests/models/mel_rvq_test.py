import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.audio.mel import MelConfig, log_mel, normalize
from muq_jax.models import mel_rvq
from muq_jax.models.config import MelRVQConfig
from muq_jax.quantize.rvq import RVQConfig, quantize


def small(label_rate=25):
    width = 128 * 100 // label_rate
    return MelRVQConfig(rvq=RVQConfig(num_books=3, num_codes=32, input_dim=width), label_rate=label_rate)


@pytest.fixture(scope="module")
def wave():
    return 0.1 * np.random.default_rng(0).normal(size=(2, 10_000)).astype(np.float32)


def test_frames_are_stacked_slowest_and_the_rest_dropped():
    mel = np.arange(2 * 11 * 3).reshape(2, 11, 3)
    stacked = mel_rvq.stack_frames(jnp.asarray(mel), 4)
    assert stacked.shape == (2, 2, 12)
    np.testing.assert_array_equal(stacked[1, 1, 3:6], mel[1, 5])
    np.testing.assert_array_equal(mel_rvq.unstack_frames(stacked, 4), mel[:, :8])


@pytest.mark.parametrize(("label_rate", "tokens"), [(25, 10), (50, 20)])
def test_stacked_mel_and_its_valid_tokens(wave, label_rate, tokens):
    config = small(label_rate)
    num_samples = jnp.array([10_000, 5_000])
    stacked, valid = mel_rvq.stacked_mel(
        wave, num_samples, mel=config.mel, frames_per_token=config.frames_per_token
    )
    assert stacked.shape == (2, tokens, config.rvq.input_dim)
    # 5,000 samples are 20 frames: 5 tokens of 4 or 10 of 2.
    assert valid.sum(1).tolist() == [tokens, tokens // 2]
    assert mel_rvq.num_tokens(num_samples, config).tolist() == [tokens, tokens // 2]
    mel = normalize(log_mel(wave[:1]), MelConfig())  # 41 frames
    np.testing.assert_allclose(stacked[0].reshape(-1, 128), mel[0, :40], atol=1e-5)


def test_codes_of_a_padded_clip_are_those_of_the_clip_alone(wave):
    config = small()
    variables = mel_rvq.init(jax.random.key(0), config)
    codes = mel_rvq.encode(variables, wave, jnp.array([10_000, 5_000]), config=config)
    assert codes.shape == (2, 10, 3) and codes.dtype == jnp.int32
    alone = mel_rvq.encode(variables, wave[1:, :5_000], config=config)
    np.testing.assert_array_equal(codes[1, :5], alone[0])


def test_decode_is_the_reconstruction_in_db_frame_by_frame(wave):
    config = small()
    variables = mel_rvq.init(jax.random.key(0), config)
    codes = mel_rvq.encode(variables, wave, config=config)
    stacked, _ = mel_rvq.stacked_mel(wave, mel=config.mel, frames_per_token=4)
    output = quantize(variables["params"], stacked, None, config.rvq)
    mel_db = mel_rvq.decode(variables, codes, config=config)
    assert mel_db.shape == (2, 40, 128)
    want = output.quantized.reshape(2, 40, 128) * config.mel.std + config.mel.mean
    np.testing.assert_allclose(mel_db, want, atol=1e-3)
    for n, error in enumerate(output.errors, start=1):
        prefix = mel_rvq.decode(variables, codes, config=config, num_books=n)
        off = jnp.abs(normalize(prefix, config.mel) - stacked.reshape(2, 40, 128)).mean()
        np.testing.assert_allclose(off, error, rtol=1e-4)
