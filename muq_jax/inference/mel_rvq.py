"""`MelRVQ`: audio to codes, and codes back to a log-mel."""

import os
import warnings
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.convert import folder as model_folder
from muq_jax.convert import hub, licence, rules
from muq_jax.convert import mel_rvq as mel_rvq_names
from muq_jax.convert.find import find
from muq_jax.convert.licence import Licence
from muq_jax.errors import UserError, mistakes_in
from muq_jax.inference.waves import as_clips, bucket, pad_batch
from muq_jax.models import mel_rvq
from muq_jax.models.config import MelRVQConfig
from muq_jax.models.config_json import from_upstream_json, mel_rvq_from_json, mel_rvq_to_json

_ITERATIVE = (
    "A MuQ of the iterative stage learns from labels that were computed beforehand and need not carry the "
    "quantiser that made them."
)


class MelRVQ:
    """A Mel-RVQ with its weights: audio to codes and back to a log-mel.

    Attributes:
        config: the tokenizer's configuration.
        variables: `params` and `codebook_state`.
        sample_rate_hz: what it hears; `encode` resamples other rates to it.
        frame_rate_hz: tokens a second.
    """

    def __init__(self, config: MelRVQConfig, variables: Mapping[str, Any]) -> None:
        """Wraps a configuration and its variables."""
        self.config = config
        self.variables: dict[str, Any] = jax.tree.map(jnp.asarray, dict(variables))
        self.sample_rate_hz = config.mel.sample_rate_hz
        self.frame_rate_hz = config.label_rate
        self._licence = Licence()

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Loads a Mel-RVQ from its own model folder or work directory, or the one that a MuQ carries.

        Args:
            folder_or_hub_id: the folder; as for `MuQ.from_pretrained`.
            cache_dir, revision, local_files_only: of `convert.find.find`; a folder is read as it is, and
                never touches the network.

        Raises:
            UserError: no such folder, a model that carries none, or weights that do not fit the
                configuration.
        """
        source = find(
            folder_or_hub_id, cache_dir=cache_dir, revision=revision, local_files_only=local_files_only
        )
        if model_folder.is_work_directory(source):
            from muq_jax.convert.workdir import read_mel_rvq  # late: Orbax takes as long to import as JAX

            return cls(*read_mel_rvq(source))
        data, tensors = model_folder.read(source, "mel_rvq", "muq")
        is_muq = model_folder.model_type(data) == "muq"
        with mistakes_in(source):
            config = from_upstream_json(data).mel_rvq if is_muq else mel_rvq_from_json(data)
        rvq = cls(config, mel_rvq_names.from_torch_names(tensors, config, str(source)))
        if is_muq and mel_rvq_names.looks_untrained(rvq.variables):
            message = f"the Mel-RVQ in {source} looks untrained: its codes mean nothing. {_ITERATIVE}"
            warnings.warn(message, stacklevel=2)
        rvq._licence = licence.shown(source)
        return rvq

    def encode(self, wavs: Any, *, sampling_rate: int, num_samples: Any = None) -> np.ndarray:
        """Returns the codes of clips, int32 [B, T, Q]; -1 past a clip's own end, where T is the longest's.

        A token takes whole stacks of mel frames, so a clip's last samples may be in none.

        Args:
            wavs: a float array [B, S], or a list of 1-D float arrays, in -1 to 1.
            sampling_rate: of `wavs`, in Hz.
            num_samples: valid samples of each clip at that rate, [B]; None if all are.
        """
        clips = as_clips(wavs, num_samples, sampling_rate, self.sample_rate_hz)
        batch, lengths = pad_batch(clips, bucket(max(map(len, clips)), self.sample_rate_hz))
        num_valid = mel_rvq.num_tokens(lengths, self.config)
        codes = np.asarray(_encode(self.variables, batch, lengths, config=self.config))[:, : num_valid.max()]
        past = np.arange(codes.shape[1]) >= num_valid[:, None]
        return np.where(past[..., None], np.int32(-1), codes)

    def decode(self, codes: Any) -> np.ndarray:
        """Returns the log-mel in dB, float32 [B, 4T, F] (2T at 50 Hz), that codes [B, T, n] stand for.

        Codes of the first n of Q books give a coarser picture. Frames of a token of -1 are 0.

        Raises:
            UserError: codes of another shape, or that no book has.
        """
        codes = np.asarray(codes)
        books, entries = self.config.rvq.num_books, self.config.rvq.num_codes
        if codes.ndim != 3 or not 1 <= codes.shape[-1] <= books or not np.issubdtype(codes.dtype, np.integer):
            raise UserError(
                f"codes are {codes.dtype} {codes.shape}; expected integers [clips, tokens, 1 to {books}]."
            )
        if codes.size and not -1 <= codes.min() <= codes.max() < entries:
            raise UserError(f"codes run from {codes.min()} to {codes.max()}; expected 0 to {entries - 1}.")
        known = np.maximum(codes, 0).astype(np.int32)
        mel_db = np.asarray(_decode(self.variables, known, config=self.config))
        past = np.repeat((codes < 0).any(-1), self.config.frames_per_token, axis=1)
        return np.where(past[..., None], np.float32(0), mel_db)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes a model folder with the names of upstream's `ResidualVectorQuantize`, whole or not at all.

        A licence that lay beside the file that this model came from goes along.

        Raises:
            UserError: `folder` holds something that is not a model, or the disk is full.
        """
        tensors = mel_rvq_names.to_torch_names(self.variables, self.config)
        described, digest = mel_rvq_to_json(self.config), rules.params_sha256(tensors)
        model_folder.write(folder, described, tensors, digest, self._licence)

    def push_to_hub(self, repo_id: str, *, private: bool = True, revision: str | None = None) -> str:
        """Uploads the model to the Hugging Face hub and returns its address; as `convert.hub.push`."""
        return hub.push(self, repo_id, private=private, revision=revision)


# Compiled functions are shared: another Mel-RVQ of the same configuration compiles nothing.
_encode = jax.jit(mel_rvq.encode, static_argnames="config")
_decode = jax.jit(mel_rvq.decode, static_argnames="config")
