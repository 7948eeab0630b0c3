"""Instruments and drums made of nothing but numpy: the sound of the `toy_music` corpus.

Four classic methods, each a pure function of its arguments and each exactly in tune: additive, frequency
modulation, plucked string (Karplus-Strong) and subtractive (a band-limited saw through a low-pass filter), and drums
made of noise and a falling sine. Everything is float64: a difference in the last digit between two machines' `sin` then vanishes when
the finished clip is rounded to 16 bits.
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from muq_jax.audio.decode import SAMPLE_RATE_HZ

# What a method may put close to half the sample rate is inaudible there but would fold back as a false tone.
_HIGHEST_HZ = 0.45 * SAMPLE_RATE_HZ


def frequency_of(pitch: float) -> float:
    """Hertz of a MIDI pitch in equal temperament, A4 = 69 = 440 Hz."""
    return 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)


def seconds_axis(num_samples: int) -> np.ndarray:
    return np.arange(num_samples) / SAMPLE_RATE_HZ


def additive(
    frequency_hz: float,
    num_samples: int,
    brightness: float,
    *,
    weights: tuple[float, ...],
    fade: float = 0.0,
    vibrato_cents: float = 0.0,
) -> np.ndarray:
    """A sum of harmonics, harmonic k of weight `weights[k-1]` fading `fade * (k-1)` nepers a second faster than the first.

    The Chebyshev recurrence sin((k+1)x) = 2 cos(x) sin(kx) - sin((k-1)x) costs two multiplications a harmonic, a tenth of a sine.
    """
    phase = _phase(frequency_hz, num_samples, vibrato_cents)
    twice_cosine = 2.0 * np.cos(phase)
    shrink = brightness * np.exp(-fade * seconds_axis(num_samples))
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


def frequency_modulation(
    frequency_hz: float,
    num_samples: int,
    brightness: float,
    *,
    ratio: int,
    index: float,
    index_decay_s: float,
    index_floor: float = 0.2,
    vibrato_cents: float = 0.0,
) -> np.ndarray:
    """One sine bends the phase of another (Chowning 1973); `ratio` is whole, so the sidebands are harmonics.

    The modulation index falls from `index` to `index_floor` of it with time constant `index_decay_s`.
    """
    phase = _phase(frequency_hz, num_samples, vibrato_cents)
    # Carson's rule: sidebands reach about (index + 1) modulator frequencies above the carrier.
    widest = max(0.0, (_HIGHEST_HZ / frequency_hz - 1.0) / ratio - 1.0)
    falling = index_floor + (1.0 - index_floor) * np.exp(-seconds_axis(num_samples) / index_decay_s)
    return np.sin(phase + min(index * brightness, widest) * falling * np.sin(ratio * phase))


def plucked_string(
    frequency_hz: float, num_samples: int, brightness: float, *, decay_s: float, damping: float
) -> np.ndarray:
    """Karplus-Strong: a burst of noise runs round a loop one period long that loses its highs at every turn.

    The loop is summed in closed form over frequency, burst * (1 - G^M) / (1 - G) with G one turn and M the number of turns, which is
    exact, vectorised, and lets the period be a fraction of a sample, so that the string is in tune.
    """
    period = SAMPLE_RATE_HZ / frequency_hz
    turns = int(np.ceil(num_samples / period))
    size = _fft_size(num_samples + 2 * int(period) + 2)
    omega = 2.0 * np.pi * np.fft.rfftfreq(size)  # radians a sample
    burst = np.zeros(size)
    # The same burst for every pitch of this length: a pitch sounds the same each time it is played.
    burst[: int(period)] = np.random.default_rng(int(period)).uniform(-1.0, 1.0, int(period))
    loss = np.exp(-period / (decay_s * SAMPLE_RATE_HZ)) * np.cos(omega / 2.0) ** (2.0 * damping / brightness)
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
    detune_cents: tuple[float, ...] = (0.0,),
    vibrato_cents: float = 0.0,
) -> np.ndarray:
    """Band-limited saws, through a two-pole low-pass whose cutoff falls to a quarter with time constant `sweep_s`.

    A saw is the integral of a pulse train, and a band-limited pulse train has a closed form, the Dirichlet kernel; integration and
    filter are one multiplication over frequency. The falling cutoff is a cross-fade of the open and the closed filter.
    """
    pulses = np.zeros(num_samples)
    for cents in detune_cents:
        detuned_hz = frequency_hz * 2.0 ** (cents / 1200.0)
        harmonics = int(_HIGHEST_HZ / detuned_hz)
        # Half a period late: the first pulse is then whole.
        half = 0.5 * _phase(detuned_hz, num_samples, vibrato_cents) - 0.5 * np.pi
        sine = np.sin(half)
        at_pulse = np.abs(sine) < 1e-9
        ratio = np.sin((2 * harmonics + 1) * half) / np.where(at_pulse, 1.0, sine)
        pulses += np.where(at_pulse, 2 * harmonics + 1, ratio) - 1.0
    size = _fft_size(num_samples + SAMPLE_RATE_HZ // 10)
    s = 2j * np.pi * np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE_HZ)
    # The integrator leaks below 20 Hz, so that what it remembers is gone long before the transform wraps around.
    saw = np.fft.rfft(pulses, size) / (s + 2.0 * np.pi * 20.0)
    corner = 2.0 * np.pi * (cutoff_hz * brightness + frequency_hz)
    opened = np.fft.irfft(saw / (1.0 + s / corner) ** 2, size)[:num_samples]
    if sweep_s == np.inf:
        return opened
    closed = np.fft.irfft(saw / (1.0 + 4.0 * s / corner) ** 2, size)[:num_samples]
    return closed + (opened - closed) * np.exp(-seconds_axis(num_samples) / sweep_s)


class Instrument(NamedTuple):
    """A synthesis method with its timbre, and the envelope that shapes its loudness."""

    tone: Callable[
        [float, int, float], np.ndarray
    ]  # (frequency_hz, num_samples, brightness) -> [num_samples]
    attack_s: float = 0.005
    decay_s: float = np.inf
    release_s: float = 0.08


INSTRUMENTS: dict[str, Instrument] = {
    # Leads and chords.
    "piano": Instrument(
        partial(additive, weights=(1, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.08), fade=0.9), decay_s=1.2
    ),
    "organ": Instrument(partial(additive, weights=(1, 0.8, 0.5, 0.6, 0, 0.3, 0, 0.4)), attack_s=0.012),
    "flute": Instrument(partial(additive, weights=(1, 0.25, 0.06), vibrato_cents=10), 0.05, release_s=0.12),
    "clarinet": Instrument(partial(additive, weights=(1, 0.02, 0.6, 0.03, 0.35, 0.03, 0.2, 0, 0.1)), 0.03),
    "electric piano": Instrument(
        partial(frequency_modulation, ratio=1, index=1.6, index_decay_s=0.35), decay_s=1.5
    ),
    "bell": Instrument(
        partial(frequency_modulation, ratio=5, index=1.2, index_decay_s=0.5), decay_s=0.9, release_s=0.3
    ),
    "brass": Instrument(
        partial(
            frequency_modulation, ratio=1, index=3.0, index_decay_s=0.6, index_floor=0.6, vibrato_cents=6
        ),
        0.03,
    ),
    "guitar": Instrument(partial(plucked_string, decay_s=1.2, damping=0.5)),
    "harp": Instrument(partial(plucked_string, decay_s=2.5, damping=1.5), release_s=0.4),
    "strings": Instrument(
        partial(filtered_saw, cutoff_hz=1800, detune_cents=(-4, 0, 4), vibrato_cents=8), 0.06, release_s=0.15
    ),
    "synth lead": Instrument(partial(filtered_saw, cutoff_hz=4500), attack_s=0.008),
    "synth pluck": Instrument(partial(filtered_saw, cutoff_hz=3500, sweep_s=0.12), decay_s=0.6),
    # Basses.
    "plucked bass": Instrument(partial(plucked_string, decay_s=1.5, damping=4.0)),
    "synth bass": Instrument(partial(filtered_saw, cutoff_hz=500, sweep_s=0.2)),
    "sub bass": Instrument(partial(additive, weights=(1, 0.3, 0.1)), attack_s=0.01),
}
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
    tone = tone * np.minimum(seconds_axis(total) / instrument.attack_s, 1.0)
    tone *= np.exp(-seconds_axis(total) / instrument.decay_s)
    tone[num_samples:] *= np.linspace(1.0, 0.0, total - num_samples)
    # Loudness is judged on the first quarter of a second: a plucked and a bowed note then start alike.
    return tone / np.sqrt(np.mean(tone[: SAMPLE_RATE_HZ // 4] ** 2))


def render_drum(name: str, brightness: float = 1.0) -> np.ndarray:
    """A hit of "kick", "snare" or "hat", float64, peak 1."""
    t = seconds_axis(int(0.35 * SAMPLE_RATE_HZ))
    noise = np.random.default_rng(zlib.crc32(name.encode())).uniform(-1.0, 1.0, t.size)
    if name == "kick":
        # From 170 Hz down to 50 Hz: the phase is the integral of 50 + 120 exp(-t / 0.03).
        hit = np.sin(2.0 * np.pi * (50.0 * t - 120.0 * 0.03 * np.expm1(-t / 0.03))) * np.exp(-t / 0.09)
        hit += 0.15 * noise * np.exp(-t / 0.004)
    elif name == "snare":
        hit = noise * np.exp(-t / (0.07 * brightness)) + 0.6 * np.sin(2.0 * np.pi * 190.0 * t) * np.exp(
            -t / 0.05
        )
    elif name == "hat":
        hit = np.diff(noise, n=2, prepend=(0.0, 0.0)) * np.exp(-t / (0.03 * brightness))
    else:
        raise ValueError(f"no drum is called {name!r}; there are kick, snare and hat")
    hit *= np.minimum(t[::-1] / 0.05, 1.0)
    return hit / np.max(np.abs(hit))


def _phase(frequency_hz: float, num_samples: int, vibrato_cents: float) -> np.ndarray:
    """Radians; a vibrato of 5.5 Hz swings the frequency evenly to both sides, so the mean stays in tune."""
    phase = 2.0 * np.pi * frequency_hz * seconds_axis(num_samples)
    if vibrato_cents:
        swing = np.log(2.0) / 1200.0 * vibrato_cents
        phase -= swing * frequency_hz / 5.5 * np.cos(2.0 * np.pi * 5.5 * seconds_axis(num_samples))
    return phase


def _fft_size(at_least: int) -> int:
    """The next of 2^n, 3 * 2^(n-1): sizes that are fast everywhere."""
    power = 1 << (at_least - 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= at_least else power
