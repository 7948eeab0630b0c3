"""Mean and standard deviation of the mel spectrogram in dB over a corpus, which the models normalise by."""

import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from muq_jax.audio.mel_numpy import log_mel_numpy
from muq_jax.data.mixture import Mixture, mix_statistics, parse_mixture
from muq_jax.data.paths import as_path
from muq_jax.data.shards import is_shards

if TYPE_CHECKING:
    from muq_jax.data.sources import Source

_MIN_SAMPLES = 1025  # a window's half and one more; models pad a shorter clip to it


class MelMoments(NamedTuple):
    """Number, mean and summed squared deviation of mel values (all bands and frames alike)."""

    num_values: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, wave: np.ndarray) -> "MelMoments":
        """Returns those of one clip at 24 kHz, float32 [S]; a very short one is zero-padded, as models do."""
        mel = log_mel_numpy(np.pad(wave, (0, max(_MIN_SAMPLES - len(wave), 0)))).astype(np.float64)
        return cls(mel.size, float(mel.mean()), float(mel.var() * mel.size))

    def merge(self, other: "MelMoments") -> "MelMoments":
        """Returns the moments of both together (Chan's formula: no large sums of squares cancel)."""
        total = self.num_values + other.num_values
        if total == 0:
            return self
        shift = other.mean - self.mean
        return MelMoments(
            total,
            self.mean + shift * other.num_values / total,
            self.squares + other.squares + shift**2 * self.num_values * other.num_values / total,
        )

    @classmethod
    def of_summary(cls, summary: Mapping[str, float]) -> "MelMoments":
        """Returns those of which `summary` was written."""
        return cls(int(summary["count"]), summary["mean"], summary["std"] ** 2 * summary["count"])

    def summary(self) -> dict[str, float]:
        """Returns {"mean", "std", "count"}, in dB and mel values."""
        return {
            "mean": self.mean,
            "std": math.sqrt(self.squares / max(self.num_values, 1)),
            "count": self.num_values,
        }


def mel_statistics(source: "Source", *, max_clips: int = 1000) -> dict[str, float]:
    """Returns {"mean", "std", "count"} over a source, or over `max_clips` of its clips, evenly spaced.

    Those of a mixture are over `max_clips` of each corpus, merged with the weights.
    """
    if isinstance(source, Mixture):
        parts = [mel_statistics(part, max_clips=max_clips) for part in source.sources]
        return mix_statistics(parts, source.weights)
    moments = MelMoments()
    for index in np.linspace(0, len(source) - 1, min(len(source), max_clips)).astype(int):
        wave = source[int(index)]["wave"]
        moments = moments.merge(MelMoments.of(wave if wave.ndim == 1 else wave.mean(axis=0)))
    return moments.summary()


def load_statistics(source: str | os.PathLike[str]) -> dict[str, float] | None:
    """Returns {"mean", "std", "count"} that `prepare` wrote into a folder of shards; None elsewhere.

    Those of a mixture of such folders (`runs/a=0.7,runs/b=0.3`) are merged with the weights.
    """
    if mixture := parse_mixture(os.fspath(source)):
        found = [load_statistics(corpus) for corpus, _ in mixture]
        parts = [part for part in found if part is not None]
        return mix_statistics(parts, [weight for _, weight in mixture]) if len(parts) == len(found) else None
    folder = as_path(source)
    path = folder / "stats.json"
    if not is_shards(folder) or not path.exists():
        return None
    stats = json.loads(path.read_text())
    return {name: stats[name] for name in ("mean", "std", "count")}
