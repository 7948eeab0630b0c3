"""The nearest files of a store, by example or by text: exact, by cosine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.errors import UserError
from muq_jax.inference.embed import Failed, embed_files
from muq_jax.inference.load import Name, load_model, make_hearer, space_of
from muq_jax.inference.mulan import MuQMuLan
from muq_jax.inference.pretrained import MuQ
from muq_jax.inference.store import Space, Vectors, check_same_weights, load_vectors

# Rows compared at a time, so that a store of any size fits beside a model.
_BLOCK = 65_536


@dataclass(frozen=True)
class Match:
    """A file of a store, its cosine with the query, and the layer of the vector (0 where there are none)."""

    id: str
    score: float
    layer: int


def nearest(matrix: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k largest cosines of each query, [B, k], and their rows; equal ones in order of rows.

    Args:
        matrix: [N, D].
        queries: [B, D].
        k: at most N.
    """
    queries = _unit(queries)
    best = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(matrix), _BLOCK):
        block = _unit(matrix[start : start + _BLOCK])
        scores, rows = _top(jnp.asarray(block), jnp.asarray(queries), min(k, len(block)))
        joined = np.concatenate([best[0], np.asarray(scores)], axis=1)
        places = np.concatenate([best[1], np.asarray(rows) + start], axis=1)
        order = np.argsort(-joined, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(joined, order, 1), np.take_along_axis(places, order, 1)
    return best


def search(
    store: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    text: str | None = None,
    audio: str | os.PathLike[str] | None = None,
    model: Name | MuQ | MuQMuLan | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    layer: int | None = None,
    k: int = 10,
) -> list[Match]:
    """Returns the files of a store, or of several, that are nearest to a text or to a file, best first.

    Args:
        store: of `embed`; several of one space, such as the shards of a library, are searched as one.
        text: what is looked for; the store must be of a MuQ-MuLan.
        audio: an example. A file that is in the store is compared by its stored vector and left out.
        model: what made the store, by name or loaded; needed for a text and for a file that is not in it.
        tokenizer: of a MuQ-MuLan that has none beside it.
        layer: of a store with several; the last of them by default.
        k: how many.

    Raises:
        UserError: no such store, a model of another space, both or none of `text` and `audio`, or audio that
            cannot be heard.
    """
    if (text is None) == (audio is None):
        raise UserError("give either a text or an audio file to look for.")
    if text is not None and not text.strip():
        raise UserError("the text is empty; say what to look for.")
    if k < 1:
        raise UserError(f"k must be at least 1, found {k}")
    stores = [store] if isinstance(store, str | os.PathLike) else store
    found = _of_layer(load_vectors(*map(Path, stores)), layer)
    query, own = (
        (_text_vector(found.space, text, model, tokenizer), None)
        if text is not None
        else _audio_vector(found, str(audio), model)
    )
    scores, rows = nearest(found.matrix, query[None], min(k + (own is not None), len(found.ids)))
    matches = [
        Match(found.ids[row], float(score), int(found.layers[row]))
        for score, row in zip(scores[0], rows[0], strict=True)
        if row != own
    ]
    return matches[:k]


def _of_layer(found: Vectors, layer: int | None) -> Vectors:
    layers = found.space.layers
    if layer is None:
        layer = layers[-1] if layers else 0
    if layer not in (layers or (0,)):
        raise UserError(f"layer is {layer}; the store has {', '.join(map(str, layers)) or 'no layers'}.")
    rows = np.flatnonzero(found.layers == layer)
    ids = [found.ids[row] for row in rows]
    return Vectors(found.space, ids, found.layers[rows], found.ends[rows], found.matrix[rows])


def _text_vector(
    space: Space,
    text: str,
    model: Name | MuQ | MuQMuLan | None,
    tokenizer: str | os.PathLike[str] | None,
) -> np.ndarray:
    if space.model != "mulan":
        raise UserError(f"the store is of a {space.model}, which knows no text; embed with a MuQ-MuLan.")
    if model is None:
        raise UserError("a text needs the model that made the store: give it, too.")
    loaded = load_model(model, tokenizer)
    check_same_weights(space, space_of(loaded))
    assert isinstance(loaded, MuQMuLan)
    return loaded(texts=[text])[0]


def _audio_vector(
    found: Vectors, audio: str, model: Name | MuQ | MuQMuLan | None
) -> tuple[np.ndarray, int | None]:
    """The query, and its row where the file is in the store."""
    if audio in found.ids:
        row = found.ids.index(audio)
        return found.matrix[row], row
    if model is None:
        raise UserError(
            f"{audio} is not in the store, whose names are relative paths such as {found.ids[0]!r}; a file "
            "from elsewhere needs the model that made the store: give it, too."
        )
    space, loaded = found.space, load_model(model)
    check_same_weights(space, space_of(loaded))
    [heard] = embed_files(make_hearer(loaded, space), [(audio, Path(audio))], pool=space.pool)
    if isinstance(heard, Failed):
        raise UserError(heard.reason)
    place = space.layers.index(int(found.layers[0])) if space.layers else 0
    return heard.vectors[place], None


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnums=2)
def _top(block: jax.Array, queries: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    cosines = jnp.matmul(queries, block.T, precision="highest")
    scores, rows = jax.lax.top_k(cosines, k)
    return scores, rows
