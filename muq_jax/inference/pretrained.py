"""`MuQ`, and `MusicFM` of the same network: a model folder in, features of any audio out.

For example:

    muq = MuQ.from_pretrained("path/to/folder")
    out = muq([wave_a, wave_b], sampling_rate=24_000)
    out.last_hidden_state, out.hidden_states[9], out.num_valid
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.convert import folder as model_folder
from muq_jax.convert import hub, licence, rules
from muq_jax.convert.find import find
from muq_jax.convert.kinds import KINDS
from muq_jax.convert.licence import Licence
from muq_jax.errors import UserError, mistakes_in
from muq_jax.inference.waves import as_clips, bucket, is_integer, pad_batch, silent_clips
from muq_jax.inference.windows import Window, plan, window_tokens
from muq_jax.models.config import MuQConfig
from muq_jax.models.muq import MuQModel, MuQOutput
from muq_jax.nn.subsample import num_tokens

DTYPES = ("float32", "bfloat16")
COMPATS = ("alone", "upstream")


@dataclass(frozen=True)
class Features:
    """What a model heard, as float32 numpy arrays.

    Attributes:
        hidden_states: by layer number, 0 (the encoder's input) to L, [B, T, D] each; None where not asked
            for. T is the longest clip's. Tokens past a clip's own end are zero; with compat="upstream" they
            are what the model makes of the padding.
        num_valid: int32 [B], tokens of each clip.
        times_seconds: [T], where each token begins.
    """

    hidden_states: tuple[np.ndarray | None, ...]
    num_valid: np.ndarray
    times_seconds: np.ndarray

    @property
    def last_hidden_state(self) -> np.ndarray | None:
        """[B, T, D] of the last layer, after the encoder's final LayerNorm; None if it was not asked for."""
        return self.hidden_states[-1]


class MuQ:
    """A MuQ with its weights.

    Attributes:
        config: the model's configuration.
        variables: `params`, `batch_stats` and, where the model carries a Mel-RVQ, `rvq`.
        sample_rate_hz: what the model hears; `__call__` resamples other rates to it.
        frame_rate_hz: tokens a second.
        model_type: as in `config.json`.
    """

    model_type = "muq"

    def __init__(self, config: MuQConfig, variables: Mapping[str, Any], *, dtype: str = "float32") -> None:
        """Wraps a configuration and its variables.

        Args:
            config: the model's configuration.
            variables: as the attribute.
            dtype: what the encoder computes in, "float32" or "bfloat16"; the front end is float32 in any
                case.
        """
        if dtype not in DTYPES:
            raise UserError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
        self.config = config
        self.variables: dict[str, Any] = jax.tree.map(jnp.asarray, dict(variables))
        self.sample_rate_hz = config.mel.sample_rate_hz
        self.frame_rate_hz = config.label_rate
        self._samples_per_token = self.sample_rate_hz // self.frame_rate_hz
        self._model = MuQModel(config, dtype)
        self._unused: dict[str, np.ndarray] = {}
        self._licence = Licence()
        self._facts: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | os.PathLike[str],
        *,
        dtype: str = "float32",
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Loads a MuQ from a model folder or a work directory.

        Args:
            folder_or_hub_id: a folder with `config.json` and safetensors, upstream's or ours, or the work
                directory of a run, of which the newest whole checkpoint is taken; or a model's id on the hub.
            dtype: as for `MuQ`.
            cache_dir, revision, local_files_only: of `convert.find.find`; a folder is read as it is, and
                never touches the network.

        Raises:
            UserError: no such folder, another kind of model, or weights that do not fit the configuration.
        """
        source = find(
            folder_or_hub_id, cache_dir=cache_dir, revision=revision, local_files_only=local_files_only
        )
        kind = KINDS[cls.model_type]
        if kind.name == "muq" and model_folder.is_work_directory(source):
            from muq_jax.convert.workdir import read_run  # late: Orbax takes as long to import as JAX

            run = read_run(source, "muq")
            muq = cls(run.config, run.variables, dtype=dtype)
            muq._unused, muq._facts = run.drawn, run.facts
            return muq
        data, tensors = model_folder.read(source, kind.name)
        with mistakes_in(source):
            config = kind.read_config(data)
        table = kind.table(config)
        muq = cls(config, rules.from_torch(tensors, table, kind.template(config), str(source)), dtype=dtype)
        muq._unused = rules.unused_of(tensors, table)
        muq._licence = licence.shown(source)
        return muq

    @property
    def params(self) -> dict[str, Any]:
        """What training trains: `variables["params"]`."""
        return self.variables["params"]

    def __call__(
        self,
        wavs: Any,
        *,
        sampling_rate: int,
        num_samples: Any = None,
        layers: str | int | Sequence[int] = "all",
        window_seconds: float | None = None,
        compat: str = "alone",
    ) -> Features:
        """Returns the features of clips of any lengths.

        Args:
            wavs: a float array [B, S], or a list of 1-D float arrays, in -1 to 1. Below 1,025 samples (at 24
                kHz) a clip is zero-padded to that many.
            sampling_rate: of `wavs`, in Hz.
            num_samples: valid samples of each clip at that rate, [B]; None if all are.
            layers: "all", "last", or one or more layer numbers from 0 to L (negative ones count from the
                end).
            window_seconds: None hears each clip in one pass, as upstream. A number cuts longer clips into
                windows of that length which overlap by half, and keeps their centres; memory then grows with
                the features that are returned alone.
            compat: "alone" gives each clip what upstream gives it alone, whatever it shares the batch with.
                "upstream" gives what the PyTorch model gives for the zero-padded batch without
                `attention_mask`: padding leaks into every shorter clip and counts as heard.

        Raises:
            UserError: what was handed in cannot be heard; the message says which clip and why.
        """
        if compat not in COMPATS:
            raise UserError(f"compat is {compat!r}; expected one of {', '.join(COMPATS)}.")
        numbers = self.layer_numbers(layers)
        size = None if window_seconds is None else window_tokens(window_seconds, self.frame_rate_hz)
        if size is not None and compat == "upstream":
            raise UserError("window_seconds needs compat='alone': upstream hears clips in one pass.")
        clips = as_clips(wavs, num_samples, sampling_rate, self.sample_rate_hz)
        num_valid = np.array([self.num_tokens(len(clip)) for clip in clips], np.int32)
        longest = max(map(len, clips))
        if size is not None and longest > size * self._samples_per_token:
            hidden = self._in_windows(clips, num_valid, numbers, size)
        else:
            if compat == "upstream":
                batch, lengths = pad_batch(clips)[0], None
            else:
                batch, lengths = pad_batch(clips, bucket(longest, self.sample_rate_hz))
            features = _features(self._model, self.variables, batch, lengths, numbers)
            hidden = [np.asarray(states)[:, : num_valid.max()] for states in features]
        by_number: list[np.ndarray | None] = [None] * (self.config.conformer.num_layers + 1)
        for number, states in zip(numbers, hidden, strict=True):
            by_number[number] = states
        times = np.arange(num_valid.max()) / self.frame_rate_hz
        return Features(tuple(by_number), num_valid, times)

    def warmup(
        self,
        seconds: float = 30.0,
        batch_size: int = 1,
        *,
        layers: str | int | Sequence[int] = "all",
        window_seconds: float | None = None,
    ) -> float:
        """Compiles what calls on so many clips of that length need.

        Args:
            seconds: of the longest clip.
            batch_size: clips a call.
            layers, window_seconds: as for a call.

        Returns:
            how long that took, in seconds.
        """
        start = time.perf_counter()
        silence = silent_clips(seconds, batch_size, self.sample_rate_hz)
        self(silence, sampling_rate=self.sample_rate_hz, layers=layers, window_seconds=window_seconds)
        return time.perf_counter() - start

    def apply(
        self,
        variables: Mapping[str, Any],
        wavs: jax.Array,
        num_samples: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> Any:
        """The pure function of this model: jit it, differentiate it, shard it.

        Args:
            variables: like `self.variables`.
            wavs: float [B, S] at `sample_rate_hz`.
            num_samples: int [B], valid samples; None if all are.
            train: dropout, and BatchNorm by the statistics of this batch.
            rngs: with `train`, a key for the stream "dropout".

        Returns:
            `MuQOutput`; with `train`, a pair of it and the new `batch_stats` as `{"batch_stats": ...}`.
        """
        mutable = ["batch_stats"] if train else False
        keys = None if rngs is None else dict(rngs)
        return self._model.apply(variables, wavs, num_samples, train=train, rngs=keys, mutable=mutable)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes a model folder, whole or not at all, that this class and the PyTorch package both load.

        Tensors that a MuQ in use never reads are those of the file or run that this model came from, else
        zeros. A licence that lay beside that file goes along.

        Raises:
            UserError: `folder` holds something that is not a model, or the disk is full.
        """
        kind = KINDS[self.model_type]
        table = kind.table(self.config)
        tensors = rules.to_torch(self.variables, table)
        whole = rules.complete(tensors, table, self._unused)
        described, digest = kind.write_config(self.config), rules.params_sha256(tensors)
        model_folder.write(folder, described, whole, digest, self._licence, facts=self._facts)

    def push_to_hub(self, repo_id: str, *, private: bool = True, revision: str | None = None) -> str:
        """Uploads the model to the Hugging Face hub and returns its address; as `convert.hub.push`."""
        return hub.push(self, repo_id, private=private, revision=revision)

    def layer_numbers(self, layers: str | int | Sequence[int]) -> tuple[int, ...]:
        """Returns the layers that "all", "last", or one or more numbers stand for, in order.

        Raises:
            UserError: this model has no such layer.
        """
        last = self.config.conformer.num_layers
        if isinstance(layers, str):
            named = {"all": tuple(range(last + 1)), "last": (last,)}
            if layers not in named:
                raise UserError(f"layers is {layers!r}; expected 'all', 'last' or numbers from 0 to {last}.")
            return named[layers]
        numbers: list[Any] = list(layers) if isinstance(layers, Sequence | np.ndarray) else [layers]
        if not numbers:
            raise UserError(f"layers is empty; expected 'all', 'last' or numbers from 0 to {last}.")
        for number in numbers:
            if not is_integer(number) or not -last - 1 <= number <= last:
                raise UserError(f"layers holds {number!r}; this model's layers are numbered 0 to {last}.")
        return tuple(sorted({int(number) % (last + 1) for number in numbers}))

    def num_tokens(self, num_samples: int) -> int:
        """Returns how many tokens so many samples at `sample_rate_hz` become."""
        return num_tokens(num_samples // self.config.mel.hop_length, self.config.label_rate)

    def _in_windows(
        self, clips: list[np.ndarray], num_valid: np.ndarray, numbers: tuple[int, ...], size: int
    ) -> list[np.ndarray]:
        """Hears the clips' windows, as many at a time as there are clips."""
        todo: list[tuple[int, Window]] = [
            (i, window)
            for i, clip in enumerate(clips)
            for window in plan(len(clip), int(num_valid[i]), size, self._samples_per_token)
        ]
        shape = (len(clips), int(num_valid.max()), self.config.conformer.width)
        hidden = [np.zeros(shape, np.float32) for _ in numbers]
        rows = len(clips)
        for at in range(0, len(todo), rows):
            group = todo[at : at + rows]
            heard = [clips[i][window.start : window.stop] for i, window in group]
            heard += [heard[0]] * (rows - len(group))  # the last group keeps the compiled shape
            batch, lengths = pad_batch(heard, size * self._samples_per_token)
            features = _features(self._model, self.variables, batch, lengths, numbers)
            for kept, states in zip(hidden, map(np.asarray, features), strict=True):
                for row, (i, window) in enumerate(group):
                    tokens = slice(window.skip, window.skip + window.last - window.first)
                    kept[i, window.first : window.last] = states[row, tokens]
        return hidden


class MusicFM(MuQ):
    """A MusicFM-25Hz with its weights: a MuQ's network, trained on random-projection targets.

    `from_pretrained` takes a release as it is, a folder of `pretrained_msd.pt` and `msd_stats.json`, or a
    model folder.
    """

    model_type = "musicfm"


# Compiled functions are shared: another model of the same configuration compiles nothing.
@partial(jax.jit, static_argnums=(0, 4))
def _features(
    model: MuQModel, variables: Any, wave: Any, num_samples: Any, numbers: tuple[int, ...]
) -> list[jax.Array]:
    output = cast(MuQOutput, model.apply(variables, wave, num_samples))
    return [output.hidden_states[number].astype(jnp.float32) for number in numbers]
