"""Tracks as vectors of a MuQ-MuLan: each heard whole, once, and kept for other prompts and tasks."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.errors import UserError
from muq_jax.inference.embed import Failed, Heard, embed_files
from muq_jax.inference.hearers import MuLanHearer
from muq_jax.inference.load import space_of
from muq_jax.inference.mulan import MuQMuLan
from muq_jax.inference.store import load_vectors
from muq_jax.inference.store_writer import StoreWriter
from muq_jax.probe.encoders import MuLanEncoder
from muq_jax.probe.extract import load_wave, sound_key
from muq_jax.probe.task import Item


class Tracks(NamedTuple):
    """What could be heard.

    Attributes:
        items: in the order given.
        vectors: float32 [N, E], each the mean of its clips' unit vectors.
        failures: why others were not heard, by their ids.
    """

    items: list[Item]
    vectors: np.ndarray
    failures: dict[str, str]


def hear_tracks(encoder: MuLanEncoder, items: Sequence[Item], cache: Path) -> Tracks:
    """Returns the vectors of tracks; what the cache lacks is made, and stays there.

    Stopped at any moment, the same call goes on.

    Args:
        encoder: what hears them.
        items: of a dataset.
        cache: the folder of all caches; a store of its own in it is the model's.

    Raises:
        UserError: no track can be heard, another process fills the store, or the disk is full.
    """
    folder = cache / f"mulan-{encoder.digest[:16]}"
    failures: dict[str, str] = {}
    keys = [sound_key(item, failures) for item in items]
    with StoreWriter(folder, space_of(encoder.mulan)) as store:
        todo = {
            key: item for key, item in zip(keys, items, strict=True) if key and not store.fingerprint(key)
        }
        heard = _hear(encoder.mulan, todo)
        for found in tqdm(heard, f"hear {encoder.name}", len(todo), unit="track", disable=None):
            if isinstance(found, Failed):
                failures |= {
                    item.id: found.reason for key, item in zip(keys, items, strict=True) if key == found.name
                }
            else:
                store.add(found.name, found.name, found.seconds, found.vectors)
        if todo or not store.is_finished:
            store.finish()
    kept = [(item, key) for item, key in zip(items, keys, strict=True) if item.id not in failures]
    if not kept:
        first = next(iter(failures.values()), "there is none")
        raise UserError(f"no track could be heard; the first: {first}")
    stored = load_vectors(folder)
    row = {id: n for n, id in enumerate(stored.ids)}
    vectors = stored.matrix[[row[str(key)] for _, key in kept]]
    return Tracks([item for item, _ in kept], vectors, failures)


def _hear(mulan: MuQMuLan, todo: Mapping[str, Item]) -> Iterator[Heard | Failed]:
    """Hears files as streams; stretches, and sounds that are no files, one at a time."""
    whole = {
        key: item.audio
        for key, item in todo.items()
        if isinstance(item.audio, Path) and not item.start_seconds and item.end_seconds is None
    }
    if whole:
        yield from embed_files(MuLanHearer(mulan), list(whole.items()))
    for key, item in todo.items():
        if key not in whole:
            try:
                wave = load_wave(item)
                vectors = mulan.extract_audio_latents([wave], sampling_rate=SAMPLE_RATE_HZ)
                if not np.isfinite(vectors).all():
                    raise UserError(f"{item.id}: its vector is not finite")
            except (UserError, OSError) as error:
                yield Failed(key, str(error))
            else:
                yield Heard(key, vectors, None, len(wave) / SAMPLE_RATE_HZ)
