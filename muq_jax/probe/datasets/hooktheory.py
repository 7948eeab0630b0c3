"""HookTheory: short stretches of songs, with their key, or with the section of the song that they are.

Either MARBLE v2's HookTheoryKey.{train,val,test}.jsonl and HookTheoryStructure.*.jsonl (see `marble_jsonl`),
or, for the key, what Sheet Sage published (github.com/chrisdonahue/sheetsage; read in its README and
notebooks/Dataset.ipynb at bbdd7b7):

    FOLDER/Hooktheory.json.gz    26,175 annotations by id: `split` TRAIN, VALID or TEST (8:1:1 by artist),
                                 `tags`, `hooktheory` (artist, song), `youtube` (id), `alignment` (beats and
                                 their times, user's or refined), `annotations` (num_beats; keys: beat,
                                 tonic_pitch_class, scale_degree_intervals; melody; harmony)
    FOLDER/**/VIDEO.mp3          the sound of the video of this id, of any format; not distributed. A file
                                 named by the annotation's id is taken as a clip cut already

A stretch lasts from beat 0 to the last. As in MARBLE only major and minor are classes, and clips shorter
than 12 s are left out (15-s windows full to 80 %); stretches with several keys or without a sure tempo are
left out, too, for which MARBLE's rule is not public. The sections are not in Hooktheory.json.gz: they need
MARBLE's lists.
"""

import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.errors import UserError
from muq_jax.probe.datasets.folder import AUDIO_MISSING, audio_by_stem, require
from muq_jax.probe.datasets.giantsteps import KEYS
from muq_jax.probe.datasets.marble_jsonl import (
    SHORTEST_KEY_CLIP_SECONDS,
    is_marble_jsonl,
    read_marble_jsonl,
    without_shared_groups,
)
from muq_jax.probe.task import Dataset, Item

_LISTS = (
    "MARBLE's data set m-a-p/HookTheory at Hugging Face (on request; unpack it with its extract.sh) holds "
    "HookTheoryKey.train.jsonl and the like and the clips; give its folder"
)
KEY_SOURCE = (
    f"{_LISTS}. Or put Hooktheory.json.gz of github.com/chrisdonahue/sheetsage-data (folder hooktheory) in "
    "a folder, your own recordings in its audio/, each called as its video's id (VIDEO.mp3), and give that"
)
STRUCTURE_SOURCE = f"{_LISTS}. What Sheet Sage has published of HookTheory does not say the sections"
_SPLITS = {"TRAIN": "train", "VALID": "val", "TEST": "test"}
_MODES = {(2, 2, 1, 2, 2, 2): 0, (2, 1, 2, 2, 1, 2): 12}  # steps of the scale -> where its keys begin in KEYS


class _LeftOut(Exception):
    """The message is the reason."""


def read_hooktheory_key(data: str) -> Dataset:
    """Returns stretches with their key, one of 24.

    Raises:
        UserError: the annotations or all audio are missing, or one is not as expected.
    """
    if is_marble_jsonl(data, "HookTheoryKey"):
        return read_marble_jsonl(data, "HookTheoryKey")
    folder = Path(data)
    path = require(
        folder, ("Hooktheory.json.gz", "Hooktheory.json", "hooktheory/Hooktheory.json.gz"), KEY_SOURCE
    )
    annotations = _load(path)
    audio = audio_by_stem(folder)
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for id, annotation in annotations.items():
        try:
            items.append(_item(id, annotation, audio))
        except _LeftOut as reason:
            left_out[str(reason)] += 1
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{path}, annotation {id!r}: {type(error).__name__} {error}; expected the fields of Sheet "
                "Sage's Hooktheory.json.gz. Download it anew"
            ) from None
    if not items:
        raise UserError(
            f"{data}: none of the {len(annotations)} annotations can be used ({dict(left_out)}). {KEY_SOURCE}"
        )
    problems = ["The stretches are cut from Sheet Sage's annotations; the lists of MARBLE may hold others."]
    if missing := left_out[AUDIO_MISSING]:
        problems.append(f"{missing} annotations have no audio here.")
    return Dataset(without_shared_groups(items), KEYS, left_out, tuple(problems))


def read_hooktheory_structure(data: str) -> Dataset:
    """Returns clips with the section of their song, one of 7.

    Raises:
        UserError: the lists or all audio are missing, or a line is not as expected.
    """
    if not is_marble_jsonl(data, "HookTheoryStructure"):
        raise UserError(f"{data}: there is no HookTheoryStructure.train.jsonl. {STRUCTURE_SOURCE}")
    return read_marble_jsonl(data, "HookTheoryStructure")


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = path.read_bytes()
        annotations = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); download it anew") from None
    if not isinstance(annotations, dict):
        raise UserError(
            f"{path}: a JSON {type(annotations).__name__}; expected an object, an annotation a field"
        )
    return annotations


def _item(id: str, annotation: Mapping[str, Any], audio: Mapping[str, Path]) -> Item:
    """Raises _LeftOut where the annotation is not used."""
    tags = annotation["tags"]
    if "AUDIO_AVAILABLE" not in tags:
        raise _LeftOut("no audio known")
    if "TEMPO_CHANGES" in tags:
        raise _LeftOut("tempo changes, so that its times are not sure")
    keys = {
        (key["tonic_pitch_class"] % 12, tuple(key["scale_degree_intervals"]))
        for key in annotation["annotations"]["keys"]
    }
    if len(keys) != 1:
        raise _LeftOut("several keys, or none")
    tonic, steps = keys.pop()
    if steps not in _MODES:
        raise _LeftOut("mode other than major and minor")
    alignment = annotation["alignment"].get("refined") or annotation["alignment"]["user"]
    beats, times = alignment["beats"], alignment["times"]
    start = max(0.0, _time_of(0, beats, times))
    end = _time_of(annotation["annotations"]["num_beats"], beats, times)
    if end - start < SHORTEST_KEY_CLIP_SECONDS:
        raise _LeftOut(f"shorter than {SHORTEST_KEY_CLIP_SECONDS:g} s")
    split, artist = _SPLITS[annotation["split"]], annotation["hooktheory"]["artist"]
    label = KEYS[_MODES[steps] + tonic]
    if id in audio:
        return Item(id, split, label, audio[id], artist)
    video = annotation["youtube"]["id"]
    if video not in audio:
        raise _LeftOut(AUDIO_MISSING)
    return Item(id, split, label, audio[video], artist, start, end)


def _time_of(beat: float, beats: Sequence[float], times: Sequence[float]) -> float:
    """Returns the time of a beat, on the line through its neighbours or the last two."""
    right = int(np.clip(np.searchsorted(beats, beat), 1, len(beats) - 1))
    (b0, b1), (t0, t1) = beats[right - 1 : right + 1], times[right - 1 : right + 1]
    return float(t0 + (beat - b0) * (t1 - t0) / (b1 - b0))
