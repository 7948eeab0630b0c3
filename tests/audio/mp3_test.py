import numpy as np
import pytest
import soundfile

from muq_jax.audio import mp3


def encode(path, rate, channels, seconds=1.5, mode="VARIABLE"):
    rng = np.random.default_rng(0)
    wave = 0.1 * rng.standard_normal((round(rate * seconds), channels)).cumsum(axis=0) % 1 - 0.5
    soundfile.write(path, wave, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return path.read_bytes()


def stated_frames(data):
    return int.from_bytes(data[(at := data.index(b"Xing") + 8) : at + 4], "big")


def without_first_frame(data):
    """From the second frame on: the first, of an encoder that knows its trade, holds the length."""
    starts = list(mp3._frame_starts(data))
    return data[starts[1] :]


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_stream_gets_the_length_it_had(tmp_path, rate, channels):
    path = tmp_path / "a.mp3"
    data = encode(path, rate, channels)
    assert mp3.states_length(path)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)

    path.write_bytes(without_first_frame(data))
    assert not mp3.states_length(path)
    mended = mp3.with_length(path.read_bytes())
    per_frame = 1_152 if rate >= 32_000 else 576
    path.write_bytes(mended)
    assert mp3.states_length(path)
    decoded, found_rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert (found_rate, decoded.shape[1]) == (rate, channels)
    # libsndfile takes 529 samples off the front, the decoder's own delay.
    assert len(decoded) == stated_frames(mended) * per_frame - 529
    assert 0 <= len(decoded) - len(whole) < 5 * per_frame
    # The same samples, later by what went with the first frame: the record of the encoder's delay.
    middle = slice(len(whole) // 2, len(whole) // 2 + rate // 4)
    np.testing.assert_allclose(np.roll(decoded, -576, axis=0)[middle], whole[middle], atol=1e-6)


def test_tags_and_damage_are_passed_over(tmp_path):
    data = without_first_frame(encode(tmp_path / "a.mp3", 44_100, 2))
    frames = stated_frames(mp3.with_length(data))
    starts = list(mp3._frame_starts(data))
    id3 = b"ID3\4\0\0" + bytes([0, 0, 2, 10]) + b"\xff\xfb\x90\x44" * 66 + b"\0\0"
    assert len(id3) == 10 + 2 * 128 + 10
    hole = data[: starts[9]] + b"\xff\xfb garbage \xff\xe2" + data[starts[10] :]
    assert stated_frames(mp3.with_length(id3 + data)) == frames
    assert stated_frames(mp3.with_length(data + b"TAG" + bytes(125))) == frames
    assert stated_frames(mp3.with_length(hole)) == frames - 1
    # Cut out of the middle of a frame: what is left of it goes.
    assert mp3.with_length(data[starts[3] + 7 :])[1_000:] == mp3.with_length(data[starts[4] :])[1_000:]


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"no frames here " * 100, b"\xff\xfb\x90\x44", b"\xff" * 1_000]
)
def test_what_holds_no_frames_is_left_alone(data):
    assert mp3.with_length(data) == data
