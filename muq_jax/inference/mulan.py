"""`MuQMuLan`: audio and texts to vectors of one space.

For example:

    mulan = MuQMuLan.from_pretrained("path/to/folder")
    audio = mulan(wavs=[song], sampling_rate=24_000)
    text = mulan(texts=["a slow piano piece", "heavy metal"])
    mulan.calc_similarity(audio, text)                          # [1, 2]
"""

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.convert import folder as model_folder
from muq_jax.convert import hub, licence, rules
from muq_jax.convert import mulan as mulan_names
from muq_jax.convert.find import find
from muq_jax.convert.find_tokenizer import XLM_ROBERTA, find_tokenizer
from muq_jax.convert.licence import Licence
from muq_jax.errors import UserError, mistakes_in
from muq_jax.inference.pretrained import COMPATS, DTYPES
from muq_jax.inference.waves import as_clips, pad_batch, silent_clips
from muq_jax.models.mulan import AudioTower, MuLanConfig, TextTower
from muq_jax.models.mulan_json import mulan_from_json, mulan_to_json
from muq_jax.text.tokenizer import FILE as TOKENIZER
from muq_jax.text.tokenizer import Tokenizer, Tokens, pad_ids

# Clips, and texts, heard at a time: memory does not grow with a track or a list.
_MAX_CLIPS = 8
_MAX_TEXTS = 32


class MuQMuLan:
    """A MuQ-MuLan with its weights.

    Attributes:
        config: the model's configuration.
        variables: `params` (`audio`, `text`, `log_temperature`), `batch_stats` and, where its MuQ carries a
            Mel-RVQ, `rvq`.
        tokenizer: of its texts; None where the model's folder has none.
        sample_rate_hz: what the audio tower hears; other rates are resampled to it.
    """

    model_type = "mulan"

    def __init__(
        self,
        config: MuLanConfig,
        variables: Mapping[str, Any],
        tokenizer: Tokenizer | None = None,
        *,
        dtype: str = "float32",
    ) -> None:
        """Wraps a configuration, its variables and a tokenizer.

        Args:
            config: the model's configuration.
            variables: as the attribute.
            tokenizer: without one the model hears audio only.
            dtype: what the towers compute in, "float32" or "bfloat16"; the front end is float32 in any case.
        """
        if dtype not in DTYPES:
            raise UserError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
        self.config = config
        self.variables: dict[str, Any] = jax.tree.map(jnp.asarray, dict(variables))
        self.tokenizer = tokenizer
        self.sample_rate_hz = config.muq.mel.sample_rate_hz
        self._audio = AudioTower(config, dtype)
        self._text = TextTower(config, dtype)
        self._unused: dict[str, np.ndarray] = {}
        self._licence = Licence()
        self._facts: tuple[str, ...] = ()
        self._no_tokenizer = "its folder holds no tokenizer.json."

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | os.PathLike[str],
        *,
        tokenizer: str | os.PathLike[str] | None = None,
        dtype: str = "float32",
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Loads a MuQ-MuLan from a model folder or a work directory.

        Args:
            folder_or_hub_id: a folder with `config.json` and the weights, upstream's or ours, or the work
                directory of a run, of which the newest whole checkpoint is taken; or an id on the hub.
            tokenizer: a `tokenizer.json`, or an id on the hub that has one. Without it, the one in the
                folder; for a model from the hub that has none, the one of xlm-roberta-base there.
            dtype: as for `MuQMuLan`.
            cache_dir, revision, local_files_only: of `convert.find.find`; a folder is read as it is, and
                never touches the network.

        Raises:
            UserError: no such folder, another kind of model, weights that do not fit the configuration, or
                another model's tokenizer.
        """
        source = find(
            folder_or_hub_id, cache_dir=cache_dir, revision=revision, local_files_only=local_files_only
        )
        tensors: dict[str, np.ndarray] = {}
        facts: tuple[str, ...] = ()
        if model_folder.is_work_directory(source):
            from muq_jax.convert.workdir import read_run  # late: Orbax takes as long to import as JAX

            run = read_run(source, "mulan")
            config, variables, facts = run.config, run.variables, run.facts
        else:
            data, tensors = model_folder.read(source, "mulan")
            with mistakes_in(source):
                config = mulan_from_json(data)
            variables = mulan_names.from_torch_names(tensors, config, str(source))
        from_hub, missing = not Path(folder_or_hub_id).exists(), None
        where: dict[str, Any] = dict(cache_dir=cache_dir, local_files_only=local_files_only)
        try:
            path = find_tokenizer(source, tokenizer, from_hub=from_hub, **where)
        except UserError as error:
            if tokenizer is not None:
                raise
            path, missing = None, str(error)  # audio needs none; texts are told why there is none
        sizes = dict(pad_id=config.roberta.pad_id, vocab_size=config.roberta.vocab_size)
        reads = None if path is None else Tokenizer(path, **sizes)
        mulan = cls(config, variables, reads, dtype=dtype)
        mulan._no_tokenizer = missing or mulan._no_tokenizer
        mulan._facts = facts
        mulan._unused = rules.unused_of(tensors, mulan_names.mulan_table(config))
        mulan._licence = licence.shown(source)
        return mulan

    @property
    def params(self) -> dict[str, Any]:
        """What training trains: `variables["params"]`."""
        return self.variables["params"]

    @property
    def audio_variables(self) -> dict[str, Any]:
        """The audio tower's part of `variables`."""
        return {"params": self.params["audio"], "batch_stats": self.variables["batch_stats"]["audio"]}

    def audio_tower(self, variables: Mapping[str, Any], wave: jax.Array, num_samples: jax.Array) -> jax.Array:
        """The pure function of the audio tower: unit vectors [B, E] of clips [B, S], a clip as if alone."""
        return cast(jax.Array, self._audio.apply(variables, wave, num_samples))

    def __call__(
        self,
        wavs: Any = None,
        texts: Sequence[str] | None = None,
        *,
        sampling_rate: int | None = None,
        num_samples: Any = None,
        compat: str = "alone",
    ) -> np.ndarray:
        """Returns the vectors of audio or of texts, float32 [B, E]; one of the two is given.

        Args:
            wavs, sampling_rate, num_samples: as for `extract_audio_latents`.
            texts, compat: as for `extract_text_latents`; audio is heard alone in either case, as by upstream.

        Raises:
            UserError: both or none of `wavs` and `texts`, or audio without `sampling_rate`.
        """
        if (wavs is None) == (texts is None):
            raise UserError("give either wavs or texts.")
        if compat not in COMPATS:
            raise UserError(f"compat is {compat!r}; expected one of {', '.join(COMPATS)}.")
        if wavs is None:
            return self.extract_text_latents(texts, compat=compat)
        if sampling_rate is None:
            raise UserError("wavs need sampling_rate, in Hz: a wrong rate would not be noticed.")
        return self.extract_audio_latents(wavs, sampling_rate=sampling_rate, num_samples=num_samples)

    def extract_audio_latents(self, wavs: Any, *, sampling_rate: int, num_samples: Any = None) -> np.ndarray:
        """Returns a vector a track, float32 [B, E]: the mean of its clips' unit vectors, so at most 1 long.

        As upstream, a track is cut into clips of `config.clip_seconds`; the last one is completed from the
        track's start, with at most the track once more (a track of 3 s is one clip of 6 s).

        Args:
            wavs: a float array [B, S], or a list of 1-D float arrays, in -1 to 1.
            sampling_rate: of `wavs`, in Hz.
            num_samples: valid samples of each track at that rate, [B]; None if all are.

        Raises:
            UserError: what was handed in cannot be heard; the message says which track and why.
        """
        tracks = as_clips(wavs, num_samples, sampling_rate, self.sample_rate_hz, pad=False)
        length = self.config.clip_seconds * self.sample_rate_hz
        clips = [(i, clip) for i, track in enumerate(tracks) for clip in _clips(track, length)]
        rows = min(_MAX_CLIPS, _power_of_two(len(clips)))
        total = np.zeros((len(tracks), self.config.latent_size), np.float32)
        for at in range(0, len(clips), rows):
            group = clips[at : at + rows]
            heard = [clip for _, clip in group]
            heard += [heard[0]] * (rows - len(group))  # the last group keeps the compiled shape
            vectors = np.asarray(_hear(self._audio, self.audio_variables, *pad_batch(heard, length)))
            for (i, _), vector in zip(group, vectors, strict=False):
                total[i] += vector
        counts = np.bincount([i for i, _ in clips], minlength=len(tracks))
        return total / counts[:, None].astype(np.float32)

    def extract_text_latents(self, texts: Sequence[str] | None, *, compat: str = "alone") -> np.ndarray:
        """Returns a unit vector a text, float32 [B, E].

        Args:
            texts: any number of texts. Those that are longer than the model can read are cut, with a warning.
            compat: "alone" gives each text what upstream gives it alone. "upstream" gives what upstream gives
                the list as one batch: padding to the longest text is averaged over.

        Raises:
            UserError: no tokenizer, or something that is no list of texts.
        """
        if compat not in COMPATS:
            raise UserError(f"compat is {compat!r}; expected one of {', '.join(COMPATS)}.")
        given = texts
        texts = [] if isinstance(given, str) or given is None else list(given)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"texts is {given!r:.80}; expected a list of at least one text.")
        for text in texts:
            if not text.isascii() and text.encode(errors="replace").decode() != text:
                raise UserError(f"the text {text!r:.80} is not valid Unicode.")
        longest = self.config.roberta.max_tokens
        tokens = self._tokens(texts)
        cut = [f"{text[:40]!r}..." for text, over in zip(texts, tokens.cut, strict=True) if over]
        if cut:
            which = cut[0] if len(cut) == 1 else f"{len(cut)} texts, the first {cut[0]},"
            message = f"{which}: longer than {longest} tokens; the end is not read"
            warnings.warn(message, stacklevel=2)
        tower = {"params": self.params["text"]}
        if compat == "upstream":
            ids = pad_ids(tokens.ids, self.config.roberta.pad_id, max(map(len, tokens.ids)))
            return np.asarray(_read(self._text, tower, ids, True))
        rows, vectors = min(_MAX_TEXTS, _power_of_two(len(texts))), []
        for at in range(0, len(texts), rows):
            group = tokens.ids[at : at + rows]
            group = group + group[:1] * (rows - len(group))
            # Few different lengths, since every one is compiled anew.
            length = min(longest, max(16, _power_of_two(max(map(len, group)))))
            ids = pad_ids(group, self.config.roberta.pad_id, length)
            vectors.append(np.asarray(_read(self._text, tower, ids, False)))
        return np.concatenate(vectors)[: len(texts)]

    def num_cut(self, texts: Sequence[str]) -> int:
        """Returns how many of these texts are longer than the model can read.

        Raises:
            UserError: no tokenizer.
        """
        return sum(map(bool, self._tokens(texts).cut))

    def _tokens(self, texts: Sequence[str]) -> Tokens:
        if self.tokenizer is None:
            raise UserError(
                f"this model has no tokenizer: {self._no_tokenizer} Put the {TOKENIZER} of xlm-roberta-base "
                f"there, or give it: tokenizer=FILE, or, with the extra hub, tokenizer={XLM_ROBERTA!r} "
                "(--tokenizer of the commands)."
            )
        return self.tokenizer(texts, self.config.roberta.max_tokens)

    def warmup(self, seconds: float = 10.0, batch_size: int = 1, *, num_texts: int = 1) -> float:
        """Compiles what calls on so many tracks of that length, and on short texts, need.

        Args:
            seconds: of a track.
            batch_size: tracks a call.
            num_texts: texts a call; none are read where there is no tokenizer.

        Returns:
            how long that took, in seconds.
        """
        start = time.perf_counter()
        silence = silent_clips(seconds, batch_size, self.sample_rate_hz)
        self.extract_audio_latents(silence, sampling_rate=self.sample_rate_hz)
        if self.tokenizer is not None and num_texts:
            self.extract_text_latents(["music"] * num_texts)
        return time.perf_counter() - start

    def calc_similarity(self, audio_latents: Any, text_latents: Any) -> np.ndarray:
        """Returns the dot products of vectors [B, E] and [N, E], [B, N]; an axis less where one is a vector.

        Raises:
            UserError: other shapes.
        """
        audio, text = np.asarray(audio_latents), np.asarray(text_latents)
        if not {audio.ndim, text.ndim} <= {1, 2} or audio.shape[-1] != text.shape[-1]:
            raise UserError(
                f"cannot compare shapes {audio.shape} and {text.shape}; expected [.., E] and [.., E]."
            )
        return audio @ text.T

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes a model folder, whole or not at all, that this class and the PyTorch package both load.

        Tensors that a MuQ-MuLan in use never reads are those of the file that this model came from, else
        zeros. The tokenizer, and a licence that lay beside that file, go along.

        Raises:
            UserError: `folder` holds something that is not a model, or the disk is full.
        """
        table = mulan_names.mulan_table(self.config)
        tensors = mulan_names.to_torch_names(self.variables, self.config)
        whole = rules.complete(tensors, table, self._unused)
        beside = {TOKENIZER: self.tokenizer.source} if self.tokenizer else {}
        described, digest = mulan_to_json(self.config), rules.params_sha256(tensors)
        model_folder.write(folder, described, whole, digest, self._licence, beside, self._facts)

    def push_to_hub(self, repo_id: str, *, private: bool = True, revision: str | None = None) -> str:
        """Uploads the model to the Hugging Face hub and returns its address; as `convert.hub.push`."""
        return hub.push(self, repo_id, private=private, revision=revision)


@partial(jax.jit, static_argnums=0)
def _hear(tower: AudioTower, variables: Any, wave: Any, num_samples: Any) -> Any:
    return tower.apply(variables, wave, num_samples)


@partial(jax.jit, static_argnums=(0, 3))
def _read(tower: TextTower, variables: Any, ids: Any, over_padding: bool) -> Any:
    return tower.apply(variables, ids, over_padding=over_padding)


def _clips(track: np.ndarray, length: int) -> list[np.ndarray]:
    """Clips of `length` samples; the last is completed from the start of the track."""
    clips = [track[at : at + length] for at in range(0, len(track), length)]
    missing = length - len(clips[-1])
    if missing:
        clips[-1] = np.concatenate([clips[-1], track[:missing]])
    return clips


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()
