"""A user's own texts: any manifest whose rows say in words what is heard.

A row's text is its `caption`; where there is none, its `tags` in alphabetical order, with commas between.
Rows with one `path` are one track, of which several things are said.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from muq_jax.data.manifest import read_manifest
from muq_jax.data.paths import is_remote
from muq_jax.data.texts import text_of
from muq_jax.errors import UserError
from muq_jax.probe.datasets.custom import SPLIT_NAMES, rows_where
from muq_jax.probe.task import SPLITS, Dataset, Item
from muq_jax.text.sentences import Sentences, Text

TEST = "test"
_NO_SPLIT = (
    "The rows have no `split`: these tracks may be among those that the model was trained on, and the scores "
    "then say little of others."
)


def read_captions(
    manifest: str | os.PathLike[str], split: str | None = None, where: Mapping[str, str] | None = None
) -> Dataset:
    """Returns the tracks of a split of which something is said, and the different texts as their classes.

    Args:
        manifest: JSON Lines as `data.manifest` reads.
        split: train, val or test; None is `test`, or every track where the rows have no split.
        where: only rows whose columns have these values.

    Returns:
        items whose label is a tuple of `Text`.

    Raises:
        UserError: no such manifest or split, a caption or tags that are no texts, recordings in an object
            store, or fewer than two different texts.
    """
    clips = rows_where(read_manifest(manifest), where or {}, str(manifest))
    whole = split is None and all(clip.split is None for clip in clips)
    split = "all" if whole else split or TEST
    for clip in clips:
        if clip.split is not None and clip.split not in SPLIT_NAMES:
            raise UserError(
                f"{manifest}: clip {clip.id!r} has split {clip.split!r}; expected {', '.join(SPLITS)}"
            )
    chosen = clips if whole else [clip for clip in clips if SPLIT_NAMES.get(str(clip.split)) == split]
    if not chosen:
        found = sorted({str(clip.split) for clip in clips if clip.split is not None})
        raise UserError(
            f"{manifest}: no row of split {split!r}; found {', '.join(found) or 'no splits at all'}, "
            f"expected {', '.join(SPLITS)}"
        )
    items: dict[Path, Item] = {}
    left_out: Counter[str] = Counter()
    if num_without := sum(clip.split is None for clip in clips if not whole):
        left_out["no split"] = num_without
    for clip in chosen:
        if clip.labels.get("caption") is None and not _has_tags(clip.labels.get("tags")):
            left_out["no text"] += 1
        elif is_remote(clip.path):
            raise UserError(
                f"{manifest}: clip {clip.id!r} is {clip.path}, in an object store; probes read local files. "
                "Copy the recordings here, and give their paths relative to the manifest"
            )
        else:
            text = text_of(clip.labels, f"{manifest}: clip {clip.id!r}")
            item = items.get(clip.path) or Item(clip.id, split, (), clip.path)
            items[clip.path] = dataclasses.replace(item, label=(*item.label, text))
    texts = tuple(dict.fromkeys(words(text) for item in items.values() for text in item.label))
    if len(texts) < 2:
        raise UserError(
            f"{manifest}: found {len(texts)} different text(s) in {len(chosen)} rows; retrieval needs at "
            "least two, as `caption`, or as a list of `tags`"
        )
    elsewhere = [
        clip.path for clip in clips if clip.path in items and SPLIT_NAMES.get(str(clip.split)) != split
    ]
    problems = (_NO_SPLIT,) if whole else in_other_splits(elsewhere, len(items))
    return Dataset(list(items.values()), texts, left_out, problems)


def in_other_splits(elsewhere: Iterable[Path], num_tracks: int) -> tuple[str, ...]:
    """Returns what is to be known of tracks that are in another split, too, perhaps nothing."""
    names = sorted({str(path) for path in elsewhere})
    if not names:
        return ()
    return (
        f"Of {num_tracks:,} tracks {len(names):,} are in another split, too, such as {names[0]}: a model "
        "that was trained on that split has heard them.",
    )


def _has_tags(tags: Any) -> bool:
    return any(tags.values()) if isinstance(tags, Mapping) else bool(tags)


def words(text: Text) -> str:
    """Returns what a model reads of a text."""
    return Sentences().read(text._replace(tags=tuple(sorted(text.tags, key=lambda tag: tag[1]))))
