"""Makes a store, or adds to one, so that a kill at any moment costs nothing.

What is embedded goes into a journal, a record a file; `finish` makes the tables from it and from those that
are there. They are replaced from the last to the first. Files are only ever added, so a row stays in its
table or moves into a later one: at every moment it is in an old table or in a new one.
"""

import dataclasses
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muq_jax import __version__
from muq_jax.errors import UserError, is_full_disk
from muq_jax.inference.journal import Journal
from muq_jax.inference.store import (
    FAILURES,
    FRAMES,
    HEADER,
    JOURNAL,
    SCHEMA,
    VECTORS,
    Failure,
    Space,
    check_same_space,
    read_failures,
    read_space,
    read_table,
    table_paths,
    vectors_of,
)

ROWS_PER_TABLE = 16_384  # 64 MB of vectors of a MuQ-large


class _Place(NamedTuple):
    """Where a file's vectors are: a table and the first of its rows there, or a position of the journal."""

    table: Path | None
    start: int
    seconds: float
    fingerprint: str


class StoreWriter:
    """Adds files to a store; `finish` makes its tables. One process at a time, and as a context manager.

    Attributes:
        is_finished: whether its tables hold all that is known of it.
        failures: what could not be decoded or embedded, by id.
    """

    def __init__(self, folder: Path, space: Space) -> None:
        """Opens a store or makes one.

        Raises:
            UserError: the folder is something else, its vectors are of another space, or another process adds
                to it.
        """
        self.folder, self._space = folder, space
        header = folder / HEADER
        if header.is_file():
            check_same_space(folder, read_space(folder), space)
        elif folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; a store is a folder.")
        elif folder.exists() and any(path != _unfinished(header) for path in folder.iterdir()):
            raise UserError(f"{folder} is not a store and not empty; give a new folder.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            if not header.is_file():
                described = dataclasses.asdict(space) | {"muq_jax_version": __version__}
                _replace(header, (json.dumps(described, indent=2) + "\n").encode())
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            self._read()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        os.close(self._lock)

    @property
    def num_files(self) -> int:
        """How many files have vectors."""
        return len(self._places)

    def fingerprint(self, name: str) -> str | None:
        """Returns the fingerprint of the file that vectors were made of; None if there are none."""
        return self._places[name].fingerprint if name in self._places else None

    def add(self, name: str, fingerprint: str, seconds: float, vectors: np.ndarray) -> None:
        """Adds a file, or replaces its vectors [layers, D]; they are on the disk when this returns.

        Raises:
            UserError: the disk is full.
        """
        self._append({"id": name, "fingerprint": fingerprint, "seconds": seconds}, vectors)

    def add_failure(self, failure: Failure) -> None:
        """Adds a file that has no vectors. One that has some, made when it was well, keeps them.

        Raises:
            UserError: the disk is full.
        """
        self._append(dataclasses.asdict(failure), None)

    def write_frames(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Writes a file's `frames/ID.npz`, whole or not at all.

        Raises:
            UserError: the disk is full.
        """
        path = self._frames(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _unfinished(path).open("wb") as file:
                np.savez(file, **arrays)
                os.fsync(file.fileno())
            _unfinished(path).replace(path)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def has_frames(self, name: str) -> bool:
        """Whether a file's frames are there."""
        return self._frames(name).is_file()

    def finish(self) -> None:
        """Writes the tables from everything that is there and removes the journal.

        Raises:
            UserError: the disk is full; the journal is still there.
        """
        try:
            self._write_tables()
            lines = [json.dumps(dataclasses.asdict(self.failures[name])) for name in sorted(self.failures)]
            _replace(self.folder / FAILURES, "".join(f"{line}\n" for line in lines).encode())
            self._journal.remove()
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self.is_finished = True

    def _read(self) -> None:
        """Finds out what the store has."""
        self.failures = {failure.id: failure for failure in read_failures(self.folder)}
        self._places: dict[str, _Place] = {}
        for path in table_paths(self.folder):
            table = read_table(path, ["id", "end", "fingerprint"])[:: len(self._space.rows)]
            columns = (table[name].to_pylist() for name in ("id", "end", "fingerprint"))
            for number, (name, end, size) in enumerate(zip(*columns, strict=True)):
                self._places[name] = _Place(path, number * len(self._space.rows), end, size)
        self._journal = Journal(self.folder / JOURNAL)
        self.is_finished = not self._journal.path.exists() and bool(self._places or self.failures)
        for position, described in self._journal.records():
            self._note(described, position)

    def _append(self, described: dict[str, Any], vectors: np.ndarray | None) -> None:
        try:
            position = self._journal.append(described, vectors)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._note(described, position)

    def _note(self, described: dict[str, Any], position: int) -> None:
        name = described["id"]
        if "reason" not in described:
            self._places[name] = _Place(None, position, described["seconds"], described["fingerprint"])
            self.failures.pop(name, None)
        elif name not in self._places:
            self.failures[name] = Failure(**described)

    def _write_tables(self) -> None:
        names = sorted(self._places)
        per_table = max(1, ROWS_PER_TABLE // len(self._space.rows))
        (self.folder / VECTORS).mkdir(exist_ok=True)
        for start in reversed(range(0, len(names), per_table)):
            path = self.folder / VECTORS / f"{start // per_table:05}.parquet"
            pq.write_table(self._table(names[start : start + per_table]), _unfinished(path))
            with _unfinished(path).open("rb+") as file:
                os.fsync(file.fileno())
            _unfinished(path).replace(path)

    def _table(self, names: list[str]) -> pa.Table:
        """The rows of these files."""
        places = [self._places[name] for name in names]
        old = {path: vectors_of(read_table(path)) for path in {place.table for place in places} if path}
        rows = self._space.rows
        matrix = np.concatenate(
            [
                old[place.table][place.start : place.start + len(rows)]
                if place.table
                else self._journal.read(place.start)
                for place in places
            ]
        )
        count, width = matrix.shape
        offsets = np.arange(0, (count + 1) * width, width, dtype=np.int32)
        columns = {
            "id": [name for name in names for _ in rows],
            "layer": list(rows) * len(names),
            "start": np.zeros(count),
            "end": [place.seconds for place in places for _ in rows],
            "fingerprint": [place.fingerprint for place in places for _ in rows],
            "vector": pa.ListArray.from_arrays(offsets, matrix.ravel()),
        }
        return pa.table(columns, schema=SCHEMA)

    def _frames(self, name: str) -> Path:
        path = Path(name)
        assert not path.is_absolute() and ".." not in path.parts, f"{name} would lie outside the store"
        return self.folder / FRAMES / f"{name}.npz"


def _locked(folder: Path) -> int:
    """Keeps others from adding to the folder for as long as what is returned is open."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UserError(f"another process adds to {folder}; wait for it, or give another store.") from None
    except OSError:
        pass  # a file system without locks
    return lock


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def _replace(path: Path, data: bytes) -> None:
    with _unfinished(path).open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    _unfinished(path).replace(path)


def _unwritable(folder: Path, error: OSError) -> UserError:
    reason = "the disk is full" if is_full_disk(error) else str(error)
    return UserError(
        f"{folder} could not be written: {reason}. What was finished is kept; run the same command again."
    )
