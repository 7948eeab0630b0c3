"""Proves a port: every tensor comes back, texts differ, and hidden states are the original's."""

import dataclasses
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.convert.rules import Table, Tensors, Tree
from muq_jax.errors import UserError
from muq_jax.models.mulan import AudioTower, MuLanConfig, TextTower
from muq_jax.models.muq import MuQModel, MuQOutput

LAYER_BOUND = 1e-4
"""How far a hidden state may be from the original's, over the RMS of its layer, in float32."""

SAME_TEXT = 0.999
"""A cosine from which on two texts count as having one vector."""

LATENT_BOUND = 2e-5
"""How far a unit vector may be from the original's."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far something that we compute is from what the original computed.

    Attributes:
        what: what was compared.
        largest: the largest difference, over the RMS where it is a hidden state.
        bound: what it may be.
    """

    what: str
    largest: float
    bound: float

    @property
    def within(self) -> bool:
        return self.largest <= self.bound  # False for NaN


def round_trip(used: Tensors, table: Table) -> list[str]:
    """Returns the names of tensors that are not the same after the way to our layout and back."""
    changed = []
    for rule in table.rules:
        there = [np.asarray(used[name], np.float32) for name in rule.names()]
        back = rule.to_torch(rule.to_ours(there))
        changed += [n for n, a, b in zip(rule.names(), there, back, strict=True) if not np.array_equal(a, b)]
    return changed


def nearest_texts(config: MuLanConfig, variables: Tree) -> float:
    """Returns the largest cosine between vectors of different texts; near 1 the text tower is dead.

    A published port of another model once gave every prompt nearly the same vector. The texts are drawn token
    ids, so that no tokenizer is needed.
    """
    size, longest = config.roberta.vocab_size, min(8, config.roberta.max_tokens)
    ids = np.random.default_rng(0).integers(config.roberta.pad_id + 1, size, (6, longest))
    vectors = np.asarray(TextTower(config).apply({"params": variables["params"]["text"]}, jnp.asarray(ids)))
    return float((vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)].max())


def against(recorded: str | os.PathLike[str], kind: str, config: Any, variables: Tree) -> list[Difference]:
    """Compares a MuQ or MuQ-MuLan with what `experiments/record_activations.py` recorded of the original.

    Raises:
        UserError: the file cannot be read, holds another kind of model's activations, or none.
    """
    arrays = _read(Path(recorded))
    comparisons = {"muq": _muq_differences, "musicfm": _muq_differences, "mulan": _mulan_differences}
    if kind not in comparisons:
        raise UserError(f"a {kind} has no activations to be compared.")
    if str(arrays.get("model_type")) != kind:
        raise UserError(
            f"{recorded} holds activations of {arrays.get('model_type')}, the model is a {kind}; record them "
            "with experiments/record_activations.py."
        )
    try:
        found = list(comparisons[kind](arrays, config, variables))
    except KeyError as error:
        raise UserError(f"{recorded} is incomplete: it lacks {error}; record it again.") from None
    if not found:
        raise UserError(f"{recorded} holds nothing to be compared; record it again.")
    return found


def _muq_differences(arrays: Mapping[str, np.ndarray], config: Any, variables: Tree) -> Iterator[Difference]:
    model = MuQModel(config)

    @jax.jit
    def hear(wave: Any) -> Any:
        return cast(MuQOutput, model.apply(variables, wave)).hidden_states

    for name in _named(arrays, "wave_"):
        found = np.asarray(hear(arrays[f"wave_{name}"][None])[:, 0])
        wanted = arrays[f"hidden_{name}"]
        if found.shape != wanted.shape:
            raise UserError(f"recorded {name}: hidden states {wanted.shape}, ours {found.shape}.")
        rms = np.sqrt(np.mean(np.square(wanted), axis=(1, 2)))
        for layer, largest in enumerate(np.abs(found - wanted).max(axis=(1, 2)) / rms):
            yield Difference(f"{name}, layer {layer}", float(largest), LAYER_BOUND)


def _mulan_differences(
    arrays: Mapping[str, np.ndarray], config: Any, variables: Tree
) -> Iterator[Difference]:
    audio, text = AudioTower(config), TextTower(config)
    params = variables["params"]
    tower = {"params": params["audio"], "batch_stats": variables["batch_stats"]["audio"]}
    for name in _named(arrays, "wave_"):
        found = audio.apply(tower, jnp.asarray(arrays[f"wave_{name}"][None]))
        largest = float(np.abs(np.asarray(found)[0] - arrays[f"audio_{name}"]).max())
        yield Difference(f"{name}, audio", largest, LATENT_BOUND)
    for name in _named(arrays, "ids_"):
        found = text.apply({"params": params["text"]}, jnp.asarray(arrays[f"ids_{name}"][None]))
        largest = float(np.abs(np.asarray(found)[0] - arrays[f"text_{name}"]).max())
        yield Difference(f"{name}, text", largest, LATENT_BOUND)


def _named(arrays: Mapping[str, np.ndarray], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("one array without a name")
            return dict(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a whole .npz file ({error}).") from None
