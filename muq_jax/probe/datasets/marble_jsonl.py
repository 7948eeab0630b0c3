"""MARBLE v2's own lists: FOLDER/NAME.{train,val,test}.jsonl, one recording a line.

A line has `audio_path` (such as data/GTZAN/genres/blues/blues.00012.wav, from where MARBLE runs), `label`,
`duration`, `sample_rate`, `num_samples`, `bit_depth` and `channels`; GS and HookTheory have `ori_uid`, which
clips of one song share. What `label` holds is, by the list's name (read in the EXAMPLE_JSONL and LABEL2IDX
of `marble/tasks/*/datamodule.py` and in `configs/probe.MuQ.*.yaml` at 938c03a):

    GTZANGenre                                  "blues"
    GTZANBeatTracking                           {"beat": [s, ...], "downbeat": [s, ...], "tempo": 126.5}
    GS                                          "Eb minor", here Eb:min; a file is a 30-s clip of a song
    EMO                                         [arousal, valence]
    MTT                                         ["classical", "violin"], may be empty
    MTGTop50, MTGGenre, MTGInstrument, MTGMood  ["genre---rock", ...]
    Chords1217                                  [{"start_time": s, "end_time": s, "chord_str": "D:maj"}, ...]
    HookTheoryKey                               "D major", or another mode, which MARBLE leaves out
    HookTheoryStructure                         ["chorus"], or two: ["pre-chorus", "chorus"]

NSynth and VocalSet are tasks of v1 only. The lists come from the organisation m-a-p of Hugging Face (GTZAN,
EMO, GS, MTT, MTG, and on request Chords1217 and HookTheory), a folder each. How many lines they have is not
published.

Two things MARBLE does that are not done here: the scores of HookTheoryKey are those of its clips, where
MARBLE averages all clips of one video, whose keys may differ; and of chords, times are taken as they stand,
where MARBLE lets a chord last until the next one begins and no-chord frames have the chord before them.
"""

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.audio.decode import load_audio
from muq_jax.errors import UserError, mistakes_in
from muq_jax.probe.datasets.chords import MAJMIN, majmin
from muq_jax.probe.datasets.folder import AUDIO_MISSING, read_text
from muq_jax.probe.datasets.giantsteps import KEYS
from muq_jax.probe.datasets.gtzan import GENRES
from muq_jax.probe.task import SPLITS, Beats, Dataset, Item

_KEY_OF = {key.replace(":maj", " major").replace(":min", " minor"): key for key in KEYS}
_TONICS = frozenset(key.partition(" ")[0] for key in _KEY_OF)

SECTIONS = ("intro", "verse", "pre-chorus", "chorus", "bridge", "outro", "inst")
SHORTEST_KEY_CLIP_SECONDS = 12.0  # MARBLE keeps windows of 15 s that are full to 80 %
_OTHER_MODES = frozenset(
    ("dorian", "phrygian", "lydian", "mixolydian", "locrian", "harmonicMinor", "phrygianDominant")
)
_SECTION_OF = {
    **{name: name for name in SECTIONS},
    "instrumental": "inst",
    "solo": "inst",
    "pre-chorus_chorus": "chorus",
    "verse_pre-chorus": "verse",
    "intro_verse": "verse",
    "intro_chorus": "chorus",
}


class _LeftOut(Exception):
    """A line that MARBLE leaves out, too; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class _List:
    """How a task's label is read.

    Attributes:
        source: the data set at m-a-p.
        read: from the label's JSON to an item's label.
        classes: None where they are whatever tags there are.
        num_tags: how many tags there should be.
        shortest: seconds; a shorter clip has no window in MARBLE.
    """

    source: str
    read: Callable[[Any], Any]
    classes: tuple[str, ...] | None = None
    num_tags: int = 0
    shortest: float = 0.0


def is_marble_jsonl(data: str, name: str) -> bool:
    """Returns whether a folder, or one that it holds, has MARBLE v2's list of this name ("GTZANGenre")."""
    return name in _LISTS and _find(data, name, "train") is not None


def read_marble_jsonl(data: str, name: str) -> Dataset:
    """Returns the recordings of MARBLE v2's lists.

    Args:
        data: the folder with the three lists, or one above (MARBLE's `data`).
        name: of the lists, such as "GTZANGenre".

    Raises:
        UserError: a list or all audio is missing, or a line is not as expected.
    """
    kind = _LISTS[name]
    source = (
        f"MARBLE's data set m-a-p/{kind.source} at Hugging Face holds {name}.train.jsonl, {name}.val.jsonl, "
        f"{name}.test.jsonl and the audio; put it in FOLDER/{kind.source} and give that folder"
    )
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for split in SPLITS:
        path = _find(data, name, split)
        if path is None:
            raise UserError(f"{data}: there is no {name}.{split}.jsonl. {source}")
        for where, row in _rows(path):
            with mistakes_in(where):
                try:
                    item = _item(row, split, path.parent, kind)
                except _LeftOut as reason:
                    left_out[str(reason)] += 1
                else:
                    items.append(item)
    if not items:
        raise UserError(f"{data}: no line of {name}'s lists can be used ({dict(left_out)}). {source}")
    if name == "GS":
        items = _joined(items)
    classes = kind.classes
    problems: list[str] = []
    if classes is None:
        classes = tuple(sorted({tag for item in items for tag in item.label}))
        if len(classes) != kind.num_tags:
            problems.append(f"{name} has {len(classes)} tags here, and {kind.num_tags} in MARBLE.")
    if missing := left_out[AUDIO_MISSING]:
        problems.append(f"{missing} recordings of MARBLE's lists have no audio here.")
    videos = Counter(item.group for item in items if item.split == "test" and item.group is not None)
    if name == "HookTheoryKey" and any(times > 1 for times in videos.values()):
        problems.append("Clips are scored; MARBLE averages those of one video first, whose keys may differ.")
    return Dataset(without_shared_groups(items), classes, left_out, tuple(problems))


def shared_groups(items: Sequence[Item]) -> dict[str, frozenset[str]]:
    """Returns the splits of each group that is in several."""
    splits = defaultdict(set)
    for item in items:
        if item.group is not None:
            splits[item.group].add(item.split)
    return {group: frozenset(found) for group, found in splits.items() if len(found) > 1}


def without_shared_groups(items: Sequence[Item]) -> list[Item]:
    """Returns the items, without the groups that a published split has put in several splits."""
    shared = shared_groups(items)
    return [dataclasses.replace(item, group=None) if item.group in shared else item for item in items]


@dataclasses.dataclass(frozen=True)
class JoinedClips:
    """The sound of several files one after the other."""

    paths: tuple[Path, ...]

    def __call__(self) -> np.ndarray:
        """Returns float32 [S] at 24 kHz."""
        return np.concatenate([load_audio(path) for path in self.paths])


def _joined(items: Sequence[Item]) -> list[Item]:
    """Returns an item a song, so that what is scored is a song, as in MARBLE."""
    songs = defaultdict(list)
    for item in items:
        songs[item.split, item.group or item.id].append(item)
    joined = []
    for (split, song), clips in songs.items():
        if len(labels := {clip.label for clip in clips}) > 1:
            raise UserError(f"the clips of the song {song} ({split}) have several keys: {sorted(labels)}")
        paths = tuple(clip.audio for clip in clips if isinstance(clip.audio, Path))
        audio = paths[0] if len(paths) == 1 else JoinedClips(paths)
        joined.append(dataclasses.replace(clips[0], id=song, audio=audio))
    return joined


def _find(data: str, name: str, split: str) -> Path | None:
    file = f"{name}.{split}.jsonl"
    places = (Path(data), Path(data) / _LISTS[name].source, Path(data) / "data" / _LISTS[name].source)
    return next((place / file for place in places if (place / file).is_file()), None)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error}); expected one JSON object a line") from None
        if not (isinstance(row, dict) and isinstance(row.get("audio_path"), str) and "label" in row):
            raise UserError(f"{where}: found {line[:80]}; expected an object with `audio_path` and `label`")
        yield where, row


def _item(row: dict[str, Any], split: str, folder: Path, kind: _List) -> Item:
    """Raises _LeftOut where MARBLE has no such item either, or its audio is missing."""
    try:
        label = kind.read(row["label"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"the label {str(row['label'])[:80]} is not as MARBLE v2 writes it") from None
    rate, samples = row.get("sample_rate"), row.get("num_samples")
    if kind.shortest and rate and samples and samples < kind.shortest * rate:
        raise _LeftOut(f"shorter than {kind.shortest:g} s")
    stated = Path(row["audio_path"])
    # The first two names are data and the folder's own, wherever the folder lies now.
    places = (stated,) if stated.is_absolute() else (folder / Path(*stated.parts[2:]), folder / stated)
    audio = next((place for place in places if place.is_file()), None)
    if audio is None:
        raise _LeftOut(AUDIO_MISSING)
    group = row.get("ori_uid")
    return Item(row["audio_path"], split, label, audio, None if group is None else str(group))


def _one_of(classes: Sequence[str]) -> Callable[[Any], str]:
    def read(label: Any) -> str:
        if label not in classes:
            raise UserError(f"the label {label!r} is unknown; expected one of {', '.join(classes)}")
        return str(label)

    return read


def _key(label: str) -> str:
    tonic, _, mode = label.partition(" ")
    if tonic in _TONICS and mode in _OTHER_MODES:
        raise _LeftOut("mode other than major and minor")
    return _KEY_OF[_one_of(tuple(_KEY_OF))(label)]


def _section(label: str | list[str]) -> str:
    name = label if isinstance(label, str) else "_".join(label)
    return _SECTION_OF[_one_of(tuple(_SECTION_OF))(name)]


def _tags(label: list[str]) -> tuple[str, ...]:
    if isinstance(label, str):
        raise TypeError
    return tuple(str(tag) for tag in label)


def _numbers(label: list[float]) -> tuple[float, float]:
    arousal, valence = (float(number) for number in label)
    return arousal, valence


def _beats(label: dict[str, list[float]]) -> Beats:
    def times(name: str) -> tuple[float, ...]:
        return tuple(float(time) for time in label.get(name, []))

    return Beats(times("beat"), times("downbeat"))


def _chords(label: list[dict[str, Any]]) -> tuple[tuple[float, float, str], ...]:
    reduced = (
        (float(part["start_time"]), float(part["end_time"]), majmin(part["chord_str"])) for part in label
    )
    return tuple((start, end, name) for start, end, name in reduced if name is not None)


_LISTS = {
    "GTZANGenre": _List("GTZAN", _one_of(GENRES), GENRES),
    "GTZANBeatTracking": _List("GTZAN", _beats, ()),
    "GS": _List("GS", _key, KEYS),
    "EMO": _List("EMO", _numbers, ("arousal", "valence")),
    "MTT": _List("MTT", _tags, num_tags=50),
    "MTGTop50": _List("MTG", _tags, num_tags=50),
    "MTGGenre": _List("MTG", _tags, num_tags=87),
    "MTGInstrument": _List("MTG", _tags, num_tags=40),
    "MTGMood": _List("MTG", _tags, num_tags=56),
    "Chords1217": _List("Chords1217", _chords, MAJMIN),
    "HookTheoryKey": _List("HookTheory", _key, KEYS, shortest=SHORTEST_KEY_CLIP_SECONDS),
    "HookTheoryStructure": _List("HookTheory", _section, SECTIONS, shortest=1.5),
}
MARBLE_V2_NAMES = tuple(_LISTS)
"""The names of MARBLE v2's lists."""
