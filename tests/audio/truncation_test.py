import struct

import numpy as np
import pytest
import soundfile

from muq_jax.audio.truncation import missing_end

FORMATS = {
    "wav": {},
    "24.wav": {"subtype": "PCM_24"},
    "aiff": {},
    "au": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}


def write(path, samples=24_002, **how):
    wave = 0.1 * np.random.default_rng(0).standard_normal(samples)
    soundfile.write(path, wave, 24_000, **how)
    return path.read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file_misses_nothing_and_any_cut_is_seen(tmp_path, name):
    path = tmp_path / f"a.{name}"
    data = write(path, **FORMATS[name])
    assert missing_end(path) is None
    for lost in (1, 100, len(data) // 3, len(data) * 9 // 10):
        path.write_bytes(data[:-lost])
        assert missing_end(path), lost


def test_the_message_gives_both_sizes(tmp_path):
    path = tmp_path / "a.wav"
    data = write(path)
    path.write_bytes(data[:-1_000])
    assert missing_end(path) == f"its header promises {len(data):,} bytes and it has {len(data) - 1_000:,}"


def test_chunks_around_the_samples_are_passed_over(tmp_path):
    path = tmp_path / "a.wav"
    data = write(path)
    odd = b"LIST" + struct.pack("<I", 5) + b"abcde\0"
    before = data[:12] + odd + data[12:]
    path.write_bytes(before + odd)
    assert missing_end(path) is None
    # Only a comment after the samples is lost.
    path.write_bytes(before + odd[:9])
    assert missing_end(path) is None
    path.write_bytes(before[:-1])
    assert missing_end(path)


@pytest.mark.parametrize("unknown", [0, 0xFFFFFFFF])
def test_a_length_left_open_by_a_pipe_promises_nothing(tmp_path, unknown):
    path = tmp_path / "a.wav"
    data = write(path)
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + struct.pack("<I", unknown) + data[at + 4 : -500])
    assert missing_end(path) is None


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEfmt \xff\xff\0\0", b"text" * 99]
)
def test_other_and_headless_files_promise_nothing(tmp_path, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert missing_end(path) is None


@pytest.mark.parametrize("content", [b"OggS", b"OggS" + bytes(30), b"OggS" + bytes(70_000)])
def test_an_ogg_of_damaged_pages_is_cut(tmp_path, content):
    path = tmp_path / "a.ogg"
    path.write_bytes(content)
    assert missing_end(path)
