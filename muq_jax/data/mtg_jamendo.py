"""MTG-Jamendo as it is published: its lists of tags, and its audio, to train on in music and text.

    FOLDER/**/data/splits/split-0/autotagging-{train,validation,test}.tsv     from the repository
    FOLDER/**/48/948.mp3, or 948.low.mp3                                     from its download.py

A row holds TRACK_ID, ARTIST_ID, ALBUM_ID, PATH (such as 48/948.mp3), DURATION and one tag or more, such as
genre---rock, instrument---piano or mood/theme---happy. No artist is in two splits.
"""

import functools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from muq_jax.audio.files import audio_files
from muq_jax.data.manifest import Clip
from muq_jax.errors import UserError

PREFIX = "mtg_jamendo:"
"""Before the folder, where a source is named."""

LISTS = {"train": "train", "val": "validation", "test": "test"}
"""The name of each split in the names of the lists."""

PLACES = ("data/splits", "splits", "mtg-jamendo-dataset*/data/splits", "*/data/splits", "*/splits")
"""Where below a folder the lists' own folder, split-0, may lie."""

CATEGORIES = ("genre", "instrument", "mood/theme")
_COLUMNS = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
_SOURCE = (
    "MTG-Jamendo: clone github.com/MTG/mtg-jamendo-dataset and run its scripts/download/download.py "
    "--dataset raw_30s --type audio-low --unpack --remove AUDIO (156 GB); have the clone and AUDIO in one "
    "folder and give that"
)
_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """A track; `stem` is its file's name without suffix."""

    track: str
    artist: str
    stem: str
    tags: tuple[str, ...]


def mtg_jamendo_clips(folder: str | os.PathLike[str], split: str | None = None) -> list[Clip]:
    """Returns the tracks of the split 0 that have their audio here, with `tags` as their labels.

    How many have none is said. Where a track is there twice, 948.low.mp3 is taken, as probes do.

    Args:
        folder: where lists and audio are.
        split: "train", "val" or "test"; None takes all three.

    Raises:
        UserError: a list is missing or not as published, no track has its audio, or there is no such split.
    """
    folder = Path(folder)
    if split is not None and split not in LISTS:
        raise UserError(f"{PREFIX}{folder}: no clip of split {split!r}; MTG-Jamendo has {', '.join(LISTS)}")
    if not folder.is_dir():
        raise UserError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}. {_SOURCE}")
    tables = {name: _find_list(folder, LISTS[name]) for name in LISTS if split in (None, name)}
    audio = _audio_by_stem(folder)
    clips, num_tracks = [], 0
    for name, table in tables.items():
        for row in read_rows(table, CATEGORIES):
            num_tracks += 1
            if path := audio.get(f"{row.stem}.low") or audio.get(row.stem):
                clips.append(Clip(row.track, path, split=name, labels={"tags": list(row.tags)}))
    if not clips:
        raise UserError(f"{folder}: none of the {num_tracks} tracks has its MP3, 48/948.mp3. {_SOURCE}")
    if len(clips) < num_tracks:
        _say_left_out(folder, split or "all splits", num_tracks - len(clips), num_tracks)
    return clips


def read_rows(path: Path, categories: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of one of the published lists.

    Args:
        path: the list.
        categories: those that its tags may be of.

    Raises:
        UserError: it is no such list; names the line.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text in UTF-8 ({error}); download it anew") from None
    if tuple(lines[0].split()) != _COLUMNS:
        raise UserError(
            f"{path}, line 1: found {lines[0].rstrip()[:80]!r}; expected {', '.join(_COLUMNS)}, separated "
            "by tabs"
        )
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split("\t")]
        if not any(cells):
            continue
        if len(cells) < len(_COLUMNS):
            raise UserError(
                f"{path}, line {number}: {len(cells)} cells; expected {', '.join(_COLUMNS)}, "
                "separated by tabs"
            )
        track, artist, _, file, _, *tags = cells
        for tag in tags:
            if tag.partition("---")[0] not in categories:
                raise UserError(
                    f"{path}, line {number}: the tag {tag!r}; expected CATEGORY---NAME, of the categories "
                    f"{', '.join(categories)}"
                )
        yield Row(track, artist, Path(file).stem, tuple(tags))


def _find_list(folder: Path, name: str) -> Path:
    file = f"split-0/autotagging-{name}.tsv"
    for place in (*(f"{place}/{file}" for place in PLACES), file):
        if found := next(iter(sorted(folder.glob(place))), None):
            return found
    raise UserError(f"{folder}: found no data/splits/{file} here or in a folder below. {_SOURCE}")


def _audio_by_stem(folder: Path) -> dict[str, Path]:
    """The audio files by their names without suffix; of several with one name, the first by its path."""
    found: dict[str, Path] = {}
    try:
        names = audio_files(folder)
    except UserError:  # none at all, which is told in other words
        return found
    for name in names:
        found.setdefault(Path(name).stem, folder / name)
    return found


@functools.cache  # once, however often the source is opened
def _say_left_out(folder: Path, split: str, num_without: int, num_tracks: int) -> None:
    _log.warning(
        "%s: %d of %d tracks of %s have no audio here and are left out",
        folder,
        num_without,
        num_tracks,
        split,
    )
