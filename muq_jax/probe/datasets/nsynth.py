"""NSynth: four-second notes, and either their pitch or the family of their instrument.

FOLDER/nsynth-{train,valid,test}/examples.json and .../audio/NOTE.wav, as the archives
nsynth-{train,valid,test}.jsonwav.tar.gz unpack (layout, fields and counts: the data set's page at Magenta).

Its page says that no instrument of train is in valid or test; of valid and test together it promises
nothing, so an instrument in both is no mistake, and its notes have no group. MARBLE v1 learns the class
`pitch - 1`, so that its class 59 is the MIDI pitch 60 (read in its
`benchmark/tasks/NSynth/NSynthP_dataset.py`); here a class is called by its MIDI number. Pitches in use are 9
to 120; like MARBLE's, the head has 128 outputs.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from muq_jax.errors import UserError
from muq_jax.probe.datasets.folder import AUDIO_MISSING, count_splits, published_problem, read_text, require
from muq_jax.probe.datasets.marble_jsonl import shared_groups, without_shared_groups
from muq_jax.probe.task import SPLITS, Dataset, Item

FAMILIES = (
    "bass",
    "brass",
    "flute",
    "guitar",
    "keyboard",
    "mallet",
    "organ",
    "reed",
    "string",
    "synth_lead",
    "vocal",
)
PITCHES = tuple(str(pitch) for pitch in range(128))
COUNTS = (289_205, 12_678, 4_096)
SOURCE = (
    "NSynth (25 GB): download.magenta.tensorflow.org/datasets/nsynth/nsynth-train.jsonwav.tar.gz, "
    "nsynth-valid.jsonwav.tar.gz and nsynth-test.jsonwav.tar.gz; unpack the three in one folder and give that"
)


def read_nsynth_pitch(data: str) -> Dataset:
    """Returns the notes with their MIDI pitch.

    Raises:
        UserError: an examples.json or all audio is missing, or a note's entry is not as expected.
    """
    return _read(data, PITCHES, lambda note: str(note["pitch"]))


def read_nsynth_instrument(data: str) -> Dataset:
    """Returns the notes with their instrument's family.

    Raises:
        UserError: as of `read_nsynth_pitch`.
    """
    return _read(data, FAMILIES, lambda note: note["instrument_family_str"])


def make_dataset(items: list[Item], classes: tuple[str, ...], left_out: Counter[str]) -> Dataset:
    """Returns the data set of notes whose group is their instrument."""
    problems = published_problem(count_splits(items), COUNTS)
    if mixed := [name for name, splits in shared_groups(items).items() if "train" in splits]:
        problems += (
            f"{len(mixed)} instruments of train, such as {mixed[0]}, are in valid or test, too; in the "
            "published split none is.",
        )
    return Dataset(without_shared_groups(items), classes, left_out, problems)


def _read(data: str, classes: tuple[str, ...], label_of: Callable[[dict[str, Any]], str]) -> Dataset:
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for split, folder_name in zip(SPLITS, ("nsynth-train", "nsynth-valid", "nsynth-test"), strict=True):
        path = require(Path(data), (f"{folder_name}/examples.json", f"*/{folder_name}/examples.json"), SOURCE)
        audio = path.parent / "audio"
        there = {file.name for file in audio.iterdir()} if audio.is_dir() else set()
        for name, note in _notes(path).items():
            try:
                label, instrument = label_of(note), str(note["instrument_str"])
            except (KeyError, TypeError):
                raise UserError(
                    f"{path}, note {name!r}: found {str(note)[:80]}; expected the fields pitch, "
                    "instrument_str and instrument_family_str. Unpack the archive anew"
                ) from None
            if label not in classes:
                raise UserError(
                    f"{path}, note {name!r}: {label!r} is no class; expected one of {classes[0]} to "
                    f"{classes[-1]}"
                )
            if f"{name}.wav" in there:
                items.append(Item(f"{folder_name}/{name}", split, label, audio / f"{name}.wav", instrument))
            else:
                left_out[AUDIO_MISSING] += 1
    if not items:
        raise UserError(f"{data}: none of the {left_out.total()} notes has its audio. {SOURCE}")
    return make_dataset(items, classes, left_out)


def _notes(path: Path) -> dict[str, Any]:
    try:
        notes = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); unpack the archive anew") from None
    if not isinstance(notes, dict):
        raise UserError(f"{path}: a JSON {type(notes).__name__}; expected an object with a field a note")
    return notes
