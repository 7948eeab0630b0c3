"""MARBLE's tasks: a declarative entry each, and how its two versions learn them."""

import difflib
import re
from collections.abc import Callable

from muq_jax.errors import UserError
from muq_jax.probe.datasets import (
    chords1217,
    emomusic,
    giantsteps,
    gtzan,
    harmonix,
    hooktheory,
    magnatagatune,
    mtg_jamendo,
    nsynth,
    tfds,
    vocalset,
)
from muq_jax.probe.datasets.marble_jsonl import is_marble_jsonl, read_marble_jsonl
from muq_jax.probe.task import V1, V2, Dataset, Task

Read = Callable[[str], Dataset]


def _or(native: Read, *, jsonl: str | None = None, prepared: Read | None = None) -> Read:
    """Reads a data set as published, as MARBLE v2's lists of this name, or as TFDS prepares it."""

    def read(data: str) -> Dataset:
        if tfds.is_tfds(data):
            if prepared is None:
                raise UserError(f"{data}: TFDS has no such data set; give a folder")
            return prepared(data)
        if jsonl is not None and is_marble_jsonl(data, jsonl):
            return read_marble_jsonl(data, jsonl)
        return native(data)

    return read


_TAGS = ("roc_auc", "average_precision")
_JAMENDO_V1 = V1(window_seconds=30.0, plateau=3, patience=10)
# Batches of 32 on each of four devices.
_JAMENDO_V2 = V2(window_seconds=30.0, batch_size=128, epochs=20, plateau=3, patience=10)

_TASKS: tuple[Task, ...] = (
    Task(
        name="gtzan_genre",
        title="GTZAN genre",
        kind="classification",
        metrics=("accuracy",),
        read=_or(gtzan.read_gtzan_genre, jsonl="GTZANGenre", prepared=tfds.read_tfds_gtzan),
        source=gtzan.SOURCE,
        counts=gtzan.COUNTS,
        aliases=("GTZANGenre", "GTZAN"),
        v1=V1(plateau=6, patience=20),
        v2=V2(window_seconds=30.2, layer=6, learning_rate=5e-3),
    ),
    Task(
        name="gtzan_beat",
        title="GTZAN beat",
        kind="beats",
        metrics=("beat_f", "downbeat_f"),
        read=_or(gtzan.read_gtzan_beat, jsonl="GTZANBeatTracking"),
        source=gtzan.BEAT_SOURCE,
        counts=gtzan.COUNTS,
        aliases=("GTZANBeatTracking", "GTZANBT"),
        v1=V1(plateau=6, patience=20),
        v2=V2(window_seconds=10.0, plateau=5, patience=10),
    ),
    Task(
        name="giantsteps_key",
        title="GiantSteps key",
        kind="classification",
        metrics=("weighted_key_score", "accuracy"),
        read=_or(giantsteps.read_giantsteps_key, jsonl="GS"),
        source=giantsteps.SOURCE,
        counts=giantsteps.COUNTS,
        aliases=("GS",),
        drop_short=True,
        v1=V1(window_seconds=30.0, plateau=5, patience=20),
        v2=V2(window_seconds=30.0, plateau=5, factor=0.1),
    ),
    Task(
        name="emomusic",
        title="EmoMusic",
        kind="regression",
        metrics=("r2", "r2_arousal", "r2_valence"),
        read=_or(emomusic.read_emomusic, jsonl="EMO"),
        source=emomusic.SOURCE,
        aliases=("EMO",),
        # Clips have 45.01 s.
        drop_short=True,
        v1=V1(window_seconds=5.0, crop_seconds=30.0, plateau=5, patience=20),
        v2=V2(window_seconds=15.0, layer=6, plateau=5),
    ),
    Task(
        name="magnatagatune",
        title="MagnaTagATune",
        kind="multilabel",
        metrics=_TAGS,
        read=_or(magnatagatune.read_magnatagatune, jsonl="MTT"),
        source=magnatagatune.SOURCE,
        counts=magnatagatune.COUNTS,
        aliases=("MTT",),
        v1=V1(plateau=3, patience=10),
        v2=V2(window_seconds=30.0, batch_size=128, plateau=3, patience=10),
    ),
    Task(
        name="mtg_jamendo_top50",
        title="MTG-Jamendo top 50",
        kind="multilabel",
        metrics=_TAGS,
        read=_or(mtg_jamendo.read_mtg_jamendo_top50, jsonl="MTGTop50"),
        source=mtg_jamendo.SOURCE,
        counts=mtg_jamendo.TOP50.counts,
        aliases=("MTGTop50",),
        v1=_JAMENDO_V1,
        v2=_JAMENDO_V2,
    ),
    Task(
        name="mtg_jamendo_genre",
        title="MTG-Jamendo genre",
        kind="multilabel",
        metrics=_TAGS,
        read=_or(mtg_jamendo.read_mtg_jamendo_genre, jsonl="MTGGenre"),
        source=mtg_jamendo.SOURCE,
        counts=mtg_jamendo.GENRE.counts,
        aliases=("MTGGenre",),
        v1=_JAMENDO_V1,
        v2=_JAMENDO_V2,
    ),
    Task(
        name="mtg_jamendo_instrument",
        title="MTG-Jamendo instrument",
        kind="multilabel",
        metrics=_TAGS,
        read=_or(mtg_jamendo.read_mtg_jamendo_instrument, jsonl="MTGInstrument"),
        source=mtg_jamendo.SOURCE,
        counts=mtg_jamendo.INSTRUMENT.counts,
        aliases=("MTGInstrument",),
        v1=_JAMENDO_V1,
        v2=_JAMENDO_V2,
    ),
    Task(
        name="mtg_jamendo_mood",
        title="MTG-Jamendo mood/theme",
        kind="multilabel",
        metrics=_TAGS,
        read=_or(mtg_jamendo.read_mtg_jamendo_mood, jsonl="MTGMood"),
        source=mtg_jamendo.SOURCE,
        counts=mtg_jamendo.MOOD.counts,
        aliases=("MTGMood",),
        v1=_JAMENDO_V1,
        v2=_JAMENDO_V2,
    ),
    Task(
        name="nsynth_pitch",
        title="NSynth pitch",
        kind="classification",
        metrics=("accuracy",),
        read=_or(nsynth.read_nsynth_pitch, prepared=tfds.read_tfds_nsynth_pitch),
        source=nsynth.SOURCE,
        counts=nsynth.COUNTS,
        aliases=("NSynthP",),
        v1=V1(window_seconds=4.0, plateau=3, patience=10, epochs=50),
        v2=None,
    ),
    Task(
        name="nsynth_instrument",
        title="NSynth instrument",
        kind="classification",
        metrics=("accuracy",),
        read=_or(nsynth.read_nsynth_instrument, prepared=tfds.read_tfds_nsynth_instrument),
        source=nsynth.SOURCE,
        counts=nsynth.COUNTS,
        aliases=("NSynthI",),
        v1=V1(window_seconds=4.0, plateau=3, patience=10, epochs=50),
        v2=None,
    ),
    Task(
        name="vocalset_singer",
        title="VocalSet singer",
        kind="classification",
        metrics=("accuracy",),
        read=vocalset.read_vocalset_singer,
        source=vocalset.SOURCE,
        aliases=("VocalSetS",),
        drop_short=True,
        trim_silence=True,
        v1=V1(window_seconds=3.0, plateau=5, patience=20),
        v2=None,
    ),
    Task(
        name="vocalset_technique",
        title="VocalSet technique",
        kind="classification",
        metrics=("accuracy",),
        read=vocalset.read_vocalset_technique,
        source=vocalset.SOURCE,
        aliases=("VocalSetT",),
        drop_short=True,
        trim_silence=True,
        v1=V1(window_seconds=3.0, plateau=5, patience=10),
        v2=None,
    ),
    Task(
        name="chords1217",
        title="Chords1217",
        kind="frames",
        metrics=("frame_accuracy", "chord_majmin"),
        read=chords1217.read_chords1217,
        source=chords1217.SOURCE,
        aliases=("Chords1217",),
        v1=None,
        v2=V2(window_seconds=15.0, plateau=5, patience=10),
    ),
    Task(
        name="hooktheory_key",
        title="HookTheory key",
        kind="classification",
        metrics=("weighted_key_score", "accuracy"),
        read=hooktheory.read_hooktheory_key,
        source=hooktheory.KEY_SOURCE,
        aliases=("HookTheoryKey",),
        # MARBLE keeps a last window that is full to 80 %; of clips of some 15 s there is hardly one.
        drop_short=True,
        v1=None,
        v2=V2(window_seconds=15.0, plateau=5, factor=0.1, patience=10),
    ),
    Task(
        name="hooktheory_structure",
        title="HookTheory structure",
        kind="classification",
        metrics=("accuracy",),
        read=hooktheory.read_hooktheory_structure,
        source=hooktheory.STRUCTURE_SOURCE,
        aliases=("HookTheoryStructure",),
        v1=None,
        v2=V2(window_seconds=15.0, plateau=5, factor=0.1, patience=10),
    ),
    Task(
        name="harmonix_structure",
        title="Harmonix structure",
        kind="frames",
        metrics=("frame_accuracy",),
        read=harmonix.read_harmonix_structure,
        source=harmonix.SOURCE,
        aliases=("HXMSA", "HX"),
        # No code of MARBLE's is public; MuQ's paper has the task in a table of the first version.
        v1=V1(window_seconds=30.0),
        v2=None,
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}


def find_task(name: str) -> Task:
    """Returns the task of that name, or of one of its other names; case and punctuation do not matter.

    Raises:
        UserError: there is none.
    """
    names = {_plain(n): task for task in TASKS.values() for n in (task.name, *task.aliases)}
    found = names.get(_plain(name))
    if found is None:
        close = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected custom or one of {', '.join(TASKS)}"
        raise UserError(f"no task {name!r}; {hint}")
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
