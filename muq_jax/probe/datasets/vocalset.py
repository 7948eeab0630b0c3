"""VocalSet: twenty singers, and either who sings or with what technique.

FOLDER/FULL/female1/arpeggios/belt/f1_arpeggios_belt_c_a.wav and so on (VocalSet 1.1), or data_by_singer in
the place of FULL (1.2); other folders are not read. The singer is the start of the file's name, as in
MARBLE, or the folder's where a name has none (some twenty files of 1.1). The folder a file is in is its
technique.

The split is MARBLE v1's rule (read in its `benchmark/tasks/VocalSet/preprocess.py` at d9300e3): its group of
a recording is the place among the sorted files of its technique, whatever the singer, so that the fifth belt
goes where the fifth trill goes; one numpy generator, seed 42617, first parts the techniques and then the
singers. Singers: 17 technique folders, test 0.2 of the groups, valid 0.4 of the others. Techniques: 10 of
those folders, test singers f2 f8 m3 m5 m10, valid 0.4 of the others' groups. MARBLE draws after it has cut
silence and kept whole 3-s chunks: where no file of a group has a chunk, its draw differs from this one. Its
five files that are doubles or not in the paper's table are left out here, too.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from muq_jax.audio.files import audio_files
from muq_jax.errors import UserError
from muq_jax.probe.datasets.folder import require
from muq_jax.probe.task import Dataset, Item

SINGERS = (*(f"f{number}" for number in range(1, 10)), *(f"m{number}" for number in range(1, 12)))
TECHNIQUES = (
    "belt",
    "breathy",
    "inhaled",
    "lip_trill",
    "spoken",
    "straight",
    "trill",
    "trillo",
    "vibrato",
    "vocal_fry",
)
SOURCE = (
    "VocalSet: VocalSet11.zip of zenodo.org/records/1203819, or VocalSet1-2.zip of "
    "zenodo.org/records/1193957; unpack it and give the folder that holds FULL or data_by_singer"
)
_OTHER_TECHNIQUES = ("fast_forte", "fast_piano", "forte", "messa", "pp", "slow_forte", "slow_piano")
_TEST_SINGERS = ("f2", "f8", "m3", "m5", "m10")
_NOT_USED = (
    "f2_scales_vibrato_a(1).wav",
    "caro_vibrato.wav",
    "dona_vibrato.wav",
    "row_vibrato.wav",
    "slow_vibrato_arps.wav",
)
_SEED = 42617


@dataclasses.dataclass(frozen=True)
class _Recording:
    """A file; `group` is MARBLE's: its place among the files of its technique."""

    id: str
    path: Path
    singer: str
    technique: str
    group: int


def read_vocalset_singer(data: str) -> Dataset:
    """Returns the recordings with their singer.

    Raises:
        UserError: there are none, or a folder is not a singer's.
    """
    recordings, left_out = _recordings(data)
    generator = np.random.RandomState(_SEED)
    learners = [r for r in recordings if r.technique in TECHNIQUES and r.singer not in _TEST_SINGERS]
    _part(learners, 0.4, generator)  # MARBLE draws for the techniques first
    rest, test = _part(recordings, 0.2, generator)
    train, val = _part(rest, 0.4, generator)
    return _dataset({"train": train, "val": val, "test": test}, "singer", SINGERS, left_out)


def read_vocalset_technique(data: str) -> Dataset:
    """Returns the recordings of ten techniques.

    Raises:
        UserError: as of `read_vocalset_singer`.
    """
    recordings, left_out = _recordings(data)
    used = [r for r in recordings if r.technique in TECHNIQUES]
    if len(used) < len(recordings):
        left_out["another technique"] += len(recordings) - len(used)
    test = [r for r in used if r.singer in _TEST_SINGERS]
    rest = [r for r in used if r.singer not in _TEST_SINGERS]
    train, val = _part(rest, 0.4, np.random.RandomState(_SEED))
    return _dataset({"train": train, "val": val, "test": test}, "technique", TECHNIQUES, left_out)


def _recordings(data: str) -> tuple[list[_Recording], Counter[str]]:
    places = ("FULL", "*/FULL", "data_by_singer", "*/data_by_singer")
    root = require(Path(data), (*places, "female1", "male1"), SOURCE)
    root = root.parent if root.name in ("female1", "male1") else root
    left_out: Counter[str] = Counter()
    found: dict[str, list[tuple[str, str, Path]]] = {}  # technique -> (name, singer, path)
    for relative in audio_files(root):
        parts = Path(relative).parts
        folder, technique, name = parts[0], parts[-2] if len(parts) > 2 else "", parts[-1]
        of_folder = folder.replace("female", "f").replace("male", "m")
        if of_folder not in SINGERS:
            raise UserError(
                f"{root / relative}: the folder {folder!r} is no singer's; expected female1 to female9 and "
                f"male1 to male11. {SOURCE}"
            )
        if technique not in (*TECHNIQUES, *_OTHER_TECHNIQUES):
            left_out["another technique"] += 1
        elif name in _NOT_USED:
            left_out["a double, or not in the paper's table"] += 1
        else:
            start = name.split("_")[0]
            name = name if start in SINGERS else f"{of_folder}_{name}"
            singer = start if start in SINGERS else of_folder
            found.setdefault(technique, []).append((name, singer, Path(relative)))
    recordings = [
        _Recording(path.with_suffix("").as_posix(), root / path, singer, technique, place)
        for technique in sorted(found)
        for place, (_, singer, path) in enumerate(sorted(found[technique]))
    ]
    return recordings, left_out


def _part(
    recordings: Sequence[_Recording], share: float, generator: np.random.RandomState
) -> tuple[list[_Recording], list[_Recording]]:
    """Returns the recordings without a share of the groups, and those of that share."""
    groups = [recording.group for recording in recordings]
    if len(set(groups)) < 2:
        return list(recordings), []
    splitter = GroupShuffleSplit(n_splits=1, test_size=share, random_state=generator)
    first, second = next(splitter.split(groups, groups=groups))
    return [recordings[i] for i in first], [recordings[i] for i in second]


def _dataset(
    parts: dict[str, list[_Recording]], label: str, classes: tuple[str, ...], left_out: Counter[str]
) -> Dataset:
    items = [
        Item(r.id, split, getattr(r, label), r.path, group=r.id)
        for split, recordings in parts.items()
        for r in recordings
    ]
    missing = [name for name in classes if not any(item.label == name for item in items)]
    problems = (f"There are no recordings of {', '.join(missing)}.",) if missing else ()
    return Dataset(sorted(items, key=lambda item: item.id), classes, left_out, problems)
