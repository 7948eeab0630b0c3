"""Instruments and drums made of nothing but numpy: the sound of the `toy_music` corpus.

Four classic methods, each a pure function of its arguments and exactly in tune: additive, frequency
modulation, plucked string (Karplus-Strong) and subtractive (a band-limited saw through a low-pass); and drums
of noise and a falling sine. Everything is float64: where the sines of two machines differ in the last digit,
the rounding of the finished clip to 16 bits hides it.
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from muq_jax.audio.decode import SAMPLE_RATE_HZ

# No partial goes higher: beyond half the sample rate it would fold back as a false tone.
_HIGHEST_HZ = 0.45 * SAMPLE_RATE_HZ


def frequency_of(pitch: float) -> float:
    """Hertz of a MIDI pitch in equal temperament, A4 = 69 = 440 Hz."""
    return 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)


def additive(
    frequency_hz: float,
    num_samples: int,
    brightness: float,
    *,
    weights: tuple[float, ...],
    fade: float = 0.0,
    vibrato_cents: float = 0.0,
) -> np.ndarray:
    """A sum of harmonics of the given weights; harmonic k fades as exp(-fade (k-1) t) beside the first.

    By the Chebyshev recurrence sin((k+1)x) = 2 cos(x) sin(kx) - sin((k-1)x), cheaper than a sine for each.
    """
    phase = _phase(frequency_hz, num_samples, vibrato_cents)
    twice_cosine = 2.0 * np.cos(phase)
    shrink = brightness * np.exp(-fade * _seconds(num_samples))
    before, harmonic, level = np.zeros(num_samples), np.sin(phase), np.ones(num_samples)
    tone = np.zeros(num_samples)
    for k, weight in enumerate(weights, start=1):
        if k * frequency_hz > _HIGHEST_HZ:
            break
        if weight:
            tone += weight * level * harmonic
        before, harmonic = harmonic, twice_cosine * harmonic - before
        level = level * shrink
    return tone


def modulated(
    frequency_hz: float,
    num_samples: int,
    brightness: float,
    *,
    ratio: int,
    index: float,
    fall_s: float,
    floor: float = 0.2,
    vibrato_cents: float = 0.0,
) -> np.ndarray:
    """One sine bends the phase of another (Chowning 1973); `ratio` is whole, so the sidebands are harmonics.

    The modulation index falls from `index` to `floor` of it with time constant `fall_s`.
    """
    phase = _phase(frequency_hz, num_samples, vibrato_cents)
    # Carson's rule: sidebands reach about (index + 1) modulator frequencies above the carrier.
    widest = max(0.0, (_HIGHEST_HZ / frequency_hz - 1.0) / ratio - 1.0)
    falling = floor + (1.0 - floor) * np.exp(-_seconds(num_samples) / fall_s)
    return np.sin(phase + min(index * brightness, widest) * falling * np.sin(ratio * phase))


def plucked(
    frequency_hz: float, num_samples: int, brightness: float, *, decay_s: float, damping: float
) -> np.ndarray:
    """Karplus-Strong: a burst of noise runs round a loop one period long that loses its highs at every turn.

    M turns of a loop with response G add up to burst * (1 - G^M) / (1 - G): one expression over frequency,
    in which the period may be any fraction of a sample, so that the string is in tune.
    """
    period = SAMPLE_RATE_HZ / frequency_hz  # samples
    turns = int(np.ceil(num_samples / period))
    size = _fft_size(num_samples + 2 * int(period) + 2)
    omega = 2.0 * np.pi * np.fft.rfftfreq(size)  # radians a sample
    burst = np.zeros(size)
    # Seeded by its length: a pitch sounds the same whenever it is played.
    burst[: int(period)] = np.random.default_rng(int(period)).uniform(-1.0, 1.0, int(period))
    # The average of two neighbours, relative to the fundamental's, whose decay would else grow with pitch.
    average = np.minimum(np.cos(omega / 2.0) / np.cos(np.pi / period), 1.0)
    loss = np.exp(-period / SAMPLE_RATE_HZ / decay_s) * average ** (2.0 * damping / brightness)
    turn = loss * np.exp(-1j * omega * period)
    all_turns = loss**turns * np.exp(-1j * omega * period * turns)
    spectrum = np.fft.rfft(burst) * (1.0 - all_turns) / (1.0 - turn)
    spectrum[0] = 0.0
    return np.fft.irfft(spectrum, size)[:num_samples]


def filtered_saw(
    frequency_hz: float,
    num_samples: int,
    brightness: float,
    *,
    cutoff_hz: float,
    sweep_s: float = np.inf,
    vibrato_cents: float = 0.0,
) -> np.ndarray:
    """A band-limited saw through a two-pole low-pass whose cutoff falls to a quarter in the time `sweep_s`.

    A saw is the integral of a pulse train, whose band-limited form is closed (the Dirichlet kernel). Integral
    and filter are one product over frequency; the falling cutoff cross-fades from an open to a closed filter.
    """
    odd = 2 * int(_HIGHEST_HZ / frequency_hz) + 1
    # Half a period late: the first pulse is then whole.
    half = 0.5 * _phase(frequency_hz, num_samples, vibrato_cents) - 0.5 * np.pi
    sine = np.sin(half)
    on_pulse = np.abs(sine) < 1e-6
    pulses = np.where(on_pulse, odd, np.sin(odd * half) / np.where(on_pulse, 1.0, sine)) - 1.0
    size = _fft_size(num_samples + SAMPLE_RATE_HZ // 10)
    s = 2j * np.pi * np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE_HZ)
    # The integrator leaks below 20 Hz: what it remembers is gone before the transform wraps around.
    saw = np.fft.rfft(pulses, size) / (s + 2.0 * np.pi * 20.0)
    corner = 2.0 * np.pi * (cutoff_hz * brightness + frequency_hz)
    opened = np.fft.irfft(saw / (1.0 + s / corner) ** 2, size)[:num_samples]
    if sweep_s == np.inf:
        return opened
    closed = np.fft.irfft(saw / (1.0 + 4.0 * s / corner) ** 2, size)[:num_samples]
    return closed + (opened - closed) * np.exp(-_seconds(num_samples) / sweep_s)


class Instrument(NamedTuple):
    """A note's envelope, and what it shapes: a function (frequency_hz, num_samples, brightness) -> [S]."""

    attack_s: float
    decay_s: float
    release_s: float
    tone: Callable[[float, int, float], np.ndarray]


# fmt: off
INSTRUMENTS: dict[str, Instrument] = {
    "piano": Instrument(0.005, 1.2, 0.08, partial(additive, weights=(1, 0.6, 0.4, 0.3, 0.2, 0.1), fade=0.9)),
    "organ": Instrument(0.012, np.inf, 0.08, partial(additive, weights=(1, 0.8, 0.5, 0.6, 0, 0.3, 0, 0.4))),
    "flute": Instrument(0.05, np.inf, 0.12, partial(additive, weights=(1, 0.25, 0.06), vibrato_cents=10)),
    "clarinet": Instrument(0.03, np.inf, 0.08, partial(additive, weights=(1, 0, 0.6, 0, 0.35, 0, 0.2))),
    "electric piano": Instrument(0.005, 1.5, 0.08, partial(modulated, ratio=1, index=1.6, fall_s=0.35)),
    "bell": Instrument(0.005, 0.9, 0.3, partial(modulated, ratio=5, index=1.2, fall_s=0.5)),
    "brass": Instrument(0.03, np.inf, 0.08, partial(modulated, ratio=1, index=3.0, fall_s=0.6, floor=0.6)),
    "guitar": Instrument(0.003, np.inf, 0.08, partial(plucked, decay_s=1.2, damping=0.5)),
    "harp": Instrument(0.003, np.inf, 0.4, partial(plucked, decay_s=2.0, damping=2.0)),
    "strings": Instrument(0.06, np.inf, 0.15, partial(filtered_saw, cutoff_hz=1800, vibrato_cents=8)),
    "synth lead": Instrument(0.008, np.inf, 0.08, partial(filtered_saw, cutoff_hz=4500)),
    "synth pluck": Instrument(0.005, 0.6, 0.08, partial(filtered_saw, cutoff_hz=3500, sweep_s=0.12)),
    "plucked bass": Instrument(0.003, np.inf, 0.08, partial(plucked, decay_s=1.5, damping=4.0)),
    "synth bass": Instrument(0.005, np.inf, 0.08, partial(filtered_saw, cutoff_hz=500, sweep_s=0.2)),
    "sub bass": Instrument(0.01, np.inf, 0.08, partial(additive, weights=(1, 0.3, 0.1))),
}
# fmt: on
LEADS = tuple(INSTRUMENTS)[:12]
BASSES = tuple(INSTRUMENTS)[12:]


def render_note(name: str, pitch: float, num_samples: int, brightness: float = 1.0) -> np.ndarray:
    """A note of the named instrument, float64 `[num_samples + release]`, of unit loudness.

    Args:
        name: a key of `INSTRUMENTS`.
        pitch: MIDI number.
        num_samples: from the onset to the moment the note is let go; the release comes after it.
        brightness: about 0.7 (dull) to 1.3; it moves the timbre, not the pitch.
    """
    instrument = INSTRUMENTS[name]
    total = num_samples + int(instrument.release_s * SAMPLE_RATE_HZ)
    tone = instrument.tone(frequency_of(pitch), total, brightness)
    tone = tone * np.minimum(_seconds(total) / instrument.attack_s, 1.0)
    tone *= np.exp(-_seconds(total) / instrument.decay_s)
    tone[num_samples:] *= np.linspace(1.0, 0.0, total - num_samples)
    # Loudness is judged on the first quarter of a second: a plucked and a bowed note then start alike.
    return tone / np.sqrt(np.mean(tone[: SAMPLE_RATE_HZ // 4] ** 2))


def render_drum(name: str, brightness: float = 1.0) -> np.ndarray:
    """A hit of "kick", "snare" or "hat", float64, peak 1."""
    t = _seconds(int(0.35 * SAMPLE_RATE_HZ))
    noise = np.random.default_rng(zlib.crc32(name.encode())).uniform(-1.0, 1.0, t.size)
    if name == "kick":
        # From 170 Hz down to 50 Hz: the phase is the integral of 50 + 120 exp(-t / 0.03).
        hit = np.sin(2.0 * np.pi * (50.0 * t - 120.0 * 0.03 * np.expm1(-t / 0.03))) * np.exp(-t / 0.09)
        hit += 0.15 * noise * np.exp(-t / 0.004)
    elif name == "snare":
        hit = noise * np.exp(-t / (0.07 * brightness))
        hit += 0.6 * np.sin(2.0 * np.pi * 190.0 * t) * np.exp(-t / 0.05)
    elif name == "hat":
        hit = np.diff(noise, n=2, prepend=(0.0, 0.0)) * np.exp(-t / (0.03 * brightness))
    else:
        raise ValueError(f"no drum is called {name!r}; there are kick, snare and hat")
    hit *= np.minimum(t[::-1] / 0.05, 1.0)
    return hit / np.max(np.abs(hit))


def _phase(frequency_hz: float, num_samples: int, vibrato_cents: float) -> np.ndarray:
    """Radians; a vibrato of 5.5 Hz swings the frequency evenly to both sides, so the mean stays in tune."""
    phase = 2.0 * np.pi * frequency_hz * _seconds(num_samples)
    if vibrato_cents:
        swing = np.log(2.0) / 1200.0 * vibrato_cents
        phase -= swing * frequency_hz / 5.5 * np.cos(2.0 * np.pi * 5.5 * _seconds(num_samples))
    return phase


def _seconds(num_samples: int) -> np.ndarray:
    return np.arange(num_samples) / SAMPLE_RATE_HZ


def _fft_size(at_least: int) -> int:
    """The next of 2^n, 3 * 2^(n-1): sizes that are fast everywhere."""
    power = 1 << (at_least - 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= at_least else power
