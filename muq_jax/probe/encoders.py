"""What can be probed: this package's models, untrained ones, log-mel and CQT statistics, any callable."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import librosa
import numpy as np

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.audio.mel_numpy import log_mel_numpy
from muq_jax.errors import UserError
from muq_jax.inference.hearers import MuQHearer
from muq_jax.inference.load import load_model, params_sha256
from muq_jax.inference.mulan import MuQMuLan
from muq_jax.inference.pretrained import MuQ
from muq_jax.models.config import PRESETS, muq_config
from muq_jax.models.muq import MuQModel
from muq_jax.probe.ready import ReadyFeatures, is_ready_features

LOG_MEL, CQT, RANDOM = "logmel", "cqt", "random:"

_WIDE = 512  # from this width on, several windows at a time are no faster on a CPU and hold more memory


class Encoder(Protocol):
    """Anything that makes features of audio at 24 kHz.

    Attributes:
        name: as tables show it.
        digest: SHA-256 of what makes the features, weights and configuration; features of another digest are
            never mixed with them.
        frame_rate_hz: of `frames`; None where it has none.
        standardise: its features have no scale of their own, so heads always see them standardised.
        pools_frames: `pooled` is `mean_over_time` of `frames`, which need not be made twice.
        batch_size: windows at a time.
    """

    name: str
    digest: str
    frame_rate_hz: float | None
    standardise: bool
    pools_frames: bool
    batch_size: int

    def pooled(self, waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        """Returns [B, L, D] float32, one vector a layer, of zero-padded waves [B, S]."""
        ...

    def frames(self, waves: np.ndarray, num_samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns [B, L, T, D] float32, and the number of valid frames of each wave, [B]."""
        ...


class MuQEncoder:
    """The hidden states of every layer of a MuQ or MusicFM, and their means over time."""

    standardise, pools_frames = False, True

    def __init__(self, muq: MuQ, name: str) -> None:
        self.muq, self.name, self.weights_sha256 = muq, name, params_sha256(muq)
        self.digest = _digest_of(self.weights_sha256, muq)
        self.frame_rate_hz: float | None = muq.frame_rate_hz
        self._hearer = MuQHearer(muq, "all")  # on all local devices, which share a batch
        small = muq.config.conformer.width < _WIDE or jax.default_backend() != "cpu"
        self.batch_size = (4 if small else 1) * self._hearer.num_devices

    def pooled(self, waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        return mean_over_time(*self.frames(waves, num_samples))

    def frames(self, waves: np.ndarray, num_samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        num_valid = np.array([self.muq.num_tokens(int(n)) for n in num_samples], np.int32)
        short = -len(waves) % self._hearer.num_devices
        waves, lengths = np.pad(waves, ((0, short), (0, 0))), np.pad(num_samples, (0, short), mode="edge")
        return self._hearer.hear(waves, lengths)[: len(num_valid)], num_valid


class MuLanEncoder:
    """The joint-space vector of a MuQ-MuLan: one layer, no frames."""

    standardise, pools_frames, batch_size = False, False, 4
    frame_rate_hz: float | None = None

    def __init__(self, mulan: MuQMuLan, name: str) -> None:
        self.mulan, self.name, self.weights_sha256 = mulan, name, params_sha256(mulan)
        self.digest = _digest_of(self.weights_sha256, mulan)

    def pooled(self, waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        return self.mulan(wavs=waves, num_samples=num_samples, sampling_rate=SAMPLE_RATE_HZ)[:, None]

    def frames(self, waves: np.ndarray, num_samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise UserError(f"{self.name}: a MuQ-MuLan gives one vector a clip; this task needs one a frame.")


class Spectrogram:
    """A floor: bands of a spectrogram in dB; pooled, their mean, deviation and mean absolute change.

    What a representation of music has to beat: these are what any classifier could be given without one.
    """

    standardise, pools_frames, batch_size = True, False, 1
    frame_rate_hz: float | None = 25.0

    def __init__(self, name: str, bands: Callable[[np.ndarray], np.ndarray], stack: int) -> None:
        """
        Args:
            name: as tables show it; with this class's code it says what the features are.
            bands: of a wave [S], [T * stack, F] in dB at `stack` times 25 Hz.
            stack: frames side by side in one of 25 Hz.
        """
        self.name, self._bands, self._stack = name, bands, stack
        self.digest = hashlib.sha256(f"{name} statistics 2".encode()).hexdigest()

    def pooled(self, waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        rows = []
        for wave, length in zip(waves, num_samples, strict=True):
            bands = self._bands(wave[:length])
            change = (
                np.abs(np.diff(bands, axis=0)).mean(axis=0) if len(bands) > 1 else np.zeros(bands.shape[1])
            )
            rows.append(np.concatenate([bands.mean(axis=0), bands.std(axis=0), change]))
        return np.stack(rows)[:, None].astype(np.float32)

    def frames(self, waves: np.ndarray, num_samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for wave, length in zip(waves, num_samples, strict=True):
            bands = self._bands(wave[:length])
            num_frames = max(1, len(bands) // self._stack)
            padded = np.pad(bands, ((0, max(0, num_frames * self._stack - len(bands))), (0, 0)), mode="edge")
            found.append(padded[: num_frames * self._stack].reshape(num_frames, -1))
        num_valid = np.array([len(bands) for bands in found], np.int32)
        out = np.zeros((len(found), 1, int(num_valid.max()), found[0].shape[1]), np.float32)
        for row, bands in zip(out, found, strict=True):
            row[0, : len(bands)] = bands
        return out, num_valid


@dataclass
class CallableEncoder:
    """Another model: a function with MuQ's call, which returns `hidden_states` and `num_valid`.

    Attributes:
        name: as tables show it.
        call: `call(wavs [B, S], sampling_rate=24000, num_samples=[B])`, returning an object with
            `hidden_states`, a sequence of [B, T, D], and `num_valid` [B].
        frame_rate_hz: of the hidden states.
        version: anything that changes when the features do.
    """

    name: str
    call: Callable[..., Any]
    frame_rate_hz: float | None = None
    version: str = ""
    standardise: bool = False
    pools_frames: bool = True
    batch_size: int = 4
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256(f"{self.name}\n{self.version}".encode()).hexdigest()

    def pooled(self, waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        return mean_over_time(*self.frames(waves, num_samples))

    def frames(self, waves: np.ndarray, num_samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = self.call(waves, sampling_rate=SAMPLE_RATE_HZ, num_samples=num_samples)
        states = [np.asarray(state, np.float32) for state in out.hidden_states]
        num_valid = np.asarray(out.num_valid)
        if any(state.ndim != 3 or state.shape[:2] != states[0].shape[:2] for state in states):
            shapes = [state.shape for state in states]
            raise UserError(f"{self.name}: hidden_states have the shapes {shapes}; expected [B, T, D] each")
        if num_valid.shape != (len(waves),) or (num_valid < 1).any():
            raise UserError(f"{self.name}: num_valid is {num_valid}; expected one count of 1 or more a wave")
        return np.stack(states, axis=1), num_valid


def _digest_of(weights_sha256: str, model: MuQ | MuQMuLan) -> str:
    """Weights alone do not make features: mel statistics, rates and sizes are in the configuration."""
    return hashlib.sha256(f"{weights_sha256} {model.config!r}".encode()).hexdigest()


def mean_over_time(frames: np.ndarray, num_valid: np.ndarray) -> np.ndarray:
    """Returns [B, L, D], the mean of each wave's valid frames; `frames` is [B, L, T, D]."""
    return np.stack([row[:, :valid].mean(axis=1) for row, valid in zip(frames, num_valid, strict=True)])


def load_encoder(
    model: str, name: str | None = None, tokenizer: str | None = None
) -> "Encoder | ReadyFeatures":
    """Returns what MODEL of the command `probe` stands for.

    Args:
        model: a model folder, a work directory or an id on the hub; `logmel`; `cqt`; `random:PRESET` or
            `random:PRESET:SEED`, an untrained MuQ; or a folder of ready features (`ready.py`).
        name: as tables show it; the folder's name by default.
        tokenizer: of a MuQ-MuLan that has none beside it.

    Raises:
        UserError: there is no such thing.
    """
    if model in (LOG_MEL, CQT):
        floor = log_mel() if model == LOG_MEL else cqt()
        floor.name = name or model
        return floor
    if model.startswith(RANDOM):
        return _untrained_preset(model, name or model)
    if is_ready_features(model):
        return ReadyFeatures(model, name)
    loaded = load_model(model, tokenizer)
    name = name or _last_part(model)
    return MuLanEncoder(loaded, name) if isinstance(loaded, MuQMuLan) else MuQEncoder(loaded, name)


def log_mel() -> Spectrogram:
    """Returns the floor `logmel`: 64 mel bands in dB, 50 frames a second."""
    return Spectrogram(LOG_MEL, lambda wave: log_mel_numpy(wave, hop_length=480, num_mels=64), stack=2)


def cqt() -> Spectrogram:
    """Returns the floor `cqt`: 84 semitones from C1 (32.7 Hz) in dB, 25 frames a second, by librosa."""
    return Spectrogram(CQT, _cqt_bands, stack=1)


def untrained(muq: MuQ, seed: int) -> MuQ:
    """Returns an encoder of the same sizes with fresh parameters: what the architecture alone hears.

    A Mel-RVQ, which the features do not use, stays as it is.
    """
    fresh = MuQModel(muq.config).init(jax.random.key(seed), jnp.zeros((1, muq.sample_rate_hz)))
    return MuQ(muq.config, {**muq.variables, **fresh})


def _untrained_preset(model: str, name: str) -> MuQEncoder:
    preset, _, seed = model.removeprefix(RANDOM).partition(":")
    if preset not in PRESETS:
        raise UserError(f"{model}: no preset {preset!r}; expected {RANDOM} and one of {', '.join(PRESETS)}")
    if seed and not seed.isdecimal():
        raise UserError(f"{model}: the seed is {seed!r}; expected a whole number, as in {RANDOM}tiny:3")
    config = muq_config(preset, rvq=None)
    wave = jnp.zeros((1, config.mel.sample_rate_hz))
    return MuQEncoder(MuQ(config, MuQModel(config).init(jax.random.key(int(seed or 0)), wave)), name)


def _cqt_bands(wave: np.ndarray) -> np.ndarray:
    # 960 samples are 25 frames a second, and divide by 2 once an octave as librosa's recursion needs.
    with warnings.catch_warnings():  # librosa's: the lowest filters are longer than short clips
        warnings.simplefilter("ignore", UserWarning)
        magnitude = np.abs(librosa.cqt(wave, sr=SAMPLE_RATE_HZ, hop_length=960, n_bins=84))
    # librosa centres its frames, and has one more at the end.
    return 20 * np.log10(np.maximum(magnitude.T, 1e-5))[: max(1, len(wave) // 960)]


def _last_part(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2] or model
