"""Sounds whose label is their loudness, and encoders that hear it, or do not: tasks with a known answer."""

import hashlib
from functools import partial

import numpy as np

from muq_jax.probe.task import V1, V2, Beats, Item, Task

RATE_HZ = 25.0
SAMPLES = 960  # of a frame
NAMES = ("a", "b", "c", "d")


def steps(levels):
    """A wave [S] whose frame i has the level `levels[i]`."""
    return np.repeat(np.asarray(levels, np.float32), SAMPLES)


def item(number, split, label, levels, group=None):
    return Item(f"clip-{number}", split, label, partial(steps, levels), group)


class Hearing:
    """Layer 0 is noise that hangs on the sound; layer 1, if it hears, is the level, one-hot below `size`."""

    standardise, pools_frames, batch_size, frame_rate_hz = False, True, 4, RATE_HZ

    def __init__(self, name="hearing", hears=True, size=8):
        self.name, self._hears, self._size, self.calls = name, hears, size, 0
        self.digest = hashlib.sha256(f"{name} {hears} {size}".encode()).hexdigest()

    def frames(self, waves, num_samples):
        self.calls += 1
        num_valid = np.maximum(num_samples // SAMPLES, 1)
        out = np.zeros((len(waves), 2, int(num_valid.max()), self._size + 1), np.float32)
        for row, (wave, valid) in enumerate(zip(waves, num_valid, strict=True)):
            levels = wave[: valid * SAMPLES : SAMPLES]
            for t, level in enumerate(levels):
                rng = np.random.default_rng([row, t, int(1000 * abs(level))])
                out[row, 0, t] = rng.normal(size=self._size + 1)
            if self._hears:
                out[row, 1, np.arange(valid), np.round(levels).astype(int) % self._size] = 3
                out[row, 1, : len(levels), -1] = levels
        return out, num_valid

    def pooled(self, waves, num_samples):
        states, num_valid = self.frames(waves, num_samples)
        return np.stack([row[:, :n].mean(axis=1) for row, n in zip(states, num_valid, strict=True)])


def task_of(kind, metrics, **changes):
    settings = dict(window_seconds=2.0, epochs=30, patience=8)
    return Task(
        "planted",
        "planted",
        kind,
        metrics,
        lambda data: None,
        v1=V1(**settings),
        v2=V2(**settings),
        **changes,
    )


def splits(count):
    """train, val, test for so many clips."""
    return [("train", "train", "train", "val", "test")[i % 5] for i in range(count)]


def classification(count=100, seed=0):
    rng = np.random.default_rng(seed)
    items = []
    for i, split in enumerate(splits(count)):
        label = int(rng.integers(4))
        # What makes two clips of a class differ is a fraction that rounds away.
        items.append(item(i, split, NAMES[label], label + 0.4 * rng.uniform(-1, 1, size=12), f"group {i}"))
    return items


def beats(count=15):
    items = []
    for i, split in enumerate(splits(count)):
        period = 10 + i % 5  # frames
        levels = np.zeros(175)
        for at in range(5, 175, period):  # a head sees a frame alone, and is to be high beside a beat as well
            first = (at - 5) % (4 * period) == 0
            levels[at - 2 : at + 3] = 4 if first else 1
            levels[at] = 3 if first else 2
        times = np.arange(5, 175, period) / RATE_HZ
        items.append(item(i, split, Beats(tuple(times), tuple(times[::4])), levels))
    return items
