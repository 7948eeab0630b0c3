"""Rules that turn a manifest's field into a label, where the field itself is not the one wanted."""

from collections.abc import Callable
from typing import Any

from muq_jax.probe.datasets.chords import MAJMIN, majmin

PITCH_CLASSES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
# General MIDI's families of eight programs; drums are not among them.
FAMILIES = (
    *("piano", "chromatic percussion", "organ", "guitar", "bass", "strings", "ensemble", "brass"),
    *("reed", "pipe", "synth lead", "synth pad", "synth effects", "ethnic", "percussive", "sound effects"),
)


def first(value: Any) -> Any:
    """The first of a list; None of an empty one."""
    return (value[0] if value else None) if isinstance(value, list) else value


def pitch_class(value: Any) -> str:
    """The name of a MIDI pitch without its octave."""
    return PITCH_CLASSES[_whole(value) % 12]


def gm_family(value: Any) -> str | None:
    """The family of a General MIDI program, or of the first of a list of them."""
    program = first(value)
    if program is None:
        return None
    if not 0 <= _whole(program) < 128:
        raise ValueError("expected a program from 0 to 127")
    return FAMILIES[int(program) // 8]


def chords(value: Any) -> list[tuple[float, float, str]]:
    """Spans of chords, reduced to major and minor triads and none: 25 classes. Others are left out.

    The bass, which some write as a note and some as a degree, does not count.
    """
    names = [(start, end, _triad(str(label))) for start, end, label in value]
    return [(start, end, name) for start, end, name in names if name is not None]


RULES: dict[str, Callable[[Any], Any]] = {
    "first": first,
    "pitch_class": pitch_class,
    "gm_family": gm_family,
    "chords": chords,
}
CLASSES_OF_RULES: dict[str, tuple[str, ...]] = {"chords": MAJMIN}


def _triad(label: str) -> str | None:
    root_and_quality = label.partition("/")[0]
    return None if root_and_quality.endswith(":X") else majmin(root_and_quality)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
        raise ValueError("expected a whole number")
    return int(value)
