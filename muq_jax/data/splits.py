"""Which splits a source has, so that a folder without any trains on all of it."""

import os

from muq_jax.data.manifest import read_manifest, scan_folder
from muq_jax.data.mixture import parse_mixture
from muq_jax.data.mtg_jamendo import LISTS, PREFIX
from muq_jax.data.paths import as_path
from muq_jax.data.shards import is_shards
from muq_jax.data.toy_music import SPLITS


def split_names(spec: str | os.PathLike[str]) -> frozenset[str]:
    """Returns the names of the splits of what `make_source` takes by name.

    Empty where its clips are not split, and for tfds, whose split is part of the name (`tfds:NAME:SPLIT`,
    else "train"). A mixture has those that any of its corpora has.

    Raises:
        UserError: a manifest that cannot be read.
    """
    name = os.fspath(spec)
    if mixture := parse_mixture(name):
        return frozenset().union(*(split_names(corpus) for corpus, _ in mixture))
    if name.partition(":")[0] == "toy_music":
        return frozenset(SPLITS)
    if name.startswith(PREFIX):
        return frozenset(LISTS)
    path = as_path(name)
    if path.is_dir():
        clips = read_manifest(path / "manifest.jsonl") if is_shards(path) else scan_folder(path)
    else:
        clips = read_manifest(path) if path.exists() else []
    return frozenset(clip.split for clip in clips if clip.split is not None)
