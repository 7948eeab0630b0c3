import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muq_jax.data.shards import decode_record, encode_record
from muq_jax.errors import UserError

HEADER = {"id": "ä@30", "sample_rate_hz": 24000}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["flac", "pcm16"]), st.integers(1, 5000), st.integers(0, 2**32 - 1))
def test_sixteen_bits_come_back_exactly(codec, num_samples, seed):
    wave = np.random.default_rng(seed).integers(-32768, 32768, num_samples).astype(np.float32) / 32768
    header, back = decode_record(encode_record(HEADER, wave, codec))
    np.testing.assert_array_equal(back, wave)
    assert back.dtype == np.float32
    assert header == {**HEADER, "num_samples": num_samples, "codec": codec}


def test_other_values_are_rounded_and_the_too_loud_clipped():
    wave = np.array([0.1, -0.3, 1.7, -2.0], np.float32)
    _, back = decode_record(encode_record(HEADER, wave, "pcm16"))
    np.testing.assert_allclose(back[:2], wave[:2], atol=0.5 / 32768)
    np.testing.assert_array_equal(back[2:], np.float32([32767 / 32768, -1]))


def test_flac_is_the_smaller():
    wave = 0.5 * np.sin(np.arange(24000) / 20).astype(np.float32)
    assert len(encode_record(HEADER, wave, "flac")) < 0.7 * len(encode_record(HEADER, wave, "pcm16"))


@pytest.mark.parametrize("codec", ["flac", "pcm16"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-100], lambda b: b[:2], lambda b: b"\0" * len(b), lambda b: b"garbage" * 9]
)
def test_damaged_bytes_are_named(codec, damage):
    record = encode_record(HEADER, np.ones(3000, np.float32) / 2, codec)
    with pytest.raises(UserError, match="shards, record 7"):
        decode_record(damage(record), "shards, record 7")


def test_an_unknown_codec():
    with pytest.raises(ValueError, match="mp3"):
        encode_record(HEADER, np.zeros(3, np.float32), "mp3")
