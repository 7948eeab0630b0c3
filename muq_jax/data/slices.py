"""n independent runs, each with every n-th clip, and how they become one corpus.

    python -m muq_jax prepare ~/music OUT --shard 0/16          on one machine
    python -m muq_jax prepare ~/music OUT --shard 1/16          on another ...

Run i makes OUT/slice-0000i-of-00016, a corpus of its own of the clips i, i + 16, i + 32 ... The run that
finds all of them there writes OUT's own lists, `manifest.jsonl` last. These are made of the slices' lists in
their order, so they are the same whichever run was the last, and whoever joins at the same moment. Where
files show late (NFS), two that end together may each miss the other: any run, repeated, joins.
"""

import dataclasses
import hashlib
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from muq_jax.data.contents import (
    MANIFEST,
    REJECTS,
    STATS,
    SUMS,
    Contents,
    is_whole,
    merge,
    read_lists,
    write_lists,
)
from muq_jax.data.convert import Settings
from muq_jax.data.corpus import make_corpus
from muq_jax.data.manifest import Clip
from muq_jax.data.paths import is_remote, put_files
from muq_jax.data.shards import SLICE_PREFIX
from muq_jax.errors import UserError

_IDS = "clip_ids_sha256"


@dataclasses.dataclass(frozen=True)
class Slice:
    """Every `of`-th clip, from number `index` on.

    Raises:
        UserError: not 0 <= index < of.
    """

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise UserError(
                f"shard {self}: there is no such part; those of {self.of} are 0/{self.of} to "
                f"{self.of - 1}/{self.of}"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @property
    def folder_name(self) -> str:
        return f"{SLICE_PREFIX}{self.index:05d}-of-{self.of:05d}"


def make_slice(
    clips: Sequence[Clip],
    out: Path,
    part: Slice,
    *,
    made_from: dict[str, Any],
    settings: Settings,
    num_processes: int,
) -> None:
    """Makes one slice of all clips in its folder below `out`; see `make_corpus`.

    Raises:
        UserError: there is something else than slices of this number in `out`.
    """
    _check_others(out, part)
    if not is_remote(out):
        out.mkdir(parents=True, exist_ok=True)
    ids = hashlib.sha256(ascii([clip.id for clip in clips]).encode()).hexdigest()
    make_corpus(
        clips[part.index :: part.of],
        out / part.folder_name,
        made_from={**made_from, "shard": str(part), _IDS: ids},
        settings=settings,
        num_processes=num_processes,
    )


def missing_slices(out: Path, of: int) -> list[Slice]:
    """Returns those that are not finished."""
    slices = [Slice(index, of) for index in range(of)]
    return [part for part in slices if not is_whole(out / part.folder_name)]


def join_slices(out: Path, of: int, *, made_from: dict[str, Any], accept: Callable[[Contents], None]) -> None:
    """Makes a corpus of `out`, where all slices are: writes its lists.

    Raises:
        UserError: the slices are not of the same clips and settings.
        Exception: whatever `accept` raises, called with what is in all of them.
    """
    parts, ids = [], None
    for part in (Slice(index, of) for index in range(of)):
        contents, stats = read_lists(out / part.folder_name)
        found = dict(stats["made_from"])
        found.pop("shard")
        found_ids = found.pop(_IDS)
        ids = ids or found_ids
        if found != made_from or found_ids != ids:
            what = "the settings" if found != made_from else "the clips"
            raise UserError(
                f"{out / part.folder_name}: {what} it was made from are not those of the other slices; "
                f"remove it and run `--shard {part}` again as the others were run"
            )
        parts.append(contents.in_folder(part.folder_name))
    whole = merge(parts)
    accept(whole)
    where = None if is_remote(out) else out
    with tempfile.TemporaryDirectory(prefix="joining-", dir=where) as folder:
        write_lists(whole, Path(folder), made_from)
        put_files(Path(folder), out, last=MANIFEST)


def _check_others(out: Path, part: Slice) -> None:
    # The lists are those of a join that was stopped.
    ours = re.compile(rf"{SLICE_PREFIX}\d+-of-{part.of:05d}(\.partial)?|joining-.*|{SUMS}|{STATS}|{REJECTS}")
    others = [path.name for path in out.iterdir() if not ours.fullmatch(path.name)] if out.exists() else []
    if others:
        raise UserError(
            f"{out}: holds {sorted(others)[0]}, which is no slice of {part.of}; give a new folder, or the "
            "number of parts that the other runs have"
        )
