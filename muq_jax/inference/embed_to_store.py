"""From audio to a store: what the command `embed` does."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from muq_jax.errors import UserError
from muq_jax.inference.embed import Failed, check_counts, embed_files
from muq_jax.inference.load import Name, load_model, make_hearer, named_files, space_of
from muq_jax.inference.mulan import MuQMuLan
from muq_jax.inference.pretrained import MuQ
from muq_jax.inference.store import Failure
from muq_jax.inference.store_writer import StoreWriter

_BLOCK = 4096  # bytes

_NEW, _KNOWN, _OTHER = "new", "known", "another file of its name"


@dataclass(frozen=True)
class Summary:
    """What `embed_to_store` has done.

    Attributes:
        store: the folder.
        embedded: how many files are in the store.
        new: how many files this call dealt with.
        failures: those of the files given that could not be decoded or embedded.
        others: names of files that are not those of which the store has vectors: changed since, or others of
            the same name. They were left alone.
    """

    store: Path
    embedded: int
    new: int
    failures: list[Failure]
    others: list[str]


def embed_to_store(
    model: Name | MuQ | MuQMuLan,
    audio: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    layers: str | int | Sequence[int] = "last",
    window_seconds: float | None = None,
    pool: str = "mean",
    frames: bool = False,
    batch_size: int | None = None,
    workers: int = 2,
    shard: tuple[int, int] = (0, 1),
    retry: bool = False,
) -> Summary:
    """Puts the vectors of files into a store; files that are in it are left alone.

    Stopped or killed at any moment, the same call goes on, and ends with the store that it would have made.

    Args:
        model: a model folder, a work directory or an id on the hub, or a model that is loaded.
        audio: files and folders.
        out: the store; with `shard`, of this shard alone.
        layers, window_seconds, pool: of `space_of`.
        frames: also write every token's vector, `frames/ID.npz` with an array a layer and `times_seconds`.
        batch_size, workers: of `embed_files`.
        shard: (i, n): only every n-th file, from the i-th.
        retry: also files that failed before, and files that have changed.

    Raises:
        UserError: no model, no audio, a store of another space or in use, or a full disk.
    """
    index, count = shard
    if not 0 <= index < count:
        raise UserError(f"shard {index}/{count} does not exist; the first is 0/{count}")
    check_counts(batch_size, workers)
    files = named_files(audio)[index::count]
    loaded = load_model(model)
    rate = None if isinstance(loaded, MuQMuLan) else loaded.frame_rate_hz
    if frames and rate is None:
        raise UserError("a MuQ-MuLan has no frames; it gives one vector a clip.")
    space = space_of(loaded, layers, window_seconds, pool)
    with StoreWriter(Path(out), space) as store:
        prints = {name: fingerprint(path) for name, path in files}
        state = {name: _state(store, name, prints[name], retry, frames) for name, _ in files}
        todo = [(name, path) for name, path in files if state[name] == _NEW]
        options: dict[str, Any] = dict(batch_size=batch_size, pool=pool, frames=frames, workers=workers)
        found = embed_files(make_hearer(loaded, space), todo, **options)
        for result in tqdm(
            found, "embed", len(files), initial=len(files) - len(todo), unit="file", disable=None
        ):
            if isinstance(result, Failed):
                store.add_failure(Failure(result.name, prints[result.name], result.reason))
                continue
            if result.frames is not None and rate is not None:
                arrays = {f"layer_{n}": states for n, states in zip(space.layers, result.frames, strict=True)}
                times = np.arange(result.frames.shape[1]) / rate
                store.write_frames(result.name, arrays | {"times_seconds": times})
            store.add(result.name, prints[result.name], result.seconds, result.vectors)
        if not store.is_finished or todo:
            store.finish()
        failures = [store.failures[name] for name, _ in files if name in store.failures]
        others = [name for name, _ in files if state[name] == _OTHER]
        return Summary(Path(out), store.num_files, len(todo), failures, others)


def fingerprint(path: Path) -> str:
    """Returns what tells a file from another of its name: its size, and a checksum of three blocks of it."""
    try:
        size = path.stat().st_size
        check = 0
        with path.open("rb") as file:
            for start in (0, size // 2, max(0, size - _BLOCK)):
                file.seek(start)
                check = zlib.crc32(file.read(_BLOCK), check)
    except OSError:
        return "unreadable"  # decoding it says why
    return f"{size}-{check:08x}"


def _state(store: StoreWriter, name: str, found: str, retry: bool, frames: bool) -> str:
    """Whether a file is to be embedded, is in the store, or is another one than the store has of its name."""
    failure, known = store.failures.get(name), store.fingerprint(name)
    if failure is not None:
        return _NEW if retry or failure.fingerprint != found else _KNOWN
    if known is None:
        return _NEW
    if known != found:
        return _NEW if retry else _OTHER
    return _NEW if frames and not store.has_frames(name) else _KNOWN
