"""Proves a port: every tensor comes back, texts differ, and hidden states are the original's."""

import dataclasses
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.convert.rules import Table, Tensors, Tree
from muq_jax.errors import UserError
from muq_jax.models.mulan import AudioTower, MuLanConfig, TextTower
from muq_jax.models.muq import MuQModel, MuQOutput
from muq_jax.text.tokenizer import pad_ids


class Size(NamedTuple):
    """How large a difference is, or may be.

    Attributes:
        rms: the root of its mean square.
        largest: its largest value.
    """

    rms: float
    largest: float

    def __str__(self) -> str:
        return f"RMS {self.rms:.1e}, largest {self.largest:.1e}"


LAYER_BOUND = Size(1e-4, 1e-3)
"""How far a hidden state may be from the original's, over the RMS of its layer, in float32.

A wrong port is wrong nearly everywhere, and its RMS shows it. Single values may be further off in a right
one: in the quiet bins of a tone the original's own float32 mel is rounding, and a small network passes that
on.
"""

LATENT_BOUND = Size(2e-5, 2e-5)
"""How far a unit vector may be from the original's."""

SAME_TEXT = 0.999
"""A cosine from which on two texts count as having one vector."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far something that we compute is from what the original computed.

    Attributes:
        what: what was compared.
        size: of the difference, over the RMS where it is a hidden state.
        bound: what it may be.
    """

    what: str
    size: Size
    bound: Size

    @property
    def within(self) -> bool:
        return self.size.rms <= self.bound.rms and self.size.largest <= self.bound.largest  # False for NaN


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

    A text of a MuQ-MuLan is compared alone and, as "text in a batch", padded to the longest one that was
    recorded and averaged over its padding, as upstream reads a list.

    Raises:
        UserError: the file cannot be read, holds another kind of model's activations, or none.
    """
    arrays = _read(Path(recorded))
    comparisons = {"muq": _muq_differences, "mulan": _mulan_differences}
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

    @jax.jit  # of the variables, too: captured, they would be a constant of every length's program
    def hear(variables: Tree, wave: Any) -> Any:
        return cast(MuQOutput, model.apply(variables, wave)).hidden_states

    for name in _named(arrays, "wave_"):
        found = np.asarray(hear(variables, arrays[f"wave_{name}"][None])[:, 0])
        yield from _of_layers(f"{name}, layer", found, arrays[f"hidden_{name}"])


def _mulan_differences(
    arrays: Mapping[str, np.ndarray], config: MuLanConfig, variables: Tree
) -> Iterator[Difference]:
    audio, text, params = AudioTower(config), TextTower(config), variables["params"]
    encoder = {"params": params["audio"]["muq"], "batch_stats": variables["batch_stats"]["audio"]["muq"]}
    yield from _muq_differences(arrays, config.muq, encoder)
    tower = {"params": params["audio"], "batch_stats": variables["batch_stats"]["audio"]}

    def read(ids: np.ndarray, over_padding: bool = False) -> tuple[np.ndarray, Any]:
        variables = {"params": params["text"]}
        vectors, seen = text.apply(
            variables, jnp.asarray(ids), over_padding=over_padding, mutable="intermediates"
        )
        return np.asarray(vectors), seen["intermediates"]

    for name in _named(arrays, "wave_"):
        wave = jnp.asarray(arrays[f"wave_{name}"][None])
        vectors, seen = audio.apply(tower, wave, mutable="intermediates")
        yield from _of_layers(
            f"{name}, transformer layer", _above(seen.get("intermediates", {})), arrays[f"above_{name}"]
        )
        vector = np.asarray(vectors)[0]
        yield Difference(f"{name}, audio", _size(vector - arrays[f"audio_{name}"]), LATENT_BOUND)
    if names := _named(arrays, "ids_"):
        texts = [arrays[f"ids_{name}"] for name in names]
        batch = pad_ids(texts, config.roberta.pad_id, max(map(len, texts)))
        for name, ids, batched in zip(names, texts, read(batch, over_padding=True)[0], strict=True):
            vector, seen = read(ids[None])
            embedded, layers = seen["roberta"]["embedded"][0], seen["roberta"]["layers"]["hidden"][0]
            encoded = np.concatenate([np.asarray(embedded)[None], np.asarray(layers)])[:, 0]
            yield from _of_layers(f"{name}, XLM-RoBERTa layer", encoded, arrays[f"roberta_{name}"])
            yield from _of_layers(f"{name}, transformer layer", _above(seen), arrays[f"above_{name}"])
            alone = _size(vector[0] - arrays[f"text_{name}"])
            yield Difference(f"{name}, text", alone, LATENT_BOUND)
            shared = _size(batched - arrays[f"batched_{name}"])
            yield Difference(f"{name}, text in a batch", shared, LATENT_BOUND)


def _above(seen: Any) -> np.ndarray:
    """What the layers of a tower's own transformer return [L, T, D]; a released audio tower has none."""
    if "transformer" not in seen:
        return np.zeros(0, np.float32)
    return np.asarray(seen["transformer"]["layers"]["hidden"][0])[:, 0]


def _of_layers(what: str, ours: np.ndarray, original: np.ndarray) -> Iterator[Difference]:
    if ours.shape != original.shape:
        raise UserError(
            f"recorded {what}s: hidden states {original.shape}, ours {ours.shape}; record them again."
        )
    for number, (found, wanted) in enumerate(zip(ours, original, strict=True)):
        yield Difference(f"{what} {number}", _size((found - wanted) / _size(wanted).rms), LAYER_BOUND)


def _size(difference: np.ndarray) -> Size:
    return Size(float(np.sqrt(np.mean(np.square(difference)))), float(np.abs(difference).max()))


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
