"""From audio files to shards that training reads: decoded once, resampled and checked.

OUT holds

    shard-00000.array_record ...   pieces of at most a minute, mono at 24 kHz (see shards.py)
    manifest.jsonl stats.json      what is in them, what was left out and why, and the digests of all files
    rejects.jsonl SHA256SUMS       (see contents.py)

or, of n runs with a part of the clips each, such a folder a run, and the lists of all (see slices.py). It is
there whole or not at all: a folder without `manifest.jsonl` is not finished.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from muq_jax.data.contents import REJECTS, SUMS, Contents, is_whole, read_lists
from muq_jax.data.convert import Settings, check_settings
from muq_jax.data.corpus import make_corpus
from muq_jax.data.manifest import Clip, read_manifest, scan_folder, write_manifest
from muq_jax.data.paths import UnreachableError, as_path, check_reachable, is_remote
from muq_jax.data.shards import SHARD_SUFFIX
from muq_jax.data.slices import Slice, join_slices, make_slice, missing_slices
from muq_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Reject:
    """A clip that was left out, and why."""

    id: str
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What is in a folder.

    Attributes:
        out: the folder: what was asked for, or its slice while others are missing.
        rejects: what was left out.
        already: True if an earlier run made it and this one changed nothing.
        missing: the slices that are not finished yet.
    """

    out: Path
    num_clips: int
    num_pieces: int
    hours: float
    rejects: list[Reject]
    already: bool = False
    missing: tuple[Slice, ...] = ()


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    settings: Settings | None = None,
    max_rejects: float = 0.5,
    num_processes: int = 1,
    part: Slice | None = None,
    join: bool = True,
) -> Report:
    """Prepares a folder of audio, or the files of a manifest, for training.

    The bytes written do not depend on the number of processes, nor on whether a run was stopped and went on.

    Args:
        source: a folder, or a manifest (JSON Lines); local or remote (gs://...), as the files in it.
        out: the folder to make, local or remote. If an earlier run with this source and these settings made
            it, nothing is done.
        settings: what to write.
        max_rejects: the largest share of rejected clips, from 0 to 1, that is still a success; of all of
            them, also where there are parts.
        num_processes: how many decode. More than one needs the `if __name__ == "__main__"` guard in a script.
        part: only this part of the clips; the run that finds all of them finished joins them.
        join: False leaves joining to another call.

    Raises:
        UserError: no audio there; `out` holds something else or cannot be renamed to; too many rejects; the
            disk is full; a store does not answer.
    """
    settings = settings or Settings()
    check_settings(settings)
    if not 0 <= max_rejects <= 1:
        raise UserError(f"max_rejects is {max_rejects}; expected a share, from 0 to 1")
    # A link, or a dot, is not a name that the finished folder could be renamed to.
    source, out = _resolved(source), _resolved(out)
    check_reachable(source)
    check_reachable(out)
    made_from = {"source": str(source), **dataclasses.asdict(settings)}
    if is_whole(out):
        return _report(out, made_from, already=True)

    rejects_left = out.with_name(f"{out.name}.{REJECTS}")
    accept = _acceptor(max_rejects, rejects_left)
    how: dict[str, Any] = {"made_from": made_from, "settings": settings, "num_processes": num_processes}
    with _told_as_mistakes(out):
        rejects_left.unlink(missing_ok=True)
        if part is None:
            _check_free(out)
            make_corpus(list_clips(source), out, accept=accept, **how)
            return _report(out, made_from)
        folder = out / part.folder_name
        already = is_whole(folder)
        if not already:
            make_slice(list_clips(source), out, part, **how)
        missing = missing_slices(out, part.of)
        if missing or not join:
            return dataclasses.replace(_report(folder, made_from, already=already), missing=tuple(missing))
        join_slices(out, part.of, made_from=made_from, accept=accept)
        return _report(out, made_from)


def list_clips(source: Path) -> list[Clip]:
    """Returns the clips of a manifest, or of a folder."""
    is_file = source.exists() and not source.is_dir()
    return read_manifest(source) if is_file else scan_folder(source)


@contextlib.contextmanager
def _told_as_mistakes(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror or error}); mend that and run the same command again"
        ) from error
    except UnreachableError as error:
        raise UserError(f"{error}; mend that and run the same command again") from error


def _resolved(name: str | os.PathLike[str]) -> Path:
    path = as_path(name)
    return path if is_remote(path) else path.resolve()


def _check_free(out: Path) -> None:
    """Raises UserError if `out` cannot be made: it holds something, or no folder can be renamed to it."""
    # A store may hold what a stopped run has copied so far.
    ours = (SHARD_SUFFIX, ".json", ".jsonl") if is_remote(out) else ()
    if out.exists() and not (
        out.is_dir() and all(path.suffix in ours or path.name == SUMS for path in out.iterdir())
    ):
        raise UserError(f"{out}: already there and not made by `prepare`; give a new or empty folder")
    if not is_remote(out) and os.path.ismount(out):
        raise UserError(f"{out}: a mount point, which no folder can be renamed to; give a folder inside it")


def _acceptor(max_rejects: float, rejects_left: Path) -> Callable[[Contents], None]:
    """Returns a function that raises UserError, and leaves their list, if too many clips are rejected."""

    def accept(contents: Contents) -> None:
        num_rejects, num_clips = len(contents.rejects), contents.num_clips
        if num_rejects <= max_rejects * num_clips and contents.rows:
            return
        write_manifest(rejects_left, contents.rejects)
        few = "; ".join(f"{reject['path']}: {reject['reason']}" for reject in contents.rejects[:3])
        share = (
            f"more than the share of {max_rejects:g} that is allowed"
            if contents.rows
            else "none could be used"
        )
        raise UserError(
            f"{num_rejects} of {num_clips} clips were rejected, {share}; listed in {rejects_left}. "
            f"First: {few}"
        )

    return accept


def _report(folder: Path, made_from: dict[str, Any], *, already: bool = False) -> Report:
    """Returns what is in a finished folder, which must be made from this."""
    contents, stats = read_lists(folder)
    earlier = stats.get("made_from", {})
    for name in made_from:
        if earlier.get(name) != made_from[name]:
            raise UserError(
                f"{folder}: already prepared with {name} {earlier.get(name)!r}, asked for is "
                f"{made_from[name]!r}; give another OUT, or remove this one"
            )
    rejects = [Reject(**reject) for reject in contents.rejects]
    return Report(folder, **contents.totals(), rejects=rejects, already=already)
