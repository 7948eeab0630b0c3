"""Small folders of datasets in their published layouts, with sound that tells the labels."""

import gzip
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import soundfile
import tensorflow_datasets as tfds

from muq_jax.probe.datasets.harmonix import split_of

NUM_TRAIN, NUM_VAL, NUM_TEST = 9, 3, 3
TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")


def tone(pitches, seconds, rate, *, harmonics=3, bend=0.0, seed=0):
    """MIDI pitches together, [S]; `bend` in semitones, five times a second."""
    t = np.arange(round(seconds * rate)) / rate
    wave = 1e-3 * np.random.default_rng(seed).standard_normal(len(t))
    for pitch in pitches:
        frequency = 440 * 2 ** ((pitch - 69 + bend * np.sin(10 * np.pi * t)) / 12)
        phase = 2 * np.pi * np.cumsum(frequency) / rate
        wave += sum(np.sin(k * phase) / k for k in range(1, harmonics + 1))
    return (0.7 * wave / np.abs(wave).max()).astype(np.float32)


def triad(root, quality):
    return [60 + root, 60 + root + (4 if quality == "maj" else 3), 67 + root]


def write(path, wave, rate):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)


def make_nsynth(folder: Path) -> None:
    """Three pitches and three families; flute_acoustic_100 is in valid and in test."""
    families = ("bass", "flute", "guitar")
    pairs = list(itertools.product(range(3), range(3)))
    sets = {"train": pairs, "valid": [(i, i) for i in range(3)], "test": [(i, (i + 1) % 3) for i in range(3)]}
    for number, (split, members) in enumerate(sets.items()):
        notes = {}
        for i, (p, f) in enumerate(members):
            shared = split != "train" and families[f] == "flute"
            instrument = f"{families[f]}_acoustic_{100 if shared else 10 * number + f:03d}"
            pitch = 48 + 12 * p
            name = f"{instrument}-{pitch:03d}-075"
            notes[name] = {
                "note": i,
                "note_str": name,
                "instrument": 10 * number + f,
                "instrument_str": instrument,
                "instrument_family": f,
                "instrument_family_str": families[f],
                "instrument_source": 0,
                "instrument_source_str": "acoustic",
                "pitch": pitch,
                "velocity": 75,
                "sample_rate": 16000,
                "qualities": [0] * 10,
                "qualities_str": [],
            }
            wave = tone([pitch], 4.0, 16000, harmonics=1 + 3 * f, seed=i)
            write(folder / f"nsynth-{split}" / "audio" / f"{name}.wav", wave, 16000)
        (folder / f"nsynth-{split}" / "examples.json").write_text(json.dumps(notes))


def make_vocalset(folder: Path) -> None:
    """Four singers, two of them in the test split of the techniques; three techniques and fast_forte."""
    singers = {"female1": 72, "female2": 67, "male1": 52, "male3": 47}
    bends = {"belt": 0.0, "vibrato": 0.7, "trill": 2.0, "fast_forte": 0.1}
    contexts = (("arpeggios", "aeiou"), ("scales", "aeiou"))
    for (singer, pitch), (technique, bend) in itertools.product(singers.items(), bends.items()):
        short = singer.replace("female", "f").replace("male", "m")
        for context, vowels in contexts:
            for i, vowel in enumerate(vowels if technique != "fast_forte" else vowels[:1]):
                name = f"{short}_{context}_{technique}_{vowel}.wav"
                wave = tone([pitch + i], 1.0, 44100, bend=bend, seed=i)
                write(folder / "FULL" / singer / context / technique / name, wave, 44100)


def make_chords1217(folder: Path) -> None:
    """The corpus's own layout: songs of four seconds, a chord a second, one of them without a class."""
    ids = (f"TR{number:04d}" for number in itertools.count())
    digest = lambda id: int(hashlib.sha256(id.encode()).hexdigest(), 16) % 9  # noqa: E731
    train, val, test = [], [], []
    while len(train) < NUM_TRAIN or len(val) < NUM_VAL:
        id = next(ids)
        part, size = (val, NUM_VAL) if digest(id) == 0 else (train, NUM_TRAIN)
        if len(part) < size:
            part.append(id)
    test = [next(ids) for _ in range(NUM_TEST)]
    chords = (("C:maj7", 0, "maj"), ("A:min", 9, "min"), ("F#:7/3", 6, "maj"), ("D:sus4", 2, "min"))
    for song, id in enumerate([*train, *val, *test]):
        waves, lines = [], []
        for second in range(4):
            label, root, quality = chords[(song + second) % 4]
            waves.append(tone(triad(root, quality), 1.0, 22050, seed=song))
            lines.append(f"{second}.0\t{second + 1}.0\t{label}\n")
        write(folder / "audio" / f"{id}.mp3", np.concatenate(waves), 22050)
        (folder / "chordlab").mkdir(exist_ok=True)
        (folder / "chordlab" / f"{id}.lab").write_text("".join(lines))
    (folder / "train00.csv").write_text("\n".join([*train, *val]))
    (folder / "test00.csv").write_text("\n".join(test))


def make_hooktheory(folder: Path) -> None:
    """Sheet Sage's layout: stretches of 13 s of videos of 14 s, in three keys."""
    keys = ((0, "maj"), (9, "min"), (5, "maj"))
    steps = {"maj": [2, 2, 1, 2, 2, 2], "min": [2, 1, 2, 2, 1, 2]}
    annotations = {}
    for i, split in enumerate(["TRAIN"] * NUM_TRAIN + ["VALID"] * NUM_VAL + ["TEST"] * NUM_TEST):
        tonic, mode = keys[i % 3]
        refined = {"beats": list(range(27)), "times": [0.5 + beat / 2 for beat in range(27)]}
        annotations[f"hook{i:02d}"] = {
            "tags": ["AUDIO_AVAILABLE", "USER_ALIGNMENT", "REFINED_ALIGNMENT", "MELODY", "HARMONY"],
            "split": split,
            "hooktheory": {"id": f"hook{i:02d}", "artist": f"artist-{i}", "song": f"song-{i}"},
            "youtube": {"id": f"-video{i:02d}", "duration": 14.0},
            "alignment": {
                "swing": "STRAIGHT",
                "user": {"beats": [0, 26], "times": [0.4, 13.4]},
                "refined": refined,
            },
            "annotations": {
                "num_beats": 26,
                "keys": [{"beat": 0, "tonic_pitch_class": tonic, "scale_degree_intervals": steps[mode]}],
                "melody": [],
                "harmony": [],
            },
        }
        wave = tone(triad(tonic, mode), 14.0, 16000, seed=i)
        write(folder / "audio" / f"-video{i:02d}.mp3", wave, 16000)
    (folder / "Hooktheory.json.gz").write_bytes(gzip.compress(json.dumps(annotations).encode()))


def make_hooktheory_structure(folder: Path) -> None:
    """MARBLE v2's lists, the only ones that say the sections."""
    make_marble_jsonl(folder, "HookTheoryStructure")


def make_harmonix(folder: Path) -> None:
    """Songs of four seconds: intro, verse, chorus, end."""
    songs = {"train": [], "val": [], "test": []}
    sizes = {"train": NUM_TRAIN, "val": NUM_VAL, "test": NUM_TEST}
    for number in itertools.count(1):
        song = f"{number:04d}_song{number}"
        if len(songs[split_of(song)]) < sizes[split_of(song)]:
            songs[split_of(song)].append(song)
        if all(len(songs[split]) == size for split, size in sizes.items()):
            break
    dataset = folder / "dataset"
    for name in ("segments", "beats_and_downbeats"):
        (dataset / name).mkdir(parents=True)
    rows = ["File,Title,Artist,Release,Duration,BPM"]
    sections = (("intro", [48], 0, 1), ("prechorus2", [64], 1, 2.5), ("chorus", [76, 80], 2.5, 4))
    for i, song in enumerate(sorted(itertools.chain(*songs.values()))):
        waves = [tone(p, end - start, 22050, seed=i) for _, p, start, end in sections]
        write(folder / "audio" / f"{song}.mp3", np.concatenate(waves), 22050)
        lines = [f"{start} {label}\n" for label, _, start, _ in sections]
        (dataset / "segments" / f"{song}.txt").write_text("".join(lines) + "4.0 end\n")
        beats = "".join(f"{beat / 2}\t{beat % 4 + 1}\t{beat // 4 + 1}\n" for beat in range(8))
        (dataset / "beats_and_downbeats" / f"{song}.txt").write_text(beats)
        rows.append(f'{song},"A, song",Artist {i},Release,4.0,120')
    (dataset / "metadata.csv").write_text("\n".join(rows) + "\n")


# Of each list: the data set, the suffix and seconds of its files, and three (label, sound) each, by turns.
_CHORDS = [
    {"start_time": 0.0, "end_time": 1.0, "chord_str": "N"},
    {"start_time": 1.0, "end_time": 2.0, "chord_str": "D:maj/5"},
    {"start_time": 2.0, "end_time": 3.0, "chord_str": "A:min7"},
]
_CHORD_SOUND = [[24], triad(2, "maj"), triad(9, "min")]
_KEYS = [("C major", triad(0, "maj")), ("Eb minor", triad(3, "min")), ("A minor", triad(9, "min"))]
_LISTS = {
    "GTZANGenre": ("GTZAN", "wav", 3, [("blues", [48]), ("jazz", [60]), ("rock", [72])]),
    "GTZANBeatTracking": ("GTZAN", "wav", 4, [(0.4, None), (0.5, None), (0.6, None)]),
    "GS": ("GS", "wav", 2, _KEYS),
    "EMO": ("EMO", "wav", 2, [([-0.3, 0.1], [48]), ([0.1, 0.2], [60]), ([0.5, -0.4], [72])]),
    "MTT": ("MTT", "mp3", 2, [(["guitar", "slow"], [48]), ([], [60]), (["no vocals"], [72])]),
    "Chords1217": ("Chords1217", "flac", 3, [(_CHORDS, _CHORD_SOUND)]),
    "HookTheoryKey": ("HookTheory", "mp3", 13, _KEYS),
    "HookTheoryStructure": (
        "HookTheory",
        "mp3",
        3,
        [(["chorus"], [48]), (["solo"], [60]), (["verse", "pre-chorus"], [72])],
    ),
    **{
        f"MTG{name}": ("MTG", "flac", 2, [([f"{prefix}---a"], [48]), ([f"{prefix}---b"], [72])])
        for name, prefix in (
            ("Top50", "genre"),
            ("Genre", "genre"),
            ("Instrument", "instrument"),
            ("Mood", "mood/theme"),
        )
    },
}


def make_marble_jsonl(folder: Path, name: str) -> None:
    """MARBLE v2's lists of this name, and their audio, as its data set lies in `data/DATASET`."""
    dataset, suffix, seconds, kinds = _LISTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    number, rate = 0, 16000
    for split, size in (("train", NUM_TRAIN), ("val", NUM_VAL), ("test", NUM_TEST)):
        rows = []
        for song in range(size):
            label, sound = kinds[song % len(kinds)]
            for clip in range(2 if name == "GS" else 1):
                relative = f"audio/{name}/{number:03d}-{clip}.{suffix}"
                wave = _sound(label, sound, seconds, rate, number)
                write(folder / relative, wave, rate)
                row = {
                    "audio_path": f"data/{dataset}/{relative}",
                    "label": _beats(label, seconds) if name == "GTZANBeatTracking" else label,
                    "duration": float(seconds),
                    "sample_rate": rate,
                    "num_samples": len(wave),
                    "bit_depth": 16,
                    "channels": 1,
                }
                if dataset in ("GS", "HookTheory"):
                    row["ori_uid"] = f"song{number:03d}"
                rows.append(json.dumps(row))
            number += 1
        (folder / f"{name}.{split}.jsonl").write_text("\n".join(rows) + "\n")


def _sound(label, sound, seconds, rate, seed):
    if sound is None:  # clicks
        wave = np.zeros(seconds * rate, np.float32)
        for time in _beats(label, seconds)["beat"]:
            wave[round(time * rate) :][:200] += 0.8 * np.hanning(200)
        return wave
    if isinstance(sound[0], list):
        return np.concatenate([tone(part, seconds / len(sound), rate, seed=seed) for part in sound])
    return tone(sound, seconds, rate, seed=seed)


def _beats(period, seconds):
    beats = [round(0.1 + period * beat, 3) for beat in range(int((seconds - 0.1) / period))]
    return {"beat": beats, "downbeat": beats[::4], "tempo": 60 / period, "meter": "4/4"}


class _Builder(tfds.core.GeneratorBasedBuilder):
    """A data set of examples given; waveforms are plain tensors, which need no tensorflow."""

    VERSION = tfds.core.Version("1.0.0")
    # Else tfds looks for checksums beside this file, through a package that it does not declare.
    code_path = None

    def __init__(self, features, examples, **kwargs):
        self._features, self._examples = features, examples
        super().__init__(file_format="array_record", **kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self._features))

    def _split_generators(self, _):
        return {split: iter(enumerate(examples)) for split, examples in self._examples.items()}

    def _generate_examples(self):
        raise NotImplementedError


class FakeGtzan(_Builder):
    pass


class FakeNsynth(_Builder):
    pass


def make_tfds_gtzan(folder: Path) -> str:
    """TFDS's GTZAN and the fault-filtered lists; returns what to give as --data."""
    genres = ("blues", "jazz", "rock")
    names = [f"{genre}.{number:05d}" for genre in genres for number in range(6)]
    examples = [
        {
            "audio": (20000 * tone([48 + 12 * genres.index(name.split(".")[0])], 1.0, 22050)).astype(
                np.int16
            ),
            "label": {"blues": 0, "jazz": 5, "rock": 9}[name.split(".")[0]],
            "audio/filename": f"{name}.wav",
            "sample_rate": 22050,
        }
        for name in names
    ]
    features = {
        "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16),
        "label": np.int64,
        "audio/filename": tfds.features.Text(),
        "sample_rate": np.int32,
    }
    FakeGtzan(features, {"train": examples}, data_dir=folder).download_and_prepare()
    lists = folder / "lists"
    lists.mkdir()
    for split, numbers in (("train", (0, 1, 2)), ("valid", (3,)), ("test", (4,))):
        lines = [f"{genre}/{genre}.{number:05d}.wav" for genre in genres for number in numbers]
        (lists / f"{split}_filtered.txt").write_text("\n".join(lines) + "\n")
    return f"tfds:{folder / 'fake_gtzan' / '1.0.0'}@{lists}"


def make_tfds_nsynth(folder: Path) -> str:
    """TFDS's NSynth, three notes a split and nine in train; returns what to give as --data."""
    features = {
        "id": tfds.features.Text(),
        "audio": tfds.features.Tensor(shape=(None,), dtype=np.float32),
        "sample_rate": np.int32,
        "pitch": np.int64,
        "velocity": np.int64,
        "instrument": {"label": np.int64, "family": np.int64, "source": np.int64},
    }
    examples = {}
    for number, (split, size) in enumerate(
        (("train", NUM_TRAIN), ("valid", NUM_VAL), ("test", NUM_TEST)), start=1
    ):
        examples[split] = [
            {
                "id": f"{split}-note{i}",
                "audio": tone([48 + 12 * (i % 3)], 1.0, 16000, seed=i),
                "sample_rate": 16000,
                "pitch": 48 + 12 * (i % 3),
                "velocity": 75,
                "instrument": {"label": 10 * number + i, "family": i % 3, "source": 0},
            }
            for i in range(size)
        ]
    FakeNsynth(features, examples, data_dir=folder).download_and_prepare()
    return f"tfds:{folder / 'fake_nsynth' / '1.0.0'}"
