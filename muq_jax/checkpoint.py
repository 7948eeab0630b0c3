"""Checkpoints of a run: saved while training goes on, whole or not at all. The only importer of Orbax.

A step is a folder `checkpoints/STEP` with the items `params`, `opt`, `model_state` and `meta`. Orbax writes
it under another name and renames it when it is complete; then `checksums.json`, the SHA-256 of every file in
it, is added. Only a folder whose files match its checksums is ever restored: Orbax does not notice every
flipped byte, and a disk that fills up can leave short files behind.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from muq_jax.errors import UserError, is_full_disk

FOLDER = "checkpoints"
CHECKSUMS = "checksums.json"
LOCK = ".lock"
ARRAY_ITEMS = ("params", "opt", "model_state")

_log = logging.getLogger(__name__)


class _Manager(ocp.CheckpointManager):
    """Orbax's, but for its asking at every save whether the hosts are to stop.

    That is asked by `train.stopping`, which counts how often: a question more, and with another number, and
    the hosts miss the call after which they had agreed to.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one run, for the run itself, which saves, restores and clears up."""

    def __init__(self, workdir: Path, *, keep: int = 2) -> None:
        """Opens `workdir/checkpoints` and clears it of what is not whole, until `close` for this run alone.

        A save that never finished is removed. A damaged checkpoint is renamed `damaged-STEP` if it is newer
        than every whole one, else removed.

        Args:
            workdir: the run's work directory.
            keep: newest checkpoints that stay, at least two: one is left when the newest turns out damaged.

        Raises:
            UserError: fewer than two are to be kept, or another process is training in `workdir`.
        """
        if keep < 2:
            raise UserError(f"train.keep_checkpoints={keep}: keep at least 2, in case the newest is damaged.")
        self._folder = Path(workdir).absolute() / FOLDER
        self._saving: int | None = None
        self._finishing: Future[None] | None = None
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            newest = None
            if jax.process_index() == 0:
                opened.enter_context(_alone_in(self._folder.parent))
                newest = _keep_whole(self._folder)
            if jax.process_count() > 1:
                # Also a barrier: no host opens the folder before the first one has cleared it.
                known = multihost_utils.broadcast_one_to_all(np.int32(-1 if newest is None else newest))
                newest = None if known < 0 else int(known)
            self._newest = newest
            self._manager = _Manager(
                self._folder,
                item_names=(*ARRAY_ITEMS, "meta"),
                options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
            )
            opened.callback(self._explain_full_disk, self._manager.close)
            self._background = opened.enter_context(ThreadPoolExecutor(max_workers=1))
            self._opened = opened.pop_all()

    @property
    def newest(self) -> int | None:
        """The newest step that was whole when the run was opened; None at its beginning."""
        return self._newest

    def save(self, step: int, items: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Copies the items off the devices and writes them in the background, once an earlier save is done.

        Args:
            step: the checkpoint's number.
            items: a tree of arrays for each of `ARRAY_ITEMS`.
            meta: what JSON can hold.

        Raises:
            UserError: the disk was full for this save or the one before.
        """
        self.wait()
        self._saving = step
        saves: dict[str, Any] = {name: ocp.args.StandardSave(items[name]) for name in _with_arrays(items)}
        saves["meta"] = ocp.args.JsonSave(dict(meta))
        self._explain_full_disk(
            lambda: self._manager.save(step, args=ocp.args.Composite(**saves), force=True)
        )
        self._finishing = self._background.submit(self._finish, step)

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
            UserError: the disk was full.
        """
        if self._finishing is not None:
            finishing, self._finishing = self._finishing, None
            self._explain_full_disk(finishing.result)

    def raise_if_failed(self) -> None:
        """Raises what `wait` would if the last save has failed already; costs nothing while it is written."""
        if self._finishing is not None and self._finishing.done():
            self.wait()

    def restore(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the array items of a checkpoint, placed as `abstract` says.

        Args:
            step: a checkpoint's number, such as `newest`.
            abstract: a tree of `jax.ShapeDtypeStruct` with shardings for each of `ARRAY_ITEMS`. Arrays of
                another type are cast.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: its arrays have other names or shapes.
        """
        restores = {name: ocp.args.StandardRestore(abstract[name]) for name in _with_arrays(abstract)}
        restored = self._manager.restore(step, args=ocp.args.Composite(**restores))
        return {name: restored[name] if name in restores else abstract[name] for name in ARRAY_ITEMS}

    def close(self) -> None:
        """Waits for what is being written and lets other processes in; the run is over.

        Raises:
            UserError: the disk was full.
        """
        with self._opened:
            self.wait()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            folder = self._folder / str(step)
            written = folder / f"{CHECKSUMS}.tmp"
            written.write_text(json.dumps(_checksums(folder), indent=1))
            os.replace(written, folder / CHECKSUMS)

    def _explain_full_disk(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            if not is_full_disk(error):
                raise
            for unfinished in self._folder.glob(f"{self._saving}.*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            free = shutil.disk_usage(self._folder).free
            older = newest_step(self._folder.parent)
            kept = (
                f"The checkpoint of step {older} is whole" if older is not None else "There is no older one"
            )
            raise UserError(
                f"{self._folder}: the checkpoint of step {self._saving} could not be written, the disk is "
                f"full ({free / 2**20:.0f} MiB free, or a quota is used up). {kept}. Make room and run "
                "the same command again."
            ) from error


def newest_step(workdir: str | os.PathLike[str]) -> int | None:
    """Returns the newest whole checkpoint of a work directory, or None; logs each newer one that is damaged.

    Every file of it is read once, to be compared with its checksum.
    """
    folder = Path(workdir) / FOLDER
    for step in sorted(_finished_steps(folder), reverse=True):
        bad = _damaged_files(folder / str(step))
        if not bad:
            return step
        _log.warning("%s; looking for an older one", _describe(folder / str(step), bad))
    return None


def has_checkpoint(workdir: str | os.PathLike[str]) -> bool:
    """Returns whether a work directory has a checkpoint that was finished; opens none."""
    return bool(_finished_steps(Path(workdir) / FOLDER))


def load_meta(workdir: str | os.PathLike[str], step: int) -> dict[str, Any]:
    """Returns what was saved as a checkpoint's `meta`."""
    return ocp.JsonCheckpointHandler().restore(_item_path(workdir, step, "meta"), args=ocp.args.JsonRestore())


def load_items(
    workdir: str | os.PathLike[str], step: int, names: Sequence[str] = ("params", "model_state")
) -> dict[str, Any]:
    """Returns items of a checkpoint as nested dicts of numpy arrays, whatever mesh they were saved from.

    Args:
        workdir: a run's work directory.
        step: of `newest_step`.
        names: items to read; the others are not touched. One that was saved without any array is an empty
            dict.
    """
    handler = ocp.PyTreeCheckpointHandler()
    items: dict[str, Any] = {}
    for name in names:
        path = _item_path(workdir, step, name)
        items[name] = {}
        if path.exists():
            # Onto no device: those of the saving run may be absent here, as is the CPU under
            # JAX_PLATFORMS=cuda.
            as_numpy = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree
            )
            items[name] = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return items


@contextmanager
def _alone_in(workdir: Path) -> Iterator[None]:
    """Keeps other processes from training in a work directory; the lock ends with the process in any case."""
    with (workdir / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process is training in {workdir}. Wait until it ends or stop it, or take another "
                "work directory."
            ) from None
        except OSError as error:
            _log.info("%s: this file system has no locks (%s); start one run at a time here", workdir, error)
        yield


def _item_path(workdir: str | os.PathLike[str], step: int, name: str) -> epath.Path:
    return epath.Path(Path(workdir).absolute() / FOLDER / str(step) / name)


def _with_arrays(items: Mapping[str, Any]) -> list[str]:
    """Orbax refuses to save an item without any array, such as the model state of a model that has none."""
    return [name for name in ARRAY_ITEMS if jax.tree.leaves(items[name])]


def _finished_steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(f.name) for f in folder.iterdir() if f.name.isdecimal() and (f / CHECKSUMS).exists()]


def _keep_whole(folder: Path) -> int | None:
    """Clears away what is not a whole checkpoint and returns the newest that is.

    Orbax would refuse to write a step whose folder exists. A whole checkpoint makes what is left of older
    ones worthless: most likely Orbax was clearing them away when the run was killed.
    """
    newest = None
    steps = [entry for entry in folder.iterdir() if entry.name.isdecimal()]
    for entry in sorted(steps, key=lambda entry: int(entry.name), reverse=True):
        finished = (entry / CHECKSUMS).exists()
        bad = _damaged_files(entry) if finished else []
        if finished and not bad:
            newest = int(entry.name) if newest is None else newest
        elif newest is not None:
            shutil.rmtree(entry)
        elif not finished:
            _log.warning("%s: this save never finished; removing it", entry)
            shutil.rmtree(entry)
        else:
            away = folder / f"damaged-{entry.name}"
            _log.warning("%s; it is kept as %s, looking for an older one", _describe(entry, bad), away.name)
            shutil.rmtree(away, ignore_errors=True)
            entry.rename(away)
    return newest


def _describe(checkpoint: Path, bad: list[str]) -> str:
    shown = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
    return f"checkpoint {checkpoint} is damaged: not what was saved are {shown}"


def _checksums(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(CHECKSUMS):
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _damaged_files(folder: Path) -> list[str]:
    """Returns the files that are missing, changed or too many."""
    try:
        expected = json.loads((folder / CHECKSUMS).read_text())
    except ValueError:
        return [CHECKSUMS]
    found = _checksums(folder)
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
