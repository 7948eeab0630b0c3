"""GiantSteps: the key of two-minute previews of electronic dance music.

    FOLDER/giantsteps-mtg-key-dataset*/    train and val: annotations/annotations.txt (ID, MANUAL KEY, C),
                                           annotations/beatport_metadata.txt (ID, ARTIST)
    FOLDER/giantsteps-key-dataset*/        test: annotations/key/*.key, such as "F minor"
    .../audio/NUMBER.LOFI.mp3              where audio_dl.sh of each puts them, or anywhere below FOLDER

Read in the two repositories (at fd7b8c5 and 6bcd492) and in MARBLE v1's `benchmark/tasks/GS/preprocess.py`:

- Of the 1,486 songs of the first, those are kept whose confidence C is 2 and that have one key.
- The SHA-1 of an artist's name in lower case, modulo 116, is below 100 for train, else val. Who has made a
  song with an artist of val is of val, too: MARBLE goes over the songs twice, here until nothing changes, and
  both give 923 and 236 songs. The group is the set of artists that are so connected.
- Every one of the 1,486 has an artist. MARBLE stops with an error at one without, and so does this reader.
- The 604 songs of test name no artist, so they have no group; no song is in both repositories.

Flats and sharps of one pitch are one class; MARBLE calls "Eb minor" what is `Eb:min` here.
"""

import hashlib
from collections import Counter
from pathlib import Path

from muq_jax.errors import UserError, mistakes_in
from muq_jax.probe.datasets.folder import (
    AUDIO_MISSING,
    audio_by_stem,
    check_columns,
    count_splits,
    numbered_rows,
    published_problem,
    read_text,
    require,
)
from muq_jax.probe.task import Dataset, Item

_TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_FLATS = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}
_MODES = {"major": "maj", "minor": "min"}
KEYS = tuple(f"{tonic}:{mode}" for mode in _MODES.values() for tonic in _TONICS)
COUNTS = (923, 236, 604)
SOURCE = (
    "GiantSteps: clone github.com/GiantSteps/giantsteps-mtg-key-dataset (train and validation) and "
    "github.com/GiantSteps/giantsteps-key-dataset (test) into one folder, run audio_dl.sh in both (3 GB), "
    "which puts the songs into their folders audio, and give the folder that holds both"
)
_SURE = "2"
_PARTS = 116
_TRAIN_PARTS = 100


def read_giantsteps_key(data: str) -> Dataset:
    """Returns the songs with their key.

    Raises:
        UserError: annotations or all audio are missing, or a line is not as expected.
    """
    folder = Path(data)
    audio = audio_by_stem(folder)
    left_out: Counter[str] = Counter()
    listed = [*_read_train(folder, left_out), *_read_test(folder)]
    items = []
    for id, split, key, group in listed:
        path = audio.get(f"{id}.LOFI") or audio.get(id)
        if path is None:
            left_out[AUDIO_MISSING] += 1
        else:
            items.append(Item(id, split, key, path, group))
    if not items:
        raise UserError(f"{data}: none of the {len(listed)} songs has its audio, NUMBER.LOFI.mp3. {SOURCE}")
    return Dataset(items, KEYS, left_out, published_problem(count_splits(items), COUNTS))


def _read_train(folder: Path, left_out: Counter[str]) -> list[tuple[str, str, str, str | None]]:
    repository = "giantsteps-mtg-key-dataset*"
    table = require(folder, (f"{repository}/annotations/annotations.txt",), SOURCE)
    credits = require(folder, (f"{repository}/annotations/beatport_metadata.txt",), SOURCE)
    group_of = _connected_artists(credits)
    val = {group for artist, group in group_of.items() if _is_val(artist)}
    artist_of = {row["ID"]: _artists(row["ARTIST"])[0] for _, row in numbered_rows(credits, "\t")}
    songs: list[tuple[str, str, str, str | None]] = []
    for number, row in numbered_rows(table, "\t"):
        check_columns(table, row, ("ID", "MANUAL KEY", "C"))
        id, where = row["ID"], f"{table}, line {number}"
        if row["C"] != _SURE:
            left_out["key uncertain"] += 1
        elif "/" in row["MANUAL KEY"]:
            left_out["several keys"] += 1
        elif id not in artist_of:
            raise UserError(f"{where}: the song {id} is not in {credits.name}; clone the repository anew")
        else:
            with mistakes_in(where):
                key = _key(row["MANUAL KEY"])
            group = group_of[artist_of[id]]
            songs.append((id, "val" if group in val else "train", key, group))
    return songs


def _read_test(folder: Path) -> list[tuple[str, str, str, str | None]]:
    keys = require(folder, ("giantsteps-key-dataset*/annotations/key",), SOURCE)
    songs: list[tuple[str, str, str, str | None]] = []
    for path in sorted(keys.glob("*.key")):
        with mistakes_in(path):
            key = _key(read_text(path))
        songs.append((path.name.partition(".")[0], "test", key, None))
    if not songs:
        raise UserError(f"{keys}: no file *.key in it. {SOURCE}")
    return songs


def _key(text: str) -> str:
    tonic, _, mode = text.strip().partition(" ")
    tonic = _FLATS.get(tonic, tonic)
    if tonic not in _TONICS or mode not in _MODES:
        raise UserError(f"found the key {text.strip()!r}; expected one such as Eb minor, D# minor or C major")
    return f"{tonic}:{_MODES[mode]}"


def _artists(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _is_val(artist: str) -> bool:
    number = int(hashlib.sha1(artist.lower().encode("utf-8")).hexdigest(), 16)
    return number % _PARTS >= _TRAIN_PARTS


def _connected_artists(table: Path) -> dict[str, str]:
    """Returns of each artist the name that stands for all that made songs together, directly or not."""
    parent: dict[str, str] = {}

    def root(artist: str) -> str:
        while parent.setdefault(artist, artist) != artist:
            artist = parent[artist]
        return artist

    for number, row in numbered_rows(table, "\t"):
        check_columns(table, row, ("ID", "ARTIST"))
        if not row["ARTIST"]:
            raise UserError(
                f"{table}, line {number}: the song {row['ID']} has no artist, by whom the songs are split; "
                "clone the repository anew"
            )
        first, *others = (root(artist) for artist in _artists(row["ARTIST"]))
        for other in others:
            parent[root(other)] = root(first)
    return {artist: root(artist) for artist in parent}
