"""A user's own texts: any manifest whose rows say in words what is heard.

A row's text is its `caption`; where there is none, its `tags`, with commas between.
"""

import os
from collections import Counter

from muq_jax.data.manifest import read_manifest, select_split
from muq_jax.data.paths import is_remote
from muq_jax.data.texts import text_of
from muq_jax.errors import UserError
from muq_jax.probe.task import Dataset, Item
from muq_jax.text.sentences import Sentences, Text

TEST = "test"


def read_captions(manifest: str | os.PathLike[str], split: str | None = None) -> Dataset:
    """Returns the tracks of a split of which something is said, and the different texts as their classes.

    Args:
        manifest: JSON Lines as `data.manifest` reads.
        split: None is `test`, or every track where the rows have no split.

    Raises:
        UserError: no such manifest or split, a caption or tags that are no texts, recordings in an object
            store, or fewer than two different texts.
    """
    clips = read_manifest(manifest)
    if split is None and any(clip.split is not None for clip in clips):
        split = TEST
    items = []
    left_out: Counter[str] = Counter()
    for clip in select_split(clips, split, str(manifest)):
        if clip.labels.get("caption") is None and not clip.labels.get("tags"):
            left_out["no text"] += 1
        elif is_remote(clip.path):
            raise UserError(
                f"{manifest}: clip {clip.id!r} is {clip.path}, in an object store; probes read local files. "
                "Copy the recordings here, and give their paths relative to the manifest"
            )
        else:
            text = text_of(clip.labels, f"{manifest}: clip {clip.id!r}")
            items.append(Item(clip.id, split or "all", text, clip.path))
    texts = tuple(dict.fromkeys(words(item.label) for item in items))
    if len(texts) < 2:
        raise UserError(
            f"{manifest}: found {len(texts)} different text(s) for {len(items) + left_out.total()} tracks; "
            "retrieval needs at least two, as `caption`, or as a list of `tags`"
        )
    return Dataset(items, texts, left_out)


def words(text: Text) -> str:
    """Returns what a model reads of a text."""
    return Sentences().read(text)
