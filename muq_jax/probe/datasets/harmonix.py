"""The Harmonix Set: 912 pop songs with the function of each section, in 7 classes.

FOLDER/dataset/segments/0001_12step.txt of github.com/urinieto/harmonixset: a time and a label in a line, the
label of what starts there, "end" where the song does (read at e35da7a: 912 files; in two the last is not
"end", and what comes after that line has no label here). Audio is not distributed:
FOLDER/**/0001_12step.mp3, of any format, is whatever recording the user has, in time with the labels.

The labels are free text. The seven classes, and the words by which a label is given its class, are those of
Wang, Hung and Smith 2022 (arXiv 2205.14700, algorithm 1). SongFormer scores the same seven, with pre-chorus
as verse (its README at 139b2aa); All-In-One has ten of its own (its `src/allin1/config.py` at 18e7890).

MARBLE has announced this task and published neither code nor a split. Ours: by SHA-256 of the song's name, 8
to train, 1 to val, 1 to test. (All-In-One cross-validates, by the place in the sorted names.)
"""

import hashlib
import itertools
from collections import Counter
from pathlib import Path

from muq_jax.errors import UserError
from muq_jax.probe.datasets.folder import AUDIO_MISSING, audio_by_stem, read_text, require
from muq_jax.probe.task import Dataset, Item

FUNCTIONS = ("intro", "verse", "chorus", "bridge", "inst", "outro", "silence")
SOURCE = (
    "The Harmonix Set: github.com/urinieto/harmonixset (labels and dataset/youtube_urls.csv, no audio); "
    "put your own recordings in FOLDER/audio, each called as its file in dataset/segments, such as "
    "0001_12step.mp3, and give FOLDER"
)
NUM_SONGS = 912
# The first line with a word that is in the label decides: "prechorus" is a verse, "introchorus" a chorus.
_WORDS = (
    ("silence", ("silence",)),
    ("verse", ("pre-chorus", "prechorus")),
    ("chorus", ("refrain", "chorus", "theme", "stutter")),
    ("verse", ("verse", "rap", "section", "slow", "build", "dialog")),
    ("intro", ("intro", "fadein", "opening")),
    ("bridge", ("bridge", "trans")),
    ("outro", ("out", "coda", "ending")),
)
_SPLIT_OF_TENTH = ("train",) * 8 + ("val", "test")


def function_of(label: str) -> str:
    """Returns the class of a section's label; what no word speaks for is instrumental."""
    label = label.lower()
    return next((function for function, words in _WORDS if any(word in label for word in words)), "inst")


def split_of(song: str) -> str:
    """Returns the split of a song: the same whatever other songs there are."""
    return _SPLIT_OF_TENTH[int(hashlib.sha256(song.encode()).hexdigest(), 16) % 10]


def read_harmonix_structure(data: str) -> Dataset:
    """Returns the songs with the function of their sections.

    Raises:
        UserError: the labels or all audio are missing, or a line is not as expected.
    """
    folder = Path(data)
    segments = require(folder, ("dataset/segments", "segments", "*/dataset/segments"), SOURCE)
    paths = sorted(segments.glob("*.txt"))
    audio = audio_by_stem(folder)
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for path in paths:
        song = path.stem
        if song in audio:
            items.append(Item(song, split_of(song), _sections(path), audio[song], group=song))
        else:
            left_out[AUDIO_MISSING] += 1
    if not items:
        raise UserError(f"{data}: none of the {len(paths)} songs has its audio. {SOURCE}")
    problems = [
        "MARBLE has published no split of this task. This one is our own: a score compares with others of "
        "this split alone."
    ]
    if len(items) < NUM_SONGS:
        problems.append(f"There are {len(items)} of the {NUM_SONGS} songs.")
    return Dataset(items, FUNCTIONS, left_out, tuple(problems))


def _sections(path: Path) -> tuple[tuple[float, float, str], ...]:
    starts: list[tuple[float, str]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            start, label = line.split(maxsplit=1)
            starts.append((float(start), label.strip()))
        except ValueError:
            raise UserError(
                f"{path}, line {number}: found {line.strip()!r}; expected a time in seconds and a label"
            ) from None
        if len(starts) > 1 and starts[-1][0] < starts[-2][0]:
            raise UserError(f"{path}, line {number}: {starts[-1][0]} s comes after {starts[-2][0]} s")
    return tuple(
        (start, end, function_of(label))
        for (start, label), (end, _) in itertools.pairwise(starts)
        if label != "end" and end > start
    )
