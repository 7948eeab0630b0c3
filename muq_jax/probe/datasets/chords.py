"""Chord labels in Harte's syntax, reduced to the 25 classes of major and minor.

The rule is that of mir_eval.chord.majmin: of the tones from the root up to its fifth, the chord has exactly
those of a major or of a minor triad, its bass counted in. So C:maj7, C:9, C:maj/5 and C:min6 are reduced,
and C:sus4, C:dim, C:5 and C:maj/2, whose bass is a second, are not. MARBLE v2 differs: it takes every chord
that contains a triad (C:maj/2 is C:maj) and X as N (read in its `marble/utils/utils.py`).
"""

import functools

from mir_eval import chord

from muq_jax.errors import UserError

_ROOTS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
MAJMIN = (*(f"{root}:maj" for root in _ROOTS), *(f"{root}:min" for root in _ROOTS), "N")
"""The classes, N for no chord."""

_UP_TO_THE_FIFTH = {tuple(chord.QUALITIES[name][:8]): name for name in ("maj", "min")}


@functools.lru_cache(maxsize=10_000)  # a corpus has some hundred different ones
def majmin(label: str) -> str | None:
    """Returns the class of a chord label; None where it has none, as X and what has no such triad.

    Args:
        label: root:quality(degrees)/bass, such as F#:min7/b3; or N or X.

    Raises:
        UserError: it is not written so.
    """
    if not chord.CHORD_RE.fullmatch(label):
        raise UserError(
            f"{label!r} is no chord label; expected root:quality(degrees)/bass as in F#:min7/b3, or N, or X"
        )
    if label in ("N", "X"):
        return "N" if label == "N" else None
    try:
        root, semitones, _ = chord.encode(label)
    except chord.InvalidChordException:  # well written, but of a quality that mir_eval does not know: aug7
        return None
    quality = _UP_TO_THE_FIFTH.get(tuple(semitones[:8].tolist()))
    return None if quality is None else f"{_ROOTS[root]}:{quality}"
