"""Labels are checked against the sound itself, by librosa, mir_eval and plain Fourier analysis."""

import collections
import itertools
import json
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import grain
import librosa
import mir_eval
import numpy as np
import pytest

from muq_jax.data.toy_composition import KEYS, STYLES, TONICS
from muq_jax.data.toy_music import (
    NOTE_PITCHES,
    ToyMusicSource,
    make_clip,
    to_pcm16,
)
from muq_jax.data.toy_synthesis import BASSES, LEADS, frequency_of, render_drum, render_note
from muq_jax.errors import UserError

ROOT = Path(__file__).parents[2]
RATE = 24_000
NUM_CLIPS = 32  # 24 songs: one in every key
# Krumhansl and Kessler's key profiles, from C.
PROFILES = {
    "maj": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "min": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
TRIADS = {"maj": (0, 4, 7), "min": (0, 3, 7)}


@pytest.fixture(scope="module")
def clips():
    return [make_clip(index) for index in range(NUM_CLIPS)]


@pytest.fixture(scope="module")
def songs(clips):
    return [clip for clip in clips if clip.labels["kind"] == "song"]


@pytest.fixture(scope="module")
def spectra(songs):
    """Magnitudes [4097, frames], 2,048 samples a frame, of every song."""
    return [np.abs(librosa.stft(song.wave, n_fft=8192, hop_length=2048)) for song in songs]


@pytest.fixture(scope="module")
def onset_strengths(songs):
    """How much the energy rises, 100 frames a second, of every song."""
    return [librosa.onset.onset_strength(y=song.wave, sr=RATE, hop_length=240) for song in songs]


def fundamental_hz(wave: np.ndarray) -> float:
    """The first high peak of the autocorrelation, refined by the peaks of all whole periods that follow."""
    window = np.hanning(wave.size)
    correlation, taper = (
        np.fft.irfft(np.abs(np.fft.rfft(x, 2 * wave.size)) ** 2)[: wave.size // 2]
        for x in (wave * window, window)
    )
    correlation = correlation / taper
    rising = np.diff(correlation) > 0
    peaks = np.flatnonzero(rising[:-1] & ~rising[1:]) + 1
    period = float(peaks[correlation[peaks] > 0.85 * correlation[0]][0])
    for periods in range(1, int(wave.size * 0.4 / period)):
        near = round(periods * period)
        left, middle, right = correlation[near - 1 : near + 2]
        period = (near + 0.5 * (left - right) / (left - 2 * middle + right)) / periods
    return RATE / period


@pytest.mark.parametrize("name", LEADS + BASSES)
def test_every_instrument_is_in_tune(name):
    pitches = NOTE_PITCHES[::5] if name in LEADS else range(36, 60, 5)
    for pitch in pitches:
        for brightness in (0.8, 1.2):
            note = render_note(name, pitch, RATE, brightness)[RATE // 10 : RATE * 7 // 10]
            expected = 440.0 * 2.0 ** ((pitch - 69) / 12)
            assert abs(1200 * np.log2(fundamental_hz(note) / expected)) < 5, (pitch, brightness)


@pytest.mark.parametrize("name", LEADS)
def test_nothing_sounds_between_the_harmonics(name):
    pitch = 79.37  # a period of 16.8 samples, in which no aliased partial falls on a harmonic
    note = render_note(name, pitch, 2 * RATE)[RATE // 4 : 7 * RATE // 4]
    power = np.abs(np.fft.rfft(note * np.hanning(note.size))) ** 2
    hertz = np.fft.rfftfreq(note.size, 1 / RATE)
    # Vibrato and decay widen the lines a little.
    off = np.abs(hertz / frequency_of(pitch) - np.round(hertz / frequency_of(pitch))) > 0.1
    assert power[off].sum() < 1e-4 * power.sum()


def test_drums_sound_where_drums_sound():
    def centroid_hz(hit):
        power = np.abs(np.fft.rfft(hit)) ** 2
        return np.sum(power * np.fft.rfftfreq(hit.size, 1 / RATE)) / power.sum()

    kick, snare, hat = (centroid_hz(render_drum(name)) for name in ("kick", "snare", "hat"))
    assert kick < 300 < 2000 < snare < 7000 < hat
    with pytest.raises(ValueError, match="cowbell"):
        render_drum("cowbell")


def test_level(clips):
    for clip in clips:
        assert clip.wave.dtype == np.float32 and clip.wave.shape == (240_000,)
        assert np.all(np.isfinite(clip.wave))
        assert np.abs(clip.wave).max() < 0.96
        assert -30 < 20 * np.log10(np.sqrt(np.mean(clip.wave**2))) < -15
        assert abs(clip.wave.mean()) < 1e-4
        loudest = np.sqrt(np.mean(clip.wave**2))
        half_seconds = np.sqrt(np.mean(clip.wave.reshape(20, -1) ** 2, axis=1))
        assert half_seconds.min() > 0.01 * loudest, clip.id
        assert np.array_equal(clip.wave * 32768, np.round(clip.wave * 32768))


def test_a_note_clip_has_its_pitch_alone(clips):
    for clip in clips:
        if clip.labels["kind"] == "note":
            start, end, pitch = clip.labels["melody"][0]
            assert pitch == clip.labels["pitch"]
            note = clip.wave[int((start + 0.1) * RATE) : int((start + 0.7) * RATE)]
            assert abs(1200 * np.log2(fundamental_hz(note) / frequency_of(pitch))) < 5, clip.id
            assert end - start > 0.85


def test_beats_are_where_the_energy_rises(songs, onset_strengths):
    delays = []
    for song, strength in zip(songs, onset_strengths, strict=True):
        beats = np.array([beat for beat in song.labels["beats"] if 0.1 < beat < 9.8])
        beat_s = 60 / song.labels["tempo_bpm"]

        def strongest(times, strength=strength):
            """In the 50 ms around each time."""
            return np.array([strength[round(t * 100) - 2 : round(t * 100) + 4].max() for t in times])

        between = np.concatenate([strongest(beats[1:-1] + part * beat_s) for part in (0.125, 0.4, 0.9)])
        assert np.median(strongest(beats)) > 3 * np.median(between), song.id
        onsets = librosa.onset.onset_detect(onset_envelope=strength, sr=RATE, hop_length=240, units="time")
        nearest = np.array([onsets[np.argmin(np.abs(onsets - beat))] - beat for beat in beats])
        delays += nearest[np.abs(nearest) < 0.05].tolist()
    assert len(delays) > 0.9 * sum(len(song.labels["beats"]) - 1 for song in songs)
    assert abs(np.median(delays)) < 0.015


def test_beats_are_found_by_a_beat_tracker(songs, onset_strengths):
    scores = []
    for song, strength in zip(songs, onset_strengths, strict=True):
        _, found = librosa.beat.beat_track(onset_envelope=strength, sr=RATE, hop_length=240, units="time")
        trimmed = (mir_eval.beat.trim_beats(np.array(beats), 1.0) for beats in (song.labels["beats"], found))
        scores.append(mir_eval.beat.f_measure(*trimmed))
    assert np.mean(scores) > 0.8


def test_tempo(songs, onset_strengths):
    """Up to the octave, on which listeners do not agree either."""
    for song, strength in zip(songs, onset_strengths, strict=True):
        tempo_bpm = song.labels["tempo_bpm"]
        if song.labels["has_drums"]:
            heard_bpm = librosa.feature.tempo(onset_envelope=strength, sr=RATE, hop_length=240)[0]
            assert min(abs(heard_bpm / tempo_bpm / octave - 1) for octave in (0.5, 1, 2)) < 0.05, song.id
        np.testing.assert_allclose(np.diff(song.labels["beats"]), 60 / tempo_bpm, atol=2e-4)


def test_downbeats_and_metre(songs):
    for song in songs:
        beats, downbeats = song.labels["beats"], song.labels["downbeats"]
        first = beats.index(downbeats[0])
        assert downbeats == beats[first :: int(song.labels["metre"][0])]
        assert first < int(song.labels["metre"][0])
        # A chord changes on a downbeat, or in the middle of a bar.
        chord_starts = [start for start, _, _ in song.labels["chords"]]
        assert all(min(abs(start - downbeat) for start in chord_starts) < 1e-3 for downbeat in downbeats)


def test_key(songs, spectra):
    """Krumhansl and Schmuckler's method, which on real pieces agrees with the notated key in 72 to 90 %."""

    def heard(chroma):
        return max(
            (np.corrcoef(np.roll(profile, tonic), chroma)[0, 1], f"{TONICS[tonic]}:{mode}")
            for mode, profile in PROFILES.items()
            for tonic in range(12)
        )[1]

    pairs = []
    for song, spectrum in zip(songs, spectra, strict=True):
        chroma = librosa.feature.chroma_stft(S=spectrum, sr=RATE, norm=None).mean(axis=1)
        pairs.append((song.labels["key"], heard(chroma)))
    words = [[key.replace(":maj", " major").replace(":min", " minor") for key in pair] for pair in pairs]
    assert np.mean([label == key for label, key in pairs]) > 0.7
    assert np.mean([mir_eval.key.weighted_score(*pair) for pair in words]) > 0.8


def test_every_note_belongs_to_the_key(songs):
    scales = {
        "maj": {0, 2, 4, 5, 7, 9, 11},
        "min": {0, 2, 3, 5, 7, 8, 10, 11},
    }  # minor with its raised seventh
    for song in songs:
        tonic, mode = song.labels["key"].split(":")
        pitches = {pitch for _, _, pitch in song.labels["melody"]}
        for _, _, label in song.labels["chords"]:
            root, quality = label.split(":")
            pitches |= {TONICS.index(root) + tone for tone in TRIADS[quality]}
        assert {(pitch - TONICS.index(tonic)) % 12 for pitch in pitches} <= scales[mode], song.id


def test_chords(songs, spectra):
    """The best of 24 triads for the pitch classes from 120 to 1,100 Hz, where the fundamentals are."""
    templates = {
        f"{TONICS[root]}:{quality}": np.isin(np.arange(12), [(root + tone) % 12 for tone in tones])
        for root in range(12)
        for quality, tones in TRIADS.items()
    }
    hertz = librosa.fft_frequencies(sr=RATE, n_fft=8192)
    agrees = []
    for song, spectrum in zip(songs, spectra, strict=True):
        spans = song.labels["chords"]
        assert spans[0][0] == 0 and spans[-1][1] == 10
        assert all(left[1] == right[0] for left, right in itertools.pairwise(spans))
        middle = spectrum * ((hertz > 120) & (hertz < 1100))[:, None]
        chroma = librosa.feature.chroma_stft(S=middle, sr=RATE, norm=None)
        for start, end, label in spans:
            if end - start > 0.5:
                heard = chroma[:, round(start * RATE / 2048) + 1 : round(end * RATE / 2048)].sum(axis=1)
                agrees.append(label == max(templates, key=lambda name: templates[name] @ heard))
    assert np.mean(agrees) > 0.95


def test_melody(songs):
    """The labelled pitch is there: at its fundamental or octave the spectrum has a peak, for most notes."""
    present = []
    for song in songs:
        for start, end, pitch in song.labels["melody"]:
            if end - start > 0.2:
                note = song.wave[round(start * RATE) : round(end * RATE)]
                power = np.abs(np.fft.rfft(note * np.hanning(note.size), 1 << 16)) ** 2
                bins = frequency_of(pitch) / RATE * (1 << 16)
                semitone = power[round(bins * 2 ** (-0.5 / 12)) : round(bins * 2 ** (0.5 / 12))]
                around = power[round(bins * 2 ** (-2 / 12)) : round(bins * 2 ** (2 / 12))]
                present.append(semitone.max() == around.max())
    assert np.mean(present) > 0.9


def test_the_same_arguments_give_the_same_bytes():
    code = (
        "import sys, zlib; from muq_jax.data.toy_music import make_clip; "
        "print([zlib.crc32(make_clip(i, 5, seconds=2).wave.tobytes()) for i in (0, 3)]); "
        "assert not {'jax', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules), 'a heavy import'"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    here = [zlib.crc32(make_clip(i, 5, seconds=2).wave.tobytes()) for i in (0, 3)]
    assert json.loads(elsewhere.stdout) == here
    assert make_clip(0, 5).labels == make_clip(0, 5).labels


def test_the_corpus_stays_what_it_was():
    """Numbers in the documents hang on these samples; processors may differ by one step of 16 bits."""
    recorded = {
        0: [1553, 2276, -2655, -4664, -10828, 132, -495, -2078, 3328, 316],
        3: [-460, -3685, -2980, -4678, -5846, -13, 5504, -5136, 4013, 4638],
    }
    for index, samples in recorded.items():
        found = to_pcm16(make_clip(index).wave[12_345::24_000])
        np.testing.assert_allclose(found, samples, atol=1)


def test_other_arguments_give_other_audio(clips):
    assert len({clip.wave.tobytes() for clip in clips}) == NUM_CLIPS
    assert not np.array_equal(make_clip(1, seconds=1).wave, make_clip(1, seed=1, seconds=1).wave)
    assert make_clip(2, seconds=3.7).wave.shape == (88_800,)


@pytest.mark.parametrize("arguments", [{"index": -1}, {"index": 0, "seed": -1}, {"index": 0, "seconds": 0.0}])
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match="expected"):
        make_clip(**arguments)


def test_labels_are_balanced():
    count = collections.defaultdict(collections.Counter)
    for index in range(96):
        _, wave, labels = make_clip(index, seed=3, seconds=0.1)
        assert np.all(np.isfinite(wave)) and np.any(wave)
        for name in ("key", "style", "instrument", "pitch"):
            count[labels["kind"], name][labels[name]] += 1
    assert count["song", "key"] == dict.fromkeys(KEYS, 3)
    assert count["song", "style"] == dict.fromkeys(STYLES, 9)
    assert count["song", "instrument"] == dict.fromkeys(LEADS, 6)
    assert count["note", "instrument"] == dict.fromkeys(LEADS, 2)
    assert set(count["note", "pitch"].values()) == {1}


def test_labels_are_json_and_captions_say_what_is_heard(clips):
    for clip in clips:
        labels = clip.labels
        assert json.loads(json.dumps(labels)) == labels
        assert labels["instrument"] in labels["caption"] and labels["caption"][0].isupper()
        if labels["kind"] == "song":
            assert labels["style"] in labels["caption"]
            assert (
                ("with drums" in labels["caption"])
                == labels["has_drums"]
                == ("drums" in labels["instruments"])
            )
            assert ("major" if labels["key"].endswith("maj") else "minor") in labels["caption"]


def test_splits_are_disjoint_and_complete():
    sources = {
        split: ToyMusicSource(40, seed=2, seconds=0.1, split=split) for split in ("train", "val", "test")
    }
    assert {split: len(source) for split, source in sources.items()} == {"train": 32, "val": 4, "test": 4}
    ids = [source[i]["id"] for source in sources.values() for i in range(len(source))]
    everything = ToyMusicSource(40, seed=2, seconds=0.1)
    assert sorted(ids) == [everything[i]["id"] for i in range(40)]


@pytest.mark.parametrize("arguments", [(5, 0, 1.0, "valid"), (0,)])
def test_an_empty_source_is_refused(arguments):
    with pytest.raises(UserError, match="toy_music"):
        ToyMusicSource(*arguments)


def test_source_gives_clips_again_and_again():
    source = ToyMusicSource(6, seed=1, seconds=0.5)
    clip = make_clip(4, seed=1, seconds=0.5)
    for _ in range(2):
        example = source[4]
        assert (
            example["id"] == clip.id
            and example["sample_rate_hz"] == RATE
            and example["labels"] == clip.labels
        )
        assert example["wave"].dtype == np.float32
        np.testing.assert_array_equal(example["wave"], clip.wave)
        example["wave"][:] = 0  # what a reader does to an example must not reach the next one
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[4]["wave"], clip.wave)
    assert len(pickle.dumps(source)) < 2000 and repr(copy) == repr(source)


def test_a_full_cache_changes_nothing(monkeypatch):
    monkeypatch.setattr(ToyMusicSource, "CACHE_BYTES", 10_000)
    source = ToyMusicSource(3, seconds=0.2)
    for _ in range(2):
        for i in range(3):
            np.testing.assert_array_equal(source[i]["wave"], make_clip(i, seconds=0.2).wave)


def test_labels_come_without_sound(monkeypatch):
    expected = [make_clip(i, seed=2, seconds=1) for i in range(8)]
    monkeypatch.setattr("muq_jax.data.toy_music.render_note", lambda *_: pytest.fail("it synthesises"))
    source = ToyMusicSource(8, seed=2, seconds=1)
    assert [source.labels_at(i) for i in range(8)] == [(clip.id, clip.labels) for clip in expected]


def test_source_feeds_grain():
    data = grain.MapDataset.source(ToyMusicSource(8, seconds=0.1)).shuffle(seed=0)
    assert {example["id"] for example in data} == {make_clip(i, seconds=0.1).id for i in range(8)}
