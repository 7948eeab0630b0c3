"""Chords1217: 1217 songs with their chords, reduced to 25 classes.

Either MARBLE v2's Chords1217.{train,val,test}.jsonl (see `marble_jsonl`), or the layout of the corpus that
they were made from, github.com/music-x-lab/ISMIR2019-Large-Vocabulary-Chord-Recognition (read in its README
and its `data` folder at 481f4ce):

    FOLDER/audio/TR6R91L11C8A40D710.mp3     of any format; not distributed
    FOLDER/chordlab/TR6R91L11C8A40D710.lab  start, end, label in a line
    FOLDER/train00.csv, FOLDER/test00.csv   of the repository's `data`: fold 0 of five, 973 and 244 ids

The repository has no validation lists; here a ninth of train00.csv is taken by a digest of the id. How
MARBLE v2 has split the songs is in its lists alone. The layouts of Isophonics, Billboard, RWC and USPop,
from which the corpus was put together, are not read: nobody has published which of their songs has which id.
"""

import hashlib
from collections import Counter
from pathlib import Path

from muq_jax.errors import UserError, mistakes_in
from muq_jax.probe.datasets.chords import MAJMIN, majmin
from muq_jax.probe.datasets.folder import AUDIO_MISSING, audio_by_stem, read_text, require
from muq_jax.probe.datasets.marble_jsonl import is_marble_jsonl, read_marble_jsonl
from muq_jax.probe.task import Dataset, Item

SOURCE = (
    "Either MARBLE's data set m-a-p/Chords1217 at Hugging Face (on request): put Chords1217.train.jsonl, "
    ".val.jsonl, .test.jsonl and audio/ in a folder and give that. Or a folder with chordlab/ID.lab, your "
    "own audio/ID.mp3, and train00.csv and test00.csv of "
    "github.com/music-x-lab/ISMIR2019-Large-Vocabulary-Chord-Recognition"
)
_FOLD_0 = ("train00.csv", "test00.csv")


def read_chords1217(data: str) -> Dataset:
    """Returns the songs with their chords; a stretch whose chord has no class has no label.

    Raises:
        UserError: lists, labels or all audio are missing, or a line is not as expected.
    """
    if is_marble_jsonl(data, "Chords1217"):
        return read_marble_jsonl(data, "Chords1217")
    folder = Path(data)
    labels = require(folder, ("chordlab", "chord_data_1217/chordlab"), SOURCE)
    train, test = (
        read_text(require(folder, (name, f"data/{name}", f"chord_data_1217/{name}"), SOURCE)).split()
        for name in _FOLD_0
    )
    splits = {id: "val" if _digest(id) % 9 == 0 else "train" for id in train} | dict.fromkeys(test, "test")
    audio = audio_by_stem(folder)
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for id, split in splits.items():
        path = labels / f"{id}.lab"
        if not path.is_file():
            left_out["no labels"] += 1
        elif id not in audio:
            left_out[AUDIO_MISSING] += 1
        else:
            items.append(Item(id, split, _chords(path), audio[id]))
    if not items:
        raise UserError(f"{data}: none of the {len(splits)} songs has both labels and audio. {SOURCE}")
    problems = [
        "The split is fold 0 of the corpus, with a validation part of our own; that of MARBLE is in its "
        "lists alone."
    ]
    if left_out:
        problems.append(f"{left_out.total()} of {len(splits)} songs are missing.")
    return Dataset(items, MAJMIN, left_out, tuple(problems))


def _chords(path: Path) -> tuple[tuple[float, float, str], ...]:
    found = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        with mistakes_in(f"{path}, line {number}"):
            try:
                start, end, label = line.split()
                times = float(start), float(end)
            except ValueError:
                raise UserError(f"found {line.strip()!r}; expected start, end (seconds) and chord") from None
            name = majmin(label)
            if name is not None:
                found.append((*times, name))
    return tuple(found)


def _digest(id: str) -> int:
    return int(hashlib.sha256(id.encode()).hexdigest(), 16)
