"""MTG-Jamendo: songs with tags of genre, instrument and mood or theme, in its split 0.

    FOLDER/**/data/splits/split-0/autotagging_SUBSET-{train,validation,test}.tsv    from the repository
    FOLDER/**/48/948.mp3, or 948.low.mp3                                            from its download.py

A subset is top50tags, genre, instrument or moodtheme. A row holds TRACK_ID, ARTIST_ID, ALBUM_ID, PATH (such
as 48/948.mp3), DURATION and one tag or more, such as genre---rock. The classes are all tags of the three
lists, as in MARBLE, here in the order of the alphabet. Where a track is there twice, 948.low.mp3 is taken,
as in MARBLE (v1's `benchmark/tasks/MTG/MTGTop50_dataset.py`).

Counted in the repository at 1b4fa8c: the numbers of `SUBSETS`, each split has every tag, and no artist is in
two splits. Instrument has 41 tags in the whole table and 40 in the split.
"""

import dataclasses
from collections import Counter
from pathlib import Path

from muq_jax.data.mtg_jamendo import CATEGORIES, LISTS, PLACES, read_rows
from muq_jax.errors import UserError
from muq_jax.probe.datasets.folder import (
    AUDIO_MISSING,
    audio_by_stem,
    count_splits,
    published_problem,
    require,
)
from muq_jax.probe.task import SPLITS, Dataset, Item


@dataclasses.dataclass(frozen=True)
class Subset:
    """What is published of a subset.

    Attributes:
        name: in the names of its lists.
        num_tags: in its split 0.
        counts: tracks of train, validation and test.
        categories: with which its tags begin.
    """

    name: str
    num_tags: int
    counts: tuple[int, int, int]
    categories: tuple[str, ...]


TOP50 = Subset("top50tags", 50, (32_136, 10_888, 11_356), CATEGORIES)
GENRE = Subset("genre", 87, (32_572, 11_043, 11_479), CATEGORIES[:1])
INSTRUMENT = Subset("instrument", 40, (14_395, 5_466, 5_115), CATEGORIES[1:2])
MOOD = Subset("moodtheme", 56, (9_949, 3_802, 4_231), CATEGORIES[2:])
SUBSETS = (TOP50, GENRE, INSTRUMENT, MOOD)

SOURCE = (
    "MTG-Jamendo: clone github.com/MTG/mtg-jamendo-dataset and run its scripts/download/download.py "
    "--dataset raw_30s --type audio-low --unpack --remove AUDIO (156 GB; for moods --dataset "
    "autotagging_moodtheme, 46 GB, is enough); have the clone and AUDIO in one folder and give that"
)


def read_mtg_jamendo_top50(data: str) -> Dataset:
    """Returns the tracks with those of the 50 most frequent tags that they have.

    Raises:
        UserError: a list or all audio is missing, or a row is not as expected.
    """
    return _read(data, TOP50)


def read_mtg_jamendo_genre(data: str) -> Dataset:
    """Returns the tracks that have a genre, with their genres. Raises as `read_mtg_jamendo_top50`."""
    return _read(data, GENRE)


def read_mtg_jamendo_instrument(data: str) -> Dataset:
    """Returns the tracks whose instruments are named. Raises as `read_mtg_jamendo_top50`."""
    return _read(data, INSTRUMENT)


def read_mtg_jamendo_mood(data: str) -> Dataset:
    """Returns the tracks that have a mood or theme. Raises as `read_mtg_jamendo_top50`."""
    return _read(data, MOOD)


def _read(data: str, subset: Subset) -> Dataset:
    folder = Path(data)
    lists = [_find_list(folder, subset, split) for split in LISTS.values()]
    audio = audio_by_stem(folder)
    items: list[Item] = []
    classes: set[str] = set()
    left_out: Counter[str] = Counter()
    for split, path in zip(SPLITS, lists, strict=True):
        for track, artist, stem, tags in read_rows(path, subset.categories):
            classes.update(tags)
            found = audio.get(f"{stem}.low") or audio.get(stem)
            if found is None:
                left_out[AUDIO_MISSING] += 1
            else:
                items.append(Item(track, split, tags, found, artist))
    if not items:
        raise UserError(f"{data}: none of the {left_out.total()} tracks has its MP3, 48/948.mp3. {SOURCE}")
    problems = published_problem(count_splits(items), subset.counts)
    if len(classes) != subset.num_tags:
        problems += (f"The lists have {len(classes)} tags, and {subset.num_tags} as published.",)
    return Dataset(items, tuple(sorted(classes)), left_out, problems)


def _find_list(folder: Path, subset: Subset, split: str) -> Path:
    name = f"split-0/autotagging_{subset.name}-{split}.tsv"
    return require(folder, (*(f"{place}/{name}" for place in PLACES), name), SOURCE)
