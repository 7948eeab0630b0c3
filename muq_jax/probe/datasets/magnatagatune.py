"""MagnaTagATune: clips of 29 seconds, each with those of the 50 most frequent tags that it was given.

    FOLDER/annotations_final.csv           separated by tabs: clip_id, 188 tags (0 or 1), mp3_path
    FOLDER/0/*.mp3 to FOLDER/f/*.mp3       mp3.zip.001 to .003, put together and unpacked; or in FOLDER/mp3

Folders 0 to b are train, c is validation, d to f are test, and clips without any of the tags are kept, as in
MARBLE v1 (its `benchmark/tasks/MTT/preprocess.py`). The table has 25,863 clips; three MP3s, in folders 6, 8
and 9, are empty, which leaves 18,706, 1,825 and 5,329. Many other papers take the cleaned split, without the
clips that have none of the tags: its test list (minzwon/sota-music-tagging-models at c5c726c, `split/mtat`)
names 4,332 clips, those of folders d to f with a tag, one for one. The tags are those of MARBLE v2, which are
those of two other lists (jongpillee/music_dataset_split, keunwoochoi/magnatagatune-list), so that a part of
the data has the same.

A song's clips are all in one folder, but 45 artists of train are in test, too (counted in the clips that the
cleaned split names): the group is the song.
"""

import re
from collections import Counter
from pathlib import Path

from muq_jax.errors import UserError
from muq_jax.probe.datasets.folder import (
    AUDIO_MISSING,
    check_columns,
    count_splits,
    numbered_rows,
    published_problem,
    require,
)
from muq_jax.probe.task import Dataset, Item

TAGS = (
    *("ambient", "beat", "beats", "cello", "choir", "choral", "classic", "classical", "country", "dance"),
    *("drums", "electronic", "fast", "female", "female vocal", "female voice", "flute", "guitar", "harp"),
    *("harpsichord", "indian", "loud", "male", "male vocal", "male voice", "man", "metal", "new age"),
    *("no vocal", "no vocals", "no voice", "opera", "piano", "pop", "quiet", "rock", "singing", "sitar"),
    *("slow", "soft", "solo", "strings", "synth", "techno", "violin", "vocal", "vocals", "voice", "weird"),
    "woman",
)
COUNTS = (18_706, 1_825, 5_329)
NUM_TEST_CLEANED = 4_332
"""Test clips of the cleaned split, which leaves out those without any of the tags."""
SOURCE = (
    "MagnaTagATune (about 3 GB): take annotations_final.csv and mp3.zip.001, mp3.zip.002 and mp3.zip.003 of "
    "mirg.city.ac.uk/codeapps/the-magnatagatune-dataset, put the three together (cat mp3.zip.* > mp3.zip), "
    "unpack them in one folder with the table and give that"
)
_SPLIT_OF = {**dict.fromkeys("0123456789ab", "train"), "c": "val", **dict.fromkeys("def", "test")}
# artist-album-track-title-FROM-TO.mp3
_SECONDS = re.compile(r"-\d+-\d+$")


def read_magnatagatune(data: str) -> Dataset:
    """Returns the clips with their tags among the 50; a clip may have none.

    Raises:
        UserError: the table or all audio is missing, or a row is not as expected.
    """
    folder = Path(data)
    name = "annotations_final.csv"
    table = require(folder, (name, f"*/{name}", f"**/{name}"), SOURCE)
    audio = _audio_root(folder)
    if audio is None:
        raise UserError(
            f"{folder}: none of the folders 0 to f with the MP3s is in it or in its mp3. {SOURCE}"
        )
    sizes = {
        f"{name}/{path.name}": path.stat().st_size
        for name in _SPLIT_OF
        if (audio / name).is_dir()
        for path in (audio / name).iterdir()
    }
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for number, row in numbered_rows(table, "\t"):
        check_columns(table, row, ("mp3_path", *TAGS))
        path = row["mp3_path"]
        split = _SPLIT_OF.get(path.partition("/")[0])
        if split is None or not path.endswith(".mp3"):
            raise UserError(
                f"{table}, line {number}: mp3_path is {path!r}; expected a file in one of the folders 0 to "
                "f, such as f/artist-album-01-title-0-29.mp3"
            )
        values = {tag: row[tag] for tag in TAGS}
        if wrong := [tag for tag, value in values.items() if value not in ("0", "1")]:
            raise UserError(
                f"{table}, line {number}: the column {wrong[0]!r} holds {values[wrong[0]]!r}; expected 0 or 1"
            )
        if not sizes.get(path):
            left_out[AUDIO_MISSING if path not in sizes else "audio empty"] += 1
            continue
        label = tuple(tag for tag, value in values.items() if value == "1")
        id = path.removesuffix(".mp3")
        items.append(Item(id, split, label, audio / path, _SECONDS.sub("", id)))
    if not items:
        raise UserError(
            f"{folder}: none of the {left_out.total()} clips of {table.name} has its MP3. {SOURCE}"
        )
    return Dataset(items, TAGS, left_out, published_problem(count_splits(items), COUNTS))


def _audio_root(folder: Path) -> Path | None:
    """The folder that holds the folders 0 to f."""
    places = (folder, folder / "mp3", *sorted(path for path in folder.iterdir() if path.is_dir()))
    return next((place for place in places if any((place / name).is_dir() for name in _SPLIT_OF)), None)
