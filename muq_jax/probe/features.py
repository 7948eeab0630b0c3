"""One vector a clip: the mean over time of each layer of an encoder, or the plain statistics of a log-mel."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from muq_jax.audio.decode import SAMPLE_RATE_HZ, load_audio
from muq_jax.audio.framing import MIN_SAMPLES
from muq_jax.audio.mel_numpy import log_mel_numpy
from muq_jax.data.manifest import Clip
from muq_jax.inference.pretrained import MuQ
from muq_jax.models.muq import MuQModel

LOG_MEL = "log-mel"
"""The name of `log_mel_statistics` among the encoders."""


class Encoder(Protocol):
    """Anything with MuQ's call: `hidden_states`, a sequence of [B, T, D], and `num_valid` [B]."""

    def __call__(self, wavs: Any, *, sampling_rate: int, num_samples: Any = None) -> Any: ...


@dataclasses.dataclass(frozen=True)
class LabelledClip:
    """A clip that a probe uses.

    Attributes:
        id: its name.
        split: "train", "val" or "test".
        labels: a label a task; None where it is not known.
        load: returns the samples, float32 [S] at 24 kHz; called anew for every encoder.
    """

    id: str
    split: str | None
    labels: Mapping[str, str | None]
    load: Callable[[], np.ndarray]


def labelled_clip(clip: Clip, labels: Mapping[str, str | None]) -> LabelledClip:
    """Returns the clip of a manifest with these labels; its audio is decoded when it is needed."""
    return LabelledClip(clip.id, clip.split, labels, lambda: load_audio(clip.path))


def untrained(muq: MuQ, seed: int) -> MuQ:
    """Returns an encoder of the same sizes with fresh parameters: what the architecture alone hears.

    A Mel-RVQ, which the features do not use, stays as it is.
    """
    fresh = MuQModel(muq.config).init(jax.random.key(seed), jnp.zeros((1, muq.sample_rate_hz)))
    return MuQ(muq.config, {**muq.variables, **fresh})


def hidden_state_means(
    encoder: Encoder,
    clips: Sequence[LabelledClip],
    *,
    clip_seconds: float,
    batch_size: int = 8,
    name: str = "",
) -> np.ndarray:
    """The mean over a clip's valid tokens of every layer.

    Every batch has the same shape, so that the encoder is compiled once: clips are cut to `clip_seconds` or
    zero-padded to it, and the last batch is filled with silent rows.

    Args:
        encoder: MuQ or anything called like it.
        clip_seconds: of each clip, how much is used, from its start.
        name: shown in the progress line.

    Returns:
        [L+1, N, D] float32; layer 0 is the encoder's input.
    """
    num_samples = round(clip_seconds * SAMPLE_RATE_HZ)
    batches = []
    for start in tqdm(range(0, len(clips), batch_size), f"features {name}", leave=False, disable=None):
        waves = [clip.load()[:num_samples] for clip in clips[start : start + batch_size]]
        batch = np.zeros((batch_size, num_samples), np.float32)
        lengths = np.full(batch_size, MIN_SAMPLES, np.int32)
        for row, wave in enumerate(waves):
            batch[row, : wave.size] = wave
            lengths[row] = max(wave.size, MIN_SAMPLES)
        out = encoder(batch, sampling_rate=SAMPLE_RATE_HZ, num_samples=lengths)
        num_valid = np.asarray(out.num_valid)[: len(waves), None, None]
        layers = []
        for hidden in out.hidden_states:
            hidden = np.asarray(hidden, np.float32)[: len(waves)]
            valid = np.arange(hidden.shape[1])[:, None] < num_valid
            layers.append(np.where(valid, hidden, 0).sum(axis=1) / num_valid[..., 0])
        batches.append(np.stack(layers))
    return np.concatenate(batches, axis=1).astype(np.float32)


def log_mel_statistics(
    clips: Sequence[LabelledClip], *, clip_seconds: float, num_mels: int = 64, hop_length: int = 480
) -> np.ndarray:
    """The trivial baseline: mean, deviation and mean absolute change of each band of a log-mel.

    Returns:
        [1, N, 3 * num_mels] float32
    """
    rows = []
    for clip in tqdm(clips, f"features {LOG_MEL}", leave=False, disable=None):
        wave = clip.load()[: round(clip_seconds * SAMPLE_RATE_HZ)]
        wave = np.pad(wave, (0, max(0, MIN_SAMPLES - wave.size)))
        mel = log_mel_numpy(wave, hop_length=hop_length, num_mels=num_mels)
        change = np.abs(np.diff(mel, axis=0)).mean(axis=0)
        rows.append(np.concatenate([mel.mean(axis=0), mel.std(axis=0), change]))
    return np.stack(rows)[None]
