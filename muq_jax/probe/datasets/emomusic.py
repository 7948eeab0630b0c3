"""EmoMusic, 1000 songs: arousal and valence of 45-second excerpts, from 1 to 9.

    FOLDER/songs_info.csv            song_id, Artist, "Mediaeval 2013 set" (development or evaluation)
    FOLDER/static_annotations.csv    song_id, mean_arousal, mean_valence; both tables may be in annotations/
    FOLDER/clips_45seconds/2.mp3     named by song_id

744 songs are left of the 1000: 619 of development and 125 of evaluation (the dataset's page). The latter are
test. Of the former, train and val are found as in MARBLE v1 (its `benchmark/tasks/EMO/preprocess.py`): the
SHA-1 of the artist's name (in lower case, of its ASCII letters and single blanks), modulo 10, is below 8 for
train, else val. How many that makes is not published. Names of columns are those that MARBLE reads.

The ratings are of the excerpt as a whole, which is what the clips are. MARBLE v1 hears only the first 30 of
the 45 seconds, v2 all of them, as here.
"""

import hashlib
import math
from collections import Counter
from pathlib import Path

from muq_jax.errors import UserError
from muq_jax.probe.datasets.folder import (
    AUDIO_MISSING,
    audio_by_stem,
    check_columns,
    count_splits,
    numbered_rows,
    require,
)
from muq_jax.probe.datasets.marble_jsonl import shared_groups, without_shared_groups
from muq_jax.probe.task import Dataset, Item

TARGETS = ("arousal", "valence")
NUM_DEVELOPMENT, NUM_EVALUATION = 619, 125
SOURCE = (
    "EmoMusic: ask for it at cvml.unige.ch/databases/emoMusic, unpack clips_45sec.tar.gz and "
    "annotations.tar.gz in one folder and give that"
)
_SET = "Mediaeval 2013 set"
_SETS = ("development", "evaluation")


def read_emomusic(data: str) -> Dataset:
    """Returns the excerpts with (arousal, valence).

    Raises:
        UserError: a table or all audio is missing, or a row is not as expected.
    """
    folder = Path(data)
    infos, ratings = (
        require(folder, (name, f"annotations/{name}", f"**/{name}"), SOURCE)
        for name in ("songs_info.csv", "static_annotations.csv")
    )
    rating_of = _read_ratings(ratings)
    clips = require(folder, ("clips_45seconds", "**/clips_45seconds"), SOURCE)
    audio = {_song(stem): path for stem, path in audio_by_stem(clips).items()}
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for number, row in numbered_rows(infos, ","):
        check_columns(infos, row, ("song_id", "Artist", _SET))
        id, where = _song(row["song_id"]), f"{infos}, line {number}"
        if row[_SET] not in _SETS:
            raise UserError(f"{where}: {_SET} is {row[_SET]!r}; expected {' or '.join(_SETS)}")
        if id not in rating_of:
            raise UserError(f"{where}: the song {id} is not in {ratings}; unpack annotations.tar.gz anew")
        if id not in audio:
            left_out[AUDIO_MISSING] += 1
            continue
        artist = _plain(row["Artist"])
        split = "test" if row[_SET] == "evaluation" else _split_of(artist)
        items.append(Item(id, split, rating_of[id], audio[id], artist or None))
    if not items:
        raise UserError(
            f"{clips}: none of the {left_out.total()} songs has its clip, such as 2.mp3. {SOURCE}"
        )
    return Dataset(without_shared_groups(items), TARGETS, left_out, _problems(items))


def _problems(items: list[Item]) -> tuple[str, ...]:
    train, val, test = count_splits(items)
    problems = []
    if (train + val, test) != (NUM_DEVELOPMENT, NUM_EVALUATION):
        problems.append(
            f"{train + val} excerpts of development and {test} of evaluation were found; published are "
            f"{NUM_DEVELOPMENT} and {NUM_EVALUATION}: the score is not comparable with published ones."
        )
    if shared := shared_groups(items):
        problems.append(
            f"{len(shared)} artists of the evaluation set, such as {min(shared)}, are in the development "
            "set, too, as it is published."
        )
    return tuple(problems)


def _read_ratings(path: Path) -> dict[str, tuple[float, float]]:
    found = {}
    for number, row in numbered_rows(path, ","):
        check_columns(path, row, ("song_id", "mean_arousal", "mean_valence"))
        try:
            arousal, valence = float(row["mean_arousal"]), float(row["mean_valence"])
        except ValueError:
            arousal = valence = math.nan
        if not (1 <= arousal <= 9 and 1 <= valence <= 9):
            raise UserError(
                f"{path}, line {number}: mean_arousal is {row['mean_arousal']!r} and mean_valence "
                f"{row['mean_valence']!r}; expected numbers from 1 to 9. Unpack annotations.tar.gz anew"
            )
        found[_song(row["song_id"])] = (arousal, valence)
    return found


def _song(number: str) -> str:
    return number.lstrip("0") or number


def _plain(artist: str) -> str:
    """The name by which artists are told apart."""
    kept = "".join(c for c in artist.lower() if c.isascii() and (c.isalpha() or c.isspace()))
    return " ".join(kept.split())


def _split_of(artist: str) -> str:
    return "train" if int(hashlib.sha1(artist.encode("ascii")).hexdigest(), 16) % 10 < 8 else "val"
