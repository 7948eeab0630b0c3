"""GTZAN: excerpts of 30 seconds in ten genres, and their beats, in the split without known faults.

    FOLDER/**/blues.00000.wav, or .au    genres.tar.gz; of the copy at Kaggle it is Data/genres_original
    FOLDER/train_filtered.txt            and valid_, test_filtered.txt: a clip a line, blues/blues.00029.wav
    FOLDER/**/blues.00000.wav.jams       GTZAN-Rhythm v2, whose beats MARBLE takes
    FOLDER/**/gtzan_blues_00000.beats    or gtzan_tempo_beat: time and number of the beat in its bar

The lists hold 443, 197 and 290 clips (counted in coreyker/dnn-mgr at bdad579, whence MARBLE v1 has them; the
copies in jongpillee/music_dataset_split are the same). jazz.00054, damaged in the copy at Kaggle, is one of
the first; MARBLE v1 strikes it out of the list, and so does this reader, also where the recording is whole:
442 are left. Artists are not named, so there are no groups.

Of gtzan_tempo_beat (at fd9cafd) all clips but reggae.00086 have beats, and 6 files have no numbers, so no
downbeats. Its beats of blues.00029 are those that MARBLE v2 shows of that clip, to a thousandth of a second.
The layout of GTZAN-Rhythm is known from MARBLE v1's code alone (`benchmark/tasks/GTZAN/GTZANBT_dataset.py`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from muq_jax.errors import UserError
from muq_jax.probe.datasets.folder import (
    AUDIO_MISSING,
    audio_by_stem,
    count_splits,
    published_problem,
    read_text,
    require,
)
from muq_jax.probe.task import SPLITS, Beats, Dataset, Item

GENRES = (
    *("blues", "classical", "country", "disco", "hiphop"),
    *("jazz", "metal", "pop", "reggae", "rock"),
)
COUNTS = (442, 197, 290)
BAD_CLIP = "jazz.00054"
_LISTS = ("train_filtered.txt", "valid_filtered.txt", "test_filtered.txt")
SOURCE = (
    "GTZAN: take the audio (genres.tar.gz, or Data/genres_original of "
    "kaggle.com/datasets/andradaolteanu/gtzan-dataset-music-genre-classification) and the lists "
    "train_filtered.txt, valid_filtered.txt and test_filtered.txt (folder gtzan of "
    "github.com/coreyker/dnn-mgr), put all in one folder and give that"
)
BEAT_SOURCE = (
    f"{SOURCE}. The beats are in github.com/TempoBeatDownbeat/gtzan_tempo_beat (gtzan_blues_00000.beats) or "
    "GTZAN-Rhythm_v2_ismir2015_lbd (blues.00000.wav.jams); put one of them in that folder, too"
)


def read_gtzan_genre(data: str) -> Dataset:
    """Returns the clips with their genre.

    Raises:
        UserError: a list or all audio is missing, or a line of a list is not as expected.
    """
    return _read(data, SOURCE, GENRES, lambda stem, genre: genre)


def read_gtzan_beat(data: str) -> Dataset:
    """Returns the clips with their beats and downbeats; a clip without annotation is left out.

    Raises:
        UserError: as of `read_gtzan_genre`, or there are no beats, or a file of them is damaged.
    """
    folder = Path(data)
    jams = {path.name.removesuffix(".jams").removesuffix(".wav"): path for path in folder.rglob("*.jams")}
    beats = {path.stem: path for path in folder.rglob("gtzan_*.beats")}

    def label(stem: str, genre: str) -> Beats | None:
        if jams:
            return _read_jams(jams[stem]) if stem in jams else None
        path = beats.get("gtzan_" + stem.replace(".", "_"))
        return None if path is None else _read_beats(path)

    if folder.is_dir() and not jams and not beats:
        raise UserError(f"{folder}: there are no beats: no gtzan_*.beats, no *.jams. {BEAT_SOURCE}")
    return _read(data, BEAT_SOURCE, (), label)


def _read(
    data: str, source: str, classes: tuple[str, ...], label_of: Callable[[str, str], Any | None]
) -> Dataset:
    folder = Path(data)
    lists = [require(folder, (name, f"*/{name}", f"**/{name}"), source) for name in _LISTS]
    audio = audio_by_stem(folder)
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for split, path in zip(SPLITS, lists, strict=True):
        for stem, genre in _lines(path):
            if stem == BAD_CLIP:
                left_out[f"{BAD_CLIP} is damaged"] += 1
            elif stem not in audio:
                left_out[AUDIO_MISSING] += 1
            elif (label := label_of(stem, genre)) is None:
                left_out["no beats annotated"] += 1
            else:
                items.append(Item(stem, split, label, audio[stem]))
    if not items:
        raise UserError(f"{data}: none of the listed clips can be used ({dict(left_out)}). {source}")
    return Dataset(items, classes, left_out, published_problem(count_splits(items), COUNTS))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields name and genre of the clips of a list."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        stem = Path(name).stem
        genre = stem.partition(".")[0]
        if genre not in GENRES or not stem.partition(".")[2].isdigit():
            raise UserError(
                f"{path}, line {number}: found {line.strip()!r}; expected GENRE/GENRE.NUMBER.wav, such as "
                f"blues/blues.00029.wav, of the genres {', '.join(GENRES)}"
            )
        yield stem, genre


def _read_beats(path: Path) -> Beats | None:
    """Of lines with a time, and in most files the beat's number in its bar."""
    times: list[float] = []
    downbeats: list[float] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        cells = line.split()
        if not cells:
            continue
        try:
            time, position = float(cells[0]), float(cells[1]) if len(cells) > 1 else None
        except ValueError:
            raise UserError(
                f"{path}, line {number}: found {line.strip()!r}; expected a time in seconds and the number "
                "of the beat in its bar. Download it anew"
            ) from None
        times.append(time)
        if position == 1:
            downbeats.append(time)
    return _make(times, downbeats)


def _read_jams(path: Path) -> Beats | None:
    found: dict[str, list[float]] = {"beat": [], "downbeat": []}
    try:
        for annotation in json.loads(read_text(path))["annotations"]:
            kind = (annotation.get("sandbox") or {}).get("annotation_type", annotation["namespace"])
            if annotation["namespace"] == "beat" and kind in found:
                found[kind] = _jams_times(annotation["data"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not JAMS ({type(error).__name__}: {error}); expected JSON with `annotations`, of "
            "which some have the namespace beat. Download it anew"
        ) from None
    return _make(found["beat"], found["downbeat"])


def _jams_times(data: Any) -> list[float]:
    """Older files have a list a field, newer ones an object an observation."""
    if isinstance(data, dict):
        return [float(time) for time in data["time"]]
    return [float(observation["time"]) for observation in data]


def _make(beats: list[float], downbeats: list[float]) -> Beats | None:
    return Beats(tuple(sorted(set(beats))), tuple(sorted(set(downbeats)))) if beats else None
