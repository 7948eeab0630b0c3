"""From audio to a store: what the command `embed` does."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from muq_jax.errors import UserError
from muq_jax.inference.embed import Failed, embed_files
from muq_jax.inference.load import Name, load_model, make_hearer, named_files
from muq_jax.inference.mulan import MuQMuLan
from muq_jax.inference.pretrained import MuQ
from muq_jax.inference.store import Row, StoreWriter


@dataclass(frozen=True)
class Summary:
    """What `embed_to_store` has done.

    Attributes:
        store: the folder.
        heard, failed: how many files are in the store, and how many could not be heard.
        new: how many of them this call dealt with.
        failures: the files that could not be heard.
    """

    store: Path
    heard: int
    failed: int
    new: int
    failures: list[Row]


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
) -> Summary:
    """Puts the vectors of files into a store; files that are in it are left alone.

    Stopped or killed at any moment, the same call goes on, and ends with the store that it would have made.

    Args:
        model: a model folder, a work directory or an id on the hub, or a model that is loaded.
        audio: files and folders.
        out: the store; with `shard`, of this shard alone.
        layers, window_seconds, pool: of `make_hearer`.
        frames: also write every token's vector, `frames/ID.npz` with an array a layer and `times_seconds`.
        batch_size: windows heard at a time. None is 4, and on a CPU 1: there more are no faster, and thirty
            seconds in a MuQ-large take 0.8 GB.
        workers: files that are decoded at a time.
        shard: (i, n): only every n-th file, from the i-th.

    Raises:
        UserError: no model, no audio, a store of another space, or a full disk.
    """
    if batch_size is None:
        batch_size = 1 if jax.default_backend() == "cpu" else 4
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, found {value}")
    index, count = shard
    if not 0 <= index < count:
        raise UserError(f"shard {index}/{count} does not exist; the first is 0/{count}")
    files = named_files(audio)[index::count]
    loaded = load_model(model)
    rate = None if isinstance(loaded, MuQMuLan) else loaded.frame_rate_hz
    if frames and rate is None:
        raise UserError("a MuQ-MuLan has no frames; it gives one vector a clip.")
    hearer, space = make_hearer(loaded, layers, window_seconds, pool)
    store = StoreWriter(Path(out), space)
    todo = [(name, path) for name, path in files if name not in store.known]
    found = embed_files(hearer, todo, batch_size=batch_size, pool=pool, frames=frames, workers=workers)
    for result in tqdm(found, "embed", len(files), initial=len(files) - len(todo), unit="file", disable=None):
        if isinstance(result, Failed):
            store.add(Row(result.name, 0.0, None, result.reason))
            continue
        if result.frames is not None and rate is not None:
            arrays = {f"layer_{n}": states for n, states in zip(space.layers, result.frames, strict=True)}
            times = np.arange(result.frames.shape[1]) / rate
            store.write_frames(result.name, arrays | {"times_seconds": times})
        store.add(Row(result.name, result.seconds, result.vectors))
    if not store.is_finished or todo:
        store.finish()
    failures = store.failures
    return Summary(Path(out), len(store.known) - len(failures), len(failures), len(todo), failures)
