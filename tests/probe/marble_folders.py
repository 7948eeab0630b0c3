"""Small folders in the layouts of published datasets, with sounds by which their labels can be told."""

import hashlib
import json
from itertools import count
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 22_050
GENRES = "blues classical country disco hiphop jazz metal pop reggae rock".split()
FLATS = "C Db D Eb E F Gb G Ab A Bb B".split()
SHARPS = "C C# D D# E F F# G G# A A# B".split()
TOP_TAGS = (
    "guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano, ambient, beat, violin, "
    "vocal, synth, female, indian, opera, male, singing, vocals, no vocals, harpsichord, loud, quiet, flute, "
    "woman, male vocal, no vocal, pop, soft, sitar, solo, man, classic, choir, voice, new age, dance, male "
    "voice, female vocal, beats, harp, cello, no voice, weird, country, metal, female voice, choral"
).split(", ")
JAMENDO_TAGS = {
    "genre": [f"genre---g{i:02d}" for i in range(87)],
    "instrument": [f"instrument---i{i:02d}" for i in range(40)],
    "moodtheme": [f"mood/theme---m{i:02d}" for i in range(56)],
    "top50tags": [
        *(f"genre---g{i:02d}" for i in range(31)),
        *(f"instrument---i{i:02d}" for i in range(14)),
        *(f"mood/theme---m{i:02d}" for i in range(5)),
    ],
}


def sound(seconds: float, hz: list[float], seed: int, level: float = 0.3, noise: float = 0.01) -> np.ndarray:
    """Returns float32 [S] of steady tones."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * f * time + rng.uniform(0, 6)) for f in hz) / max(1, len(hz))
    return (level * tones + noise * rng.standard_normal(len(time))).astype(np.float32)


def write(path: Path, wave: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, RATE_HZ)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def make_gtzan(folder: Path, seconds: float = 1.0) -> None:
    """Two clips a genre to train on, one each for validation and test; and jazz.00054."""
    lists: dict[str, list[str]] = {"train": ["jazz/jazz.00054.wav"], "valid": [], "test": []}
    for number, genre in enumerate(GENRES):
        for clip, split in enumerate(("train", "train", "valid", "test")):
            name = f"{genre}/{genre}.{clip:05d}.wav"
            write(folder / "genres" / name, sound(seconds, [150 * 1.4**number], 10 * number + clip))
            lists[split].append(name)
    for split, names in lists.items():
        write_text(folder / f"{split}_filtered.txt", "\n".join(names) + "\n")


def make_gtzan_beat(folder: Path, seconds: float = 6.0) -> None:
    """Click tracks in 4/4 of different tempi, the first click of a bar higher; 8, 3 and 3 clips."""
    lists: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for clip in range(14):
        genre = GENRES[clip % len(GENRES)]
        split = "train" if clip < 8 else "valid" if clip < 11 else "test"
        period = 60 / (90 + 6 * clip)
        wave = sound(seconds, [], clip)
        lines = []
        for beat in range(int((seconds - 0.2) / period)):
            time = 0.1 + beat * period
            click = np.exp(-np.arange(1500) / 200) * np.sin(
                2 * np.pi * (1500 if beat % 4 == 0 else 700) * np.arange(1500) / RATE_HZ
            )
            at = round(time * RATE_HZ)
            wave[at : at + 1500] += 0.7 * click[: len(wave) - at].astype(np.float32)
            lines.append(f"{time:.3f}\t{beat % 4 + 1}\n")
        write(folder / f"genres/{genre}/{genre}.{clip:05d}.wav", wave)
        write_text(folder / f"gtzan_tempo_beat-main/beats/gtzan_{genre}_{clip:05d}.beats", "".join(lines))
        lists[split].append(f"{genre}/{genre}.{clip:05d}.wav")
    for split, names in lists.items():
        write_text(folder / f"{split}_filtered.txt", "\n".join(names) + "\n")


def as_jams(beats: list[float], downbeats: list[float]) -> str:
    """Returns a file of GTZAN-Rhythm."""
    annotations = [
        {
            "namespace": "beat",
            "sandbox": {"annotation_type": kind},
            "data": [{"time": time, "duration": 0.0, "value": 1, "confidence": None} for time in times],
        }
        for kind, times in (("beat", beats), ("downbeat", downbeats))
    ]
    annotations.append({"namespace": "tempo", "sandbox": {}, "data": []})
    return json.dumps({"annotations": annotations, "file_metadata": {}, "sandbox": {}})


def key_of_giantsteps(index: int, names: list[str]) -> str:
    return f"{names[index % 12]} {'major' if index < 12 else 'minor'}"


def artist_of_giantsteps(split: str) -> list[str]:
    """Returns 30 names of artists that are in train or in val."""
    names = (f"Artist {i}" for i in count())
    found: list[str] = []
    while len(found) < 30:
        name = next(names)
        part = int.from_bytes(hashlib.sha1(name.lower().encode()).digest()) % 116
        if (part < 100) == (split == "train"):
            found.append(name)
    return found


def make_giantsteps(folder: Path, seconds: float = 1.0) -> None:
    """Triads: 24 songs to train on, one a key, 6 each for validation and test; two more to be left out."""
    train, test = folder / "giantsteps-mtg-key-dataset", folder / "giantsteps-key-dataset-master"
    keys, credits = ["ID\tMANUAL KEY\tC"], ["ID\tARTIST\tSONG TITLE"]
    artists = {split: artist_of_giantsteps(split) for split in ("train", "val")}
    for song in range(30):
        split = "train" if song < 24 else "val"
        key = song if song < 24 else 4 * (song - 24)
        keys.append(f"{1000 + song}\t{key_of_giantsteps(key, SHARPS)}\t2")
        credits.append(f"{1000 + song}\t{artists[split][song]}\tA Song")
        write(train / f"audio/{1000 + song}.LOFI.mp3", _triad(seconds, key, song))
    keys += ["1090\tC major\t1", "1091\tC major / A minor\t2"]
    credits += ["1090\tNobody\tA Song", "1091\tNobody\tA Song"]
    for song in range(6):
        key = 4 * song + 1
        write_text(test / f"annotations/key/{2000 + song}.LOFI.key", key_of_giantsteps(key, FLATS))
        write(test / f"audio/{2000 + song}.LOFI.mp3", _triad(seconds, key, 100 + song))
    write_text(train / "annotations/annotations.txt", "\n".join(keys) + "\n")
    write_text(train / "annotations/beatport_metadata.txt", "\n".join(credits) + "\n")


def _triad(seconds: float, key: int, seed: int) -> np.ndarray:
    root = 220 * 2 ** (key % 12 / 12)
    third = 4 if key < 12 else 3
    return sound(seconds, [root, root * 2 ** (third / 12), root * 2 ** (7 / 12)], seed)


def artist_of_emomusic(split: str) -> list[str]:
    """Returns 30 names of artists that are in train or in val."""
    found: list[str] = []
    for i in count():
        name = "the band " + "".join(chr(97 + int(digit)) for digit in str(i))
        part = int.from_bytes(hashlib.sha1(name.encode()).digest()) % 10
        if (part < 8) == (split == "train"):
            found.append(name)
        if len(found) == 30:
            return found
    raise AssertionError


def make_emomusic(folder: Path, seconds: float = 2.0) -> None:
    """Louder is more arousal, higher more valence: 12 excerpts to train on, 4 and 4."""
    infos = [
        "song_id,file_name,Artist,Song title,start of the segment (min.sec),end of the segment (min.sec),"
        "Genre,Mediaeval 2013 set"
    ]
    ratings = ["song_id,mean_arousal,std_arousal,mean_valence,std_valence"]
    artists = {split: artist_of_emomusic(split) for split in ("train", "val")}
    rng = np.random.default_rng(0)
    for song in range(2, 22):
        split = "train" if song < 14 else "val"
        which = "evaluation" if song >= 18 else "development"
        arousal, valence = rng.uniform(2, 8, 2).round(1)
        artist = artists[split][song].title()
        infos.append(f'{song},{song}.mp3,\t{artist}!,"A, song",1.05,1.5,\tBlues,{which}')
        ratings.append(f"{song},{arousal},1.0,{valence},1.5")
        wave = sound(seconds, [100 * 2 ** (valence / 2)], song, level=0.05 * arousal)
        write(folder / f"clips_45seconds/{song}.mp3", wave)
    write_text(folder / "annotations/songs_info.csv", "\n".join(infos) + "\n")
    write_text(folder / "annotations/static_annotations.csv", "\n".join(ratings) + "\n")


def make_magnatagatune(folder: Path, seconds: float = 1.0) -> None:
    """Low tones have the tags of even number, high ones those of odd: 12, 4 and 6 clips; one has no tag."""
    tags = [*TOP_TAGS, *(f"rare {i}" for i in range(138))]
    rows = [["clip_id", *tags, "mp3_path"]]
    for clip, place in enumerate("0123456789abccccddeeff"):
        high = clip % 2
        name = f"{place}/artist_{clip}-the_album-01-a_song-0-29.mp3"
        has = [str(int(i % 2 == high and i < 50)) for i in range(len(tags))]
        rows.append([str(clip), *has, name])
        write(folder / "mp3" / name, sound(seconds, [2000 if high else 200], clip))
    rows[-1][1:-1] = ["0"] * 60 + ["1"] + ["0"] * 127
    rows.append(["90", *["0"] * 188, "6/norine-now-08-gently-117-146.mp3"])
    (folder / "mp3" / rows[-1][-1]).write_bytes(b"")
    text = "\n".join("\t".join(f'"{cell}"' for cell in row) for row in rows)
    write_text(folder / "annotations_final.csv", text + "\n")


def make_mtg_jamendo(folder: Path, seconds: float = 1.0) -> None:
    """Low tones have the first half of the tags, high ones the other: 8, 4 and 4 tracks in each subset."""
    lists = folder / "mtg-jamendo-dataset/data/splits/split-0"
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for track in range(16):
        rows["train" if track < 8 else "validation" if track < 12 else "test"].append(901 + track)
        name = f"{(901 + track) % 100:02d}/{901 + track}.low.mp3"
        write(folder / "audio-low" / name, sound(seconds, [2000 if track % 2 else 200], track))
    for subset, tags in JAMENDO_TAGS.items():
        half = len(tags) // 2
        for split, tracks in rows.items():
            lines = ["TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"]
            for track in tracks:
                mine = tags[:half] if track % 2 else tags[half:]
                start = (f"track_{track:07d}", f"artist_{(track - 901) // 2:06d}", "album_000001")
                lines.append("\t".join((*start, f"{track % 100:02d}/{track}.mp3", "214.9", *mine)))
            write_text(lists / f"autotagging_{subset}-{split}.tsv", "\r\n".join(lines) + "\r\n")
