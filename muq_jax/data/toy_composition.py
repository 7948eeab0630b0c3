"""The scores of the `toy_music` corpus: styles, chord progressions in a key, and the parts that play them."""

from typing import NamedTuple

import numpy as np

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
KEYS = tuple(f"{tonic}:{mode}" for mode in ("maj", "min") for tonic in TONICS)

_SCALES = {"maj": (0, 2, 4, 5, 7, 9, 11), "min": (0, 2, 3, 5, 7, 8, 10)}
_CHORDS = {"maj": (0, 4, 7), "min": (0, 3, 7)}
# As harmony books write them, capitals for major chords, small letters for minor; semitones above the tonic.
_DEGREES = dict(I=0, ii=2, IV=5, V=7, vi=9, i=0, iv=5, VI=8, VII=10)
_PROGRESSIONS = {
    "maj": ("I V vi IV", "I vi IV V", "I IV V I", "I IV I V", "I ii V I", "I IV ii V"),
    "min": ("i VI iv V", "i iv V i", "i VII VI V", "i iv i V", "i V i iv", "i VI iv i"),
}


class Style(NamedTuple):
    """What a bar sounds like. In a pattern a sign is a sixteenth, four are a beat, and a dot is a rest.

    Melody and drums: x. Chords: x all notes at once, 0-3 one of them. Bass: root, third, fifth or octave.
    """

    tempo_bpm: tuple[int, int]
    melodies: str  # rhythms, of which a piece uses two by turns
    bass: str
    chords: str
    kick: str = ""
    snare: str = ""
    hat: str = ""
    drums: float = 0.0  # share of pieces that have them
    chords_per_bar: int = 1
    swing: bool = False  # the second eighth of a beat comes after two thirds of it

    @property
    def beats_per_bar(self) -> int:
        return len(self.bass) // 4


# fmt: off
STYLES: dict[str, Style] = {
    "pop": Style(
        (92, 126), "x...x.x.x...x.x. x.x.x...x.x.x... x.....x.x...x...",
        bass="r.....r.r.....f.", chords="x...x...x...x...",
        kick="x.......x.x.....", snare="....x.......x...", hat="x.x.x.x.x.x.x.x.", drums=0.8,
    ),
    "rock": Style(
        (110, 150), "x...x...x.x.x... x.x.x.x.x...x... x.......x...x.x.",
        bass="r.r.r.r.r.r.r.r.", chords="x...x.x.x...x.x.",
        kick="x.....x.x.......", snare="....x.......x...", hat="x.x.x.x.x.x.x.x.", drums=1.0,
    ),
    "dance": Style(
        (118, 134), "x..x..x.x..x..x. x.x.x..x..x.x... x...x.x.x.x.x.x.",
        bass="..r...r...r...o.", chords="x..x..x...x.x...",
        kick="x...x...x...x...", snare="....x.......x...", hat="..x...x...x...x.", drums=1.0,
    ),
    "swing": Style(
        (110, 168), "x...x.x.x...x.x. x.x.x...x.x.x.x. ....x.x.x.x.x...",
        bass="r...t...f...t...", chords="x.....x.x.....x.",
        kick="x.......x.......", snare="....x.......x...", hat="x...x.x.x...x.x.", drums=0.8, swing=True,
    ),
    "ballad": Style(
        (60, 84), "x.......x...x... x...x...x.....x. x...x.x.x.......",
        bass="r.......r.......", chords="0.1.2.1.0.1.2.1.", chords_per_bar=2,
        kick="x.......x.......", snare="....x.......x...", hat="x...x...x...x...", drums=0.3,
    ),
    "folk": Style(
        (88, 132), "x...x.x.x...x... x.x.x.x.x.x.x... x...x...x.x.x.x.",
        bass="r.......f.......", chords="....x.......x...",
    ),
    "waltz": Style(
        (96, 160), "x.......x... x...x...x... x.....x.x...",
        bass="r...........", chords="....x...x...",
        kick="x...........", snare="....x...x...", hat="x...x...x...", drums=0.5,
    ),
    "lullaby": Style(
        (72, 100), "x...x.x.x... x.......x... x.x.x...x.x.",
        bass="r...........", chords="0.1.2.3.2.1.",
    ),
}
# fmt: on


class Event(NamedTuple):
    """A note of a part, or a hit of a drum, whose pitch means nothing. Times in seconds, velocity up to 1."""

    part: str  # "melody", "chords", "bass", "kick", "snare" or "hat"
    start: float
    end: float
    pitch: int
    velocity: float


class Piece(NamedTuple):
    """Events, and the times in seconds of what they follow: beats, downbeats, chords (start, end, label)."""

    events: list[Event]
    beats: list[float]
    downbeats: list[float]
    chords: list[tuple[float, float, str]]


def compose(
    random: np.random.Generator, key: str, style: Style, *, tempo_bpm: float, num_bars: int, has_drums: bool
) -> Piece:
    """A piece of `num_bars` bars from time 0 on, which starts on its tonic chord."""
    tonic, mode = TONICS.index(key.split(":")[0]), key.split(":")[1]
    progressions = _PROGRESSIONS[mode]
    progression = progressions[random.integers(len(progressions))].split()
    rhythms = random.permutation(style.melodies.split())[:2].tolist()
    steps_per_bar = len(style.bass)
    # One contour for every bar of a piece: the tune comes back, bent to each chord.
    contour = random.integers(-4, 5, size=steps_per_bar).tolist()
    in_beat = (0.0, 1 / 3, 2 / 3, 5 / 6) if style.swing else (0.0, 0.25, 0.5, 0.75)
    drums = {"kick": style.kick, "snare": style.snare, "hat": style.hat} if has_drums else {}

    def seconds_at(step: int) -> float:
        return (step // 4 + in_beat[step % 4]) * 60.0 / tempo_bpm

    chord_steps = steps_per_bar // style.chords_per_bar
    chords = [
        _chord(
            progression[i % len(progression)],
            tonic,
            seconds_at(i * chord_steps),
            seconds_at((i + 1) * chord_steps),
        )
        for i in range(num_bars * style.chords_per_bar)
    ]
    events: list[Event] = []
    melody_pitch = 72
    for bar in range(num_bars):
        patterns = {"melody": rhythms[bar % 2], "chords": style.chords, "bass": style.bass, **drums}
        for part, pattern in patterns.items():
            struck = [step for step, sign in enumerate(pattern) if sign != "."]
            for step, until in zip(struck, [*struck[1:], steps_per_bar], strict=True):
                first = bar * steps_per_bar
                start, end = seconds_at(first + step), seconds_at(first + until)
                tones = _tones(chords[(first + step) // chord_steps][2])
                if part == "melody":
                    allowed = tones if step % 4 == 0 else _passing_tones(tones, tonic, mode)
                    melody_pitch = _move(melody_pitch, contour[step], allowed)
                pitches = [melody_pitch] if part == "melody" else _accompaniment(part, pattern[step], tones)
                velocity = (1.0 if step % 4 == 0 else 0.8) * random.uniform(0.9, 1.0)
                # A note stops a little before the next one: repeated notes are then heard as two.
                events += [
                    Event(part, start, start + 0.92 * (end - start), pitch, velocity) for pitch in pitches
                ]
    beats = [seconds_at(step) for step in range(0, num_bars * steps_per_bar, 4)]
    return Piece(events, beats, beats[:: style.beats_per_bar], chords)


def _chord(degree: str, tonic: int, start: float, end: float) -> tuple[float, float, str]:
    root = TONICS[(tonic + _DEGREES[degree]) % 12]
    return start, end, f"{root}:{'maj' if degree.isupper() else 'min'}"


def _tones(chord: str) -> list[int]:
    """The pitch classes of "A:min": [9, 0, 4], the root first."""
    root, quality = chord.split(":")
    return [(TONICS.index(root) + above) % 12 for above in _CHORDS[quality]]


def _passing_tones(tones: list[int], tonic: int, mode: str) -> list[int]:
    """The pitch classes of the key; over a chord with the leading note, a minor key raises its seventh."""
    scale = [(tonic + degree) % 12 for degree in _SCALES[mode]]
    if mode == "min" and (tonic + 11) % 12 in tones:
        scale[6] = (tonic + 11) % 12
    return scale


def _move(pitch: int, by: int, allowed: list[int]) -> int:
    """The pitch of an allowed class nearest to `pitch + by`, turned back at the ends of C4 to C6."""
    target = pitch + by if 62 <= pitch + by <= 82 else pitch - by
    return min((p for p in range(60, 85) if p % 12 in allowed), key=lambda p: abs(p - target))


def _accompaniment(part: str, sign: str, tones: list[int]) -> list[int]:
    """The MIDI pitches that a pattern's sign stands for, given the chord's pitch classes."""
    root, third, fifth = tones
    if part == "bass":
        low = 36 + root
        return [low + {"r": 0, "t": (third - root) % 12, "f": (fifth - root) % 12, "o": 12}[sign]]
    if part == "chords":
        close = sorted(55 + (tone - 55) % 12 for tone in tones)
        return close if sign == "x" else [[*close, close[0] + 12][int(sign)]]
    return [0]
