"""Paths on this machine and in object stores (gs://bucket/folder), through the same few functions.

A local path is pathlib's. Another is one of `etils.epath`, which has the same methods and reaches gs:// by
gcsfs (the extra `gcs`), s3:// by s3fs. A store has no folder to rename and no file to append to; what it does
have is that a file is there whole or not at all.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from etils import epath

from muq_jax.audio.decode import AUDIO_EXTENSIONS
from muq_jax.errors import UserError

_STORES = ("gs://", "s3://")


class UnreachableError(Exception):
    """A file of an object store could not be had, for another reason than that it is not there."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether this names something in an object store, such as gs://bucket/music."""
    return "://" in os.fspath(path)


def as_path(name: str | os.PathLike[str]) -> Path:
    """Returns the path of a name, local or remote, without looking whether it is there.

    Raises:
        UserError: not a store that is known.
    """
    if not is_remote(name):
        return Path(name)
    if not os.fspath(name).startswith(_STORES):
        known = " or ".join(_STORES)
        raise UserError(f"{name}: not a store that is known; expected {known}, or a local path")
    # epath's paths are not pathlib's by type; they have the methods that are used here.
    return cast(Path, epath.Path(name))


def join(folder: Path, name: str) -> Path:
    """Returns `folder / name`, or `name` itself if it is absolute or remote."""
    return as_path(name) if is_remote(name) else folder / name


def check_reachable(path: Path) -> None:
    """Raises UserError if a remote path's store does not answer; what is wrong is in its own words."""
    if not is_remote(path):
        return
    try:
        path.exists()
    except Exception as error:  # no package, no credentials, no bucket: each store has its own kinds
        raise UserError(
            f"{path}: this store cannot be reached ({type(error).__name__}: {error}); gs:// needs the "
            'extra `gcs` (`pip install "muq-jax[gcs]"`) and the credentials that gcloud uses'
        ) from error


def size_and_time(path: Path) -> tuple[int, int] | None:
    """Returns a file's size in bytes and the time it was written; None if there is none.

    Raises:
        UnreachableError: its store does not answer.
    """
    if not is_remote(path):
        return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
    try:
        stat: Any = path.stat()
    except FileNotFoundError:
        return None
    except Exception as error:  # each store has its own kinds
        raise UnreachableError(f"{path}: nothing is known of it ({type(error).__name__}: {error})") from error
    return stat.length, stat.mtime


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Gives a local path with the same bytes: itself, or of a remote file a copy that lasts for the `with`.

    Raises:
        FileNotFoundError: the remote file is not there.
        UnreachableError: it cannot be had.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="muq_jax-") as folder:
        copy = Path(folder, path.name)
        _copy(path, copy)
        yield copy


def remote_audio_files(folder: Path) -> list[str]:
    """Returns what `audio_files` returns of a local folder: relative paths, sorted, none hidden.

    Raises:
        UserError: no audio file there.
    """
    # Some stores walk with, some without their scheme and a slash before the bucket.
    base = str(folder).partition("://")[2].strip("/")
    found = []
    for parent, _, files in epath.Path(folder).walk():
        inside = str(parent).rpartition("://")[2].strip("/").removeprefix(base).strip("/")
        names = [f"{inside}/{name}".lstrip("/") for name in files]
        found += [name for name in names if _is_shown_audio(name)]
    if not found:
        kinds = " ".join(sorted(AUDIO_EXTENSIONS))
        raise UserError(f"{folder}: no audio file in this folder or below; looked for {kinds}")
    return sorted(found)


def _is_shown_audio(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and Path(name).suffix.lower() in AUDIO_EXTENSIONS


def work_folder(out: Path) -> Path:
    """Returns the local folder in which `out` is made: beside it, or for a remote one below TMPDIR."""
    beside = out.with_name(out.name + ".partial")
    if not is_remote(out):
        return beside
    return Path(tempfile.gettempdir(), "muq_jax-prepare", str(beside).replace("://", "/"))


def publish(folder: Path, out: Path, *, last: str, without: str) -> None:
    """Makes a local folder of files, one of them left out, appear as `out`, which is new or empty.

    A local one is renamed to, all at once. To a store its files are copied, `last` after all others: who
    finds that file finds them all.
    """
    if not is_remote(out):
        os.replace(folder, out)
        (out / without).unlink(missing_ok=True)
        return
    put_files(folder, out, last=last, without=without)
    shutil.rmtree(folder)


def put_files(folder: Path, out: Path, *, last: str, without: str = "") -> None:
    """Puts a local folder's files, but one, into one on the same disk or a remote one; `last` at last."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.name == last, path.name)):
        if path.name == without:
            continue
        if is_remote(out):
            _copy(path, out / path.name)
        else:
            os.replace(path, out / path.name)


def _copy(path: Path, to: Path) -> None:
    try:
        with path.open("rb") as source, to.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    except BaseException as error:
        # What a store's file holds when it is closed is there, also where an error or Ctrl-C closed it.
        with contextlib.suppress(Exception):
            to.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError) or not isinstance(error, Exception):
            raise
        # Each store has its own kinds.
        raise UnreachableError(
            f"{path}: cannot be copied to {to} ({type(error).__name__}: {error})"
        ) from error
