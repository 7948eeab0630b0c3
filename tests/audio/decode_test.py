import builtins

import librosa
import numpy as np
import pytest
import soundfile

from muq_jax.audio import decode
from muq_jax.audio.decode import audio_info, load_audio, resample, stream_audio
from muq_jax.errors import UserError

# suffix: how soundfile writes it, the largest error after a round trip (lossy codecs: of a sine's middle)
FORMATS = {
    "16.wav": ({"subtype": "PCM_16"}, 4e-5),
    "24.wav": ({"subtype": "PCM_24"}, 1e-6),
    "32.wav": ({"subtype": "PCM_32"}, 1e-6),
    "u8.wav": ({"subtype": "PCM_U8"}, 1e-2),
    "float.wav": ({"subtype": "FLOAT"}, 1e-6),
    "double.wav": ({"subtype": "DOUBLE"}, 1e-6),
    "ulaw.wav": ({"subtype": "ULAW"}, 2e-2),
    "flac": ({"subtype": "PCM_16"}, 4e-5),
    "24.flac": ({"subtype": "PCM_24"}, 1e-6),
    "aiff": ({}, 4e-5),
    "au": ({}, 4e-5),
    "caf": ({}, 4e-5),
    "ogg": ({}, 3e-2),
    "opus": ({"format": "OGG", "subtype": "OPUS"}, 3e-2),
    "cbr.mp3": ({"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.5}, 3e-2),
    "vbr.mp3": ({"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.5}, 3e-2),
}


def sine(hz, rate, seconds, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def notes(rate=44_100, seconds=4.0, seed=0):
    """Struck notes with noisy onsets: what makes a variable bit rate vary."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(rate * seconds)) / rate
    wave = sum(
        0.2 * np.sin(2 * np.pi * hz * t) * np.exp(-6 * (t % every))
        for hz, every in zip((220, 277, 660), (0.5, 0.7, 0.31), strict=True)
    )
    return (wave + 0.1 * rng.standard_normal(t.size) * (t % 0.5 < 0.03)).astype(np.float32)


def level_and_hz(wave, rate=24_000):
    """Amplitude and frequency of a sine, by the peak of its windowed spectrum."""
    middle = wave[len(wave) // 4 : -len(wave) // 4]
    window = np.hanning(len(middle))
    spectrum = np.abs(np.fft.rfft(middle * window, 8 * len(middle)))
    peak = spectrum.argmax()
    return 2 * spectrum[peak] / window.sum(), peak * rate / (8 * len(middle))


@pytest.fixture
def write(tmp_path):
    def write(name, wave, rate=24_000, **how):
        soundfile.write(tmp_path / name, wave, rate, **how)
        return tmp_path / name

    return write


def cut(path, fraction):
    short = path.with_name(f"short.{path.name}")
    data = path.read_bytes()
    short.write_bytes(data[: int(len(data) * fraction)])
    return short


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_decodes_to_what_was_written(write, name):
    how, tolerance = FORMATS[name]
    rate = 48_000 if name == "opus" else 44_100
    wave = sine(440, rate, 1.5)
    path = write(f"a.{name}", wave, rate, **how)
    info = audio_info(path)
    assert (info.sample_rate_hz, info.num_channels, info.num_samples) == (rate, 1, len(wave))
    decoded = load_audio(path, sample_rate_hz=rate, require_complete=True)
    assert decoded.dtype == np.float32 and decoded.shape == wave.shape
    middle = slice(rate // 4, -rate // 4)
    assert np.abs(decoded - wave)[middle].max() < tolerance


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_a_sine_keeps_its_pitch_level_and_length(write, rate):
    path = write("a.wav", sine(440, rate, 2.0), rate, subtype="FLOAT")
    wave = load_audio(path)
    assert abs(len(wave) - 48_000) <= 1
    level, hz = level_and_hz(wave)
    assert abs(level - 0.5) < 1e-4
    assert abs(hz - 440) < 0.2


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("samples", [1_025, 4_999, 30_001])
def test_length_is_the_rounded_ratio_within_one(write, rate, samples):
    path = write("a.wav", np.zeros(samples), rate)
    assert abs(len(load_audio(path)) - round(samples * 24_000 / rate)) <= 1


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged_or_one_is_taken(write, channels):
    wave = np.stack([sine(100 * (c + 1), 24_000, 0.5) for c in range(channels)], axis=1)
    path = write("a.wav", wave, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path), wave.mean(axis=1), atol=1e-7)
    for c in range(channels):
        np.testing.assert_array_equal(load_audio(path, channel=c), wave[:, c])


@pytest.mark.parametrize("channel", [2, -1])
def test_a_channel_that_is_not_there(write, channel):
    path = write("a.wav", np.zeros((2_000, 2)))
    with pytest.raises(UserError, match=rf"a\.wav: has no channel {channel}; it has 2"):
        load_audio(path, channel=channel)
    with pytest.raises(ValueError, match="'left'"):
        load_audio(path, channel="left")


def test_resample_works_along_the_last_axis_and_matches_loading(write):
    wave = np.stack([notes(seed=s) for s in range(4)]).reshape(2, 2, -1)
    out = resample(wave, 44_100, 24_000)
    assert out.shape == (2, 2, 96_000) and out.dtype == np.float32
    path = write("a.wav", wave[1, 0], 44_100, subtype="FLOAT")
    np.testing.assert_array_equal(out[1, 0], load_audio(path))
    assert resample(wave, 24_000, 24_000) is wave
    assert resample(np.zeros((2, 0)), 44_100, 24_000).shape == (2, 0)


@pytest.mark.parametrize("name, rate", [("16.wav", 44_100), ("vbr.mp3", 48_000), ("ogg", 22_050)])
def test_a_file_loads_as_librosa_loads_it(write, name, rate):
    how, _ = FORMATS[name]
    stereo = np.stack([notes(rate, seed=0), notes(rate, seed=1)], axis=1)
    path = write(f"a.{name}", stereo, rate, **how)
    expected, _ = librosa.load(path, sr=24_000)
    np.testing.assert_allclose(load_audio(path), expected[:96_000], atol=1e-6)


def test_nothing_above_the_new_nyquist_frequency_folds_back(write):
    path = write("a.wav", sine(15_000, 44_100, 1.0), 44_100, subtype="FLOAT")
    assert np.abs(load_audio(path)[1_000:-1_000]).max() < 1e-6


@pytest.mark.parametrize("name", ["vbr.mp3", "cbr.mp3", "ogg", "flac"])
def test_a_stream_is_the_whole_file_to_the_bit(write, monkeypatch, name):
    how, _ = FORMATS[name]
    path = write(f"a.{name}", notes(), 44_100, **how)
    whole, _ = soundfile.read(path, dtype="float32")
    monkeypatch.setattr(decode, "BLOCK_SAMPLES", 10_007)
    blocks = list(stream_audio(path, sample_rate_hz=44_100))
    assert len(blocks) > 10
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    in_blocks = load_audio(path)
    monkeypatch.undo()
    np.testing.assert_array_equal(in_blocks, load_audio(path))


def test_soundfiles_own_blocks_differ_on_vbr_mp3(write):
    """Why files are not read through `soundfile.blocks`: it seeks after every read. When this fails, it may
    be used."""
    how, _ = FORMATS["vbr.mp3"]
    path = write("a.mp3", notes(), 44_100, **how)
    whole, _ = soundfile.read(path, dtype="float32")
    blocks = np.concatenate(list(soundfile.blocks(path, 10_007, dtype="float32")))
    assert np.abs(blocks - whole).max() > 1e-3


@pytest.mark.parametrize("name", ["16.wav", "aiff", "au", "ogg", "opus", "cbr.mp3", "vbr.mp3"])
@pytest.mark.parametrize("fraction", [0.6, 0.9])
def test_a_file_cut_short_is_found_on_demand(write, name, fraction):
    how, _ = FORMATS[name]
    rate = 48_000 if name == "opus" else 44_100
    whole = write(f"a.{name}", notes(rate), rate, **how)
    load_audio(whole, require_complete=True)
    path = cut(whole, fraction)
    assert 0.3 * fraction < len(load_audio(path)) / 96_000 < 1.2 * fraction
    with pytest.raises(UserError, match=rf"{path.name}: was cut short: its"):
        load_audio(path, require_complete=True)


@pytest.mark.parametrize("name", ["flac", "caf"])
def test_a_flac_or_caf_cut_short_is_always_refused(write, name):
    path = cut(write(f"a.{name}", notes(), 44_100), 0.5)
    with pytest.raises(UserError, match=f"{path.name}: cannot be decoded"):
        load_audio(path)


def test_a_corrupt_middle_is_refused(write):
    path = write("a.flac", notes(), 44_100)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2_000] = bytes(2_000)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.flac: cannot be decoded"):
        load_audio(path)


def test_an_mp3_without_its_length_decodes_whole(write):
    """Loud first, so that the length guessed from the first frames is far too short."""
    rng = np.random.default_rng(0)
    loud, soft = 0.5 * rng.standard_normal(22_050), 0.1 * np.sin(np.arange(10 * 44_100) / 20)
    how, _ = FORMATS["vbr.mp3"]
    path = write("a.mp3", np.concatenate([loud, soft]), 44_100, **how)
    expected = load_audio(path)
    data = path.read_bytes()
    second_frame = data.index(b"\xff\xfb", 4)
    path.write_bytes(data[second_frame:])
    assert audio_info(path).num_samples is None
    with soundfile.SoundFile(path) as file:
        assert file.frames < 5 * 44_100
    wave = load_audio(path, require_complete=True)
    assert abs(len(wave) - len(expected)) < 0.1 * 24_000


def test_a_flac_without_its_length_decodes_whole(write):
    path = write("a.flac", notes(), 44_100)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the low 36 bits of the stream information's total: zero is "unknown"
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert audio_info(path).num_samples is None
    assert len(load_audio(path, require_complete=True)) == 96_000


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".flac", ".ogg", ".txt", ""])
@pytest.mark.parametrize("content", [b"not audio at all\n" * 500, bytes(5_000)])
def test_what_is_not_audio_is_named(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    for function in (audio_info, load_audio):
        with pytest.raises(UserError, match=rf"a{suffix}: cannot be decoded: Format not recognised"):
            function(path)


def test_missing_folder_empty_and_raw_files_are_named(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "a.raw").write_bytes(bytes(100))
    for name, reason in [
        ("none.wav", "no such file"),
        ("folder.wav", "is a folder"),
        ("empty.mp3", r"is empty \(0 bytes\)"),
        ("a.raw", "raw samples do not say"),
    ]:
        for function in (audio_info, load_audio):
            with pytest.raises(UserError, match=f"{name}: {reason}"):
                function(tmp_path / name)


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au"])
def test_no_samples_is_an_error(write, name):
    path = write(name, np.zeros(0))
    with pytest.raises(UserError, match=f"{name}: holds no samples"):
        load_audio(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_an_error_that_says_where(write, value, monkeypatch):
    monkeypatch.setattr(decode, "BLOCK_SAMPLES", 1_000)
    wave = np.zeros((48_000, 2), np.float32)
    wave[36_001, 1] = value
    path = write("a.wav", wave, 48_000, subtype="FLOAT")
    with pytest.raises(UserError, match=rf"a\.wav: sample 36001 \(0\.750 s\) is {value}"):
        load_audio(path)
    assert not load_audio(path, channel=0).any()


def test_samples_over_full_scale_are_kept(write):
    path = write("a.wav", 3 * sine(440, 24_000, 0.1), subtype="FLOAT")
    assert 1.4 < load_audio(path).max() < 1.6


def test_a_suffix_does_not_have_to_tell_the_truth(write):
    path = write("a.flac", notes(), 44_100)
    renamed = path.rename(path.with_suffix(".mp3"))
    assert audio_info(renamed).format == "FLAC"
    assert len(load_audio(renamed)) == 96_000


def write_m4a(path, wave, rate, title="", **options):
    av = pytest.importorskip("av")
    wave = np.atleast_2d(wave)
    with av.open(
        str(path), "w", format="ipod" if path.suffix == ".m4a" else None, options=options
    ) as container:
        container.metadata["title"] = title
        stream = container.add_stream("aac", rate=rate, layout="stereo" if wave.shape[0] == 2 else "mono")
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout=stream.layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


@pytest.mark.parametrize("name, rate", [("a.m4a", 44_100), ("a.m4a", 24_000), ("a.aac", 48_000)])
def test_aac_decodes_through_pyav(tmp_path, name, rate):
    wave = np.stack([sine(440, rate, 2.0), np.zeros(2 * rate, np.float32)])
    path = write_m4a(tmp_path / name, wave, rate)
    info = audio_info(path)
    assert (info.sample_rate_hz, info.num_channels) == (rate, 2)
    decoded = load_audio(path, channel=0, require_complete=True)
    assert abs(len(decoded) / 24_000 - 2.0) < 0.1
    level, hz = level_and_hz(decoded)
    assert abs(level - 0.5) < 0.01 and abs(hz - 440) < 0.3
    assert abs(level_and_hz(load_audio(path))[0] - 0.25) < 0.01


def test_an_m4a_is_known_by_its_content(tmp_path):
    path = write_m4a(tmp_path / "a.m4a", sine(440, 44_100, 1.0), 44_100)
    assert audio_info(path).num_samples == pytest.approx(44_100, abs=2_200)
    renamed = path.rename(tmp_path / "a.mp3")
    assert len(load_audio(renamed)) == pytest.approx(24_000, abs=1_200)


# The index lies at the end of the file, or with "faststart" at its beginning: what is there then decodes.
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.9])
def test_an_m4a_cut_short_is_refused(tmp_path, fraction, options):
    whole = write_m4a(tmp_path / "a.m4a", notes(), 44_100, **options)
    load_audio(whole, require_complete=True)
    path = cut(whole, fraction)
    with pytest.raises(UserError, match=f"{path.name}: "):
        load_audio(path, require_complete=True)


def test_tags_in_another_encoding_do_no_harm(tmp_path):
    path = write_m4a(tmp_path / "a.m4a", sine(440, 24_000, 0.5), 24_000, title="xxeyy")
    data = path.read_bytes()
    assert data.count(b"xxeyy") == 1
    before = load_audio(path)
    path.write_bytes(data.replace(b"xxeyy", "xxéyy".encode("latin-1")))
    np.testing.assert_array_equal(load_audio(path), before)


def test_a_codec_that_nothing_decodes_is_named(tmp_path):
    path = write_m4a(tmp_path / "a.m4a", sine(440, 24_000, 0.5), 24_000)
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"free"))
    with pytest.raises(UserError, match=r"a\.m4a: holds no audio that can be decoded"):
        audio_info(path)


def test_what_pyav_refuses_to_open_is_named(tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    path = write_m4a(tmp_path / "a.m4a", sine(440, 24_000, 0.5), 24_000)

    def refuse(*args, **options):
        raise ValueError("odd metadata")

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(UserError, match=r"a\.m4a: cannot be decoded: odd metadata"):
        load_audio(path)


@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
def test_a_name_that_is_not_utf8(tmp_path, name):
    wave = sine(440, 24_000, 0.5)
    path = tmp_path / name
    if name == "a.wav":
        soundfile.write(path, wave, 24_000)
    else:
        write_m4a(path, wave, 24_000)
    before = load_audio(path)
    renamed = path.rename(tmp_path / f"caf\udce9{path.suffix}")
    np.testing.assert_array_equal(load_audio(renamed), before)


@pytest.mark.parametrize("rate", [1, 999, 768_001])
def test_a_sample_rate_that_nothing_has(write, rate):
    path = write("a.wav", np.ones(2_000), rate)
    for function in (audio_info, load_audio):
        with pytest.raises(UserError, match=rf"a\.wav: its header says {rate} Hz; expected 1000 to 768000"):
            function(path)


def test_without_pyav_the_error_names_the_file_and_the_package(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "av":
            raise ImportError("No module named 'av'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"a\.m4a: .*pip install av$"):
        load_audio(tmp_path / "a.m4a")


def test_extensions_are_lower_case_suffixes():
    assert {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aiff"} <= decode.AUDIO_EXTENSIONS
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in decode.AUDIO_EXTENSIONS)
