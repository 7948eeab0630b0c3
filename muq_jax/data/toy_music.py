"""`toy_music`: a corpus that needs no download, composed and synthesised by our own code, labelled exactly.

Three clips in four are songs (chords in a key, bass, a melody, often drums), cut out of a longer piece; the
fourth is one note played again and again. A clip is a function of (seed, index, seconds) alone. Its samples
lie on the 16-bit grid, so that memory and TFDS records hold the same numbers.
"""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.data.toy_composition import KEYS, STYLES, TONICS, Event, compose
from muq_jax.data.toy_synthesis import BASSES, LEADS, render_drum, render_note
from muq_jax.errors import UserError

NOTE_PITCHES = tuple(range(48, 84))
SPLITS = ("train",) * 8 + ("val", "test")

_T = TypeVar("_T")
# How loud each part is beside the melody; the notes of a chord add up.
_GAINS = {"melody": 1.0, "chords": 0.35, "bass": 0.8, "kick": 5.0, "snare": 2.5, "hat": 1.2}


_CAPTIONS = (
    "A {style} tune in {key_name}, {pace}, {drums}: {instrument} over chords on {backing}.",
    "A {style} piece, {pace}, in {metre} time and {key_name}, {drums}; the melody is for {instrument}.",
    "Synthetic {style} music led by {instrument}, {drums}: {pace}, {key_name}.",
)


class _Score(NamedTuple):
    """A clip before it sounds: its notes, who plays them, its labels, and the generator to go on with."""

    events: list[Event]
    voices: dict[str, str]
    labels: dict[str, Any]
    random: np.random.Generator


class ToyClip(NamedTuple):
    """A clip: float32 `[S]` at 24 kHz, and labels that JSON can hold (see `make_clip`)."""

    id: str
    wave: np.ndarray
    labels: dict[str, Any]


def make_clip(index: int, seed: int = 0, *, seconds: float = 10.0) -> ToyClip:
    """Clip `index` of the corpus `seed`: the same bytes at every call.

    Labels: kind ("song", "note"), key ("Eb:min"), tempo_bpm, metre ("4/4", "3/4"), beats and downbeats [s],
    chords and melody [[start s, end s, label or MIDI pitch]], instrument (of the melody, or of the note),
    instruments, pitch (MIDI, of a note), has_drums, style and caption. What a clip has not is None or empty.
    Keys, styles, instruments and pitches are balanced: each value comes once before any comes again.

    Args:
        index: 0 or more; the corpus has no end.
        seed: 0 or more.
        seconds: length of the clip, at least 0.1.

    Raises:
        ValueError: an argument is out of range.
    """
    if index < 0 or seed < 0 or seconds < 0.1:
        raise ValueError(
            f"make_clip({index=}, {seed=}, {seconds=}): expected 0 or more, 0 or more, 0.1 or more"
        )
    num_samples = round(seconds * SAMPLE_RATE_HZ)
    score = _score(index, seed, num_samples)
    mixture = _render(score, num_samples)
    return ToyClip(_id(index, seed), _record(_random(seed, index, "record"), mixture), score.labels)


def split_of(index: int, seed: int = 0) -> str:
    """The split of a clip, "train", "val" or "test": of every ten clips eight, one and one."""
    return _balanced(SPLITS, index, seed, "split")


class ToyMusicSource:
    """The corpus by random access, for Grain: `source[i]` is {"id", "wave", "sample_rate_hz", "labels"}.

    Clips are synthesised when first read and kept, as 16 bit, up to `CACHE_BYTES`; none of them is pickled.

    Args:
        num_clips: how many clips of the corpus are drawn on, all splits together.
        seed: of the corpus.
        seconds: length of every clip.
        split: "train", "val", "test", or None for all.

    Raises:
        UserError: there is no such clip.
    """

    CACHE_BYTES = 512 * 2**20

    def __init__(self, num_clips: int, seed: int = 0, seconds: float = 10.0, split: str | None = None):
        self.num_clips, self.seed, self.seconds, self.split = num_clips, seed, seconds, split
        self._indices = [i for i in range(num_clips) if split is None or split_of(i, seed) == split]
        self._cache: dict[int, ToyClip] = {}
        if not self._indices:
            raise UserError(
                f"toy_music: none of {num_clips} clips is in split {split!r}; expected train, val, test or "
                "None, and ten clips or more to have all three"
            )

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, item: int) -> dict[str, Any]:
        index = self._indices[item]
        clip = self._cache.get(index)
        if clip is None:
            clip = make_clip(index, self.seed, seconds=self.seconds)
            clip = clip._replace(wave=to_pcm16(clip.wave))
            # Nothing is thrown out: when all clips are read in turn, keeping the latest would never hit.
            if (len(self._cache) + 1) * clip.wave.nbytes <= self.CACHE_BYTES:
                self._cache[index] = clip
        wave = clip.wave.astype(np.float32) / 32768
        return {"id": clip.id, "wave": wave, "sample_rate_hz": SAMPLE_RATE_HZ, "labels": clip.labels}

    def labels_at(self, item: int) -> tuple[str, dict[str, Any]]:
        """Returns a clip's id and labels; synthesises nothing."""
        index = self._indices[item]
        labels = _score(index, self.seed, round(self.seconds * SAMPLE_RATE_HZ)).labels
        return _id(index, self.seed), labels

    def __repr__(self) -> str:
        corpus = f"{self.num_clips}, seed={self.seed}, seconds={self.seconds}"
        return f"ToyMusicSource({corpus}, split={self.split!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}


def to_pcm16(wave: np.ndarray) -> np.ndarray:
    """A clip's wave as int16, without loss: its samples are multiples of 1/32768."""
    return np.round(wave * 32768).astype(np.int16)


def _id(index: int, seed: int) -> str:
    return f"toy-{seed}-{index:06d}"


def _score(index: int, seed: int, num_samples: int) -> _Score:
    block, place = divmod(index, 4)
    return _note(block, seed, num_samples) if place == 3 else _song(3 * block + place, seed, num_samples)


def _song(ordinal: int, seed: int, num_samples: int) -> _Score:
    random = _random(seed, ordinal, "song")
    key = _balanced(KEYS, ordinal, seed, "key")
    style_name = _balanced(tuple(STYLES), ordinal, seed, "style")
    style = STYLES[style_name]
    lead = _balanced(LEADS, ordinal, seed, "instrument")
    backing = _choose([name for name in LEADS if name != lead], random)
    voices = {"melody": lead, "chords": backing, "bass": _choose(BASSES, random)}
    has_drums = bool(random.random() < style.drums)
    tempo_bpm = int(random.integers(style.tempo_bpm[0], style.tempo_bpm[1] + 1))

    bar_s = style.beats_per_bar * 60.0 / tempo_bpm
    seconds = num_samples / SAMPLE_RATE_HZ
    num_bars = int(seconds / bar_s) + 2
    piece = compose(random, key, style, tempo_bpm=tempo_bpm, num_bars=num_bars, has_drums=has_drums)
    # The clip begins anywhere in the first bar.
    cut_s = int(random.random() * bar_s * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    events = [event._replace(start=event.start - cut_s, end=event.end - cut_s) for event in piece.events]
    labels = {
        "kind": "song",
        "key": key,
        "tempo_bpm": float(tempo_bpm),
        "metre": f"{style.beats_per_bar}/4",
        "beats": [round(beat - cut_s, 4) for beat in piece.beats if 0.0 <= beat - cut_s < seconds],
        "downbeats": [round(beat - cut_s, 4) for beat in piece.downbeats if 0.0 <= beat - cut_s < seconds],
        "chords": _within(
            seconds, [(start - cut_s, end - cut_s, label) for start, end, label in piece.chords]
        ),
        "melody": _within(seconds, [(e.start, e.end, e.pitch) for e in events if e.part == "melody"]),
        "instrument": lead,
        "instruments": [*voices.values(), *(["drums"] if has_drums else [])],
        "pitch": None,
        "has_drums": has_drums,
        "style": style_name,
    }
    labels["caption"] = _choose(_CAPTIONS, random).format(
        **labels,
        pace="slow" if tempo_bpm < 85 else "fast" if tempo_bpm > 115 else "medium-paced",
        key_name=key.replace("b:", " flat:").replace(":maj", " major").replace(":min", " minor"),
        backing=backing,
        drums="with drums" if has_drums else "without drums",
    )
    return _Score(events, voices, labels, random)


def _note(ordinal: int, seed: int, num_samples: int) -> _Score:
    """One pitch, struck every one to two seconds: plucked once, most of the clip would be silent."""
    random = _random(seed, ordinal, "note")
    instrument = _balanced(LEADS, ordinal, seed, "note instrument")
    pitch = _balanced(NOTE_PITCHES, ordinal, seed, "note pitch")
    gap_s = random.uniform(1.0, 2.0)
    starts = np.arange(0.0, num_samples / SAMPLE_RATE_HZ, gap_s).tolist()
    events = [Event("melody", t, t + 0.9 * gap_s, pitch, random.uniform(0.7, 1.0)) for t in starts]
    labels = {
        "kind": "note",
        "key": None,
        "tempo_bpm": None,
        "metre": None,
        "beats": [],
        "downbeats": [],
        "chords": [],
        "melody": _within(num_samples / SAMPLE_RATE_HZ, [(e.start, e.end, e.pitch) for e in events]),
        "instrument": instrument,
        "instruments": [instrument],
        "pitch": pitch,
        "has_drums": False,
        "style": None,
        "caption": f"The note {TONICS[pitch % 12]}{pitch // 12 - 1}, played over and over on {instrument}.",
    }
    return _Score(events, {"melody": instrument}, labels, random)


def _within(seconds: float, spans: list[tuple[float, float, Any]]) -> list[list[Any]]:
    """What of the spans lies between 0 and `seconds`."""
    cut = [(max(start, 0.0), min(end, seconds), label) for start, end, label in spans]
    return [[round(start, 4), round(end, 4), label] for start, end, label in cut if end - start > 1e-3]


def _render(score: _Score, num_samples: int) -> np.ndarray:
    """The mixture, float64 `[num_samples]`; each part has its own brightness for the whole clip."""
    brightness = {part: score.random.uniform(0.8, 1.2) for part in _GAINS}
    mixture = np.zeros(num_samples)
    sounds: dict[tuple[str, int, int], np.ndarray] = {}
    for part, start_s, end_s, pitch, velocity in score.events:
        start, length = round(start_s * SAMPLE_RATE_HZ), round((end_s - start_s) * SAMPLE_RATE_HZ)
        if start >= num_samples:
            continue
        if (part, pitch, length) not in sounds:
            sounds[part, pitch, length] = (
                render_note(score.voices[part], pitch, length, brightness[part])
                if part in score.voices
                else render_drum(part, brightness[part])
            )
        into = max(start, 0)
        heard = sounds[part, pitch, length][into - start :][: max(num_samples - into, 0)]
        mixture[into : into + heard.size] += velocity * _GAINS[part] * heard
    return mixture


def _record(random: np.random.Generator, mixture: np.ndarray) -> np.ndarray:
    """Float32 on the 16-bit grid with some hiss, at -26 to -16 dBFS RMS, lower where a peak would clip."""
    mixture = mixture - np.mean(mixture)
    wanted, hiss = 10.0 ** (random.uniform((-26.0, -80.0), (-16.0, -65.0)) / 20.0)
    rms, peak = np.sqrt(np.mean(mixture**2)), np.max(np.abs(mixture))
    # A tenth of a second may be a rest: then there is the hiss alone.
    gain = min(wanted / max(rms, 1e-9), 0.94 / max(peak, 1e-9))
    wave = gain * mixture + hiss * random.standard_normal(mixture.size)
    return (np.round(wave * 32768.0) / 32768.0).astype(np.float32)


def _random(seed: int, index: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, index, zlib.crc32(purpose.encode())])


def _choose(choices: Sequence[_T], random: np.random.Generator) -> _T:
    return choices[int(random.integers(len(choices)))]


def _balanced(choices: Sequence[_T], index: int, seed: int, purpose: str) -> _T:
    """All choices in a random order, then all of them in another one, and so on."""
    block, place = divmod(index, len(choices))
    return choices[int(_random(seed, block, purpose).permutation(len(choices))[place])]
