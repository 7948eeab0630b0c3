"""A folder of vectors, one row a file and layer, that a kill at any moment costs nothing.

A store holds

    store.json                what made the vectors; vectors of something else are refused
    vectors/00000.parquet ... id (the file's relative path), layer, start, end (seconds), vector; in order
    frames/ID.npz             every token's vector, where they were asked for
    failures.jsonl            id and reason of every file that could not be heard
    journal                   while it is being made: a record a file, each on the disk before the next

The journal becomes the tables at the end, so that a store that was interrupted is the same as one that was
not.
"""

import dataclasses
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muq_jax import __version__
from muq_jax.errors import UserError, is_full_disk

HEADER, JOURNAL, VECTORS, FRAMES, FAILURES = "store.json", "journal", "vectors", "frames", "failures.jsonl"

ROWS_PER_TABLE = 65_536

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("layer", pa.int32()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("vector", pa.list_(pa.float32())),
    ]
)
_FRAME = struct.Struct("<III")  # bytes of the description, bytes of the vectors, checksum of both


@dataclasses.dataclass(frozen=True)
class Space:
    """What makes vectors comparable.

    Attributes:
        params_sha256: of the weights.
        model: their `model_type`.
        layers: of the hidden states; empty where the model has one vector.
        pool: how a file's tokens become one vector.
        window_seconds: of what the model hears at a time.
    """

    params_sha256: str
    model: str
    layers: tuple[int, ...]
    pool: str
    window_seconds: float


@dataclasses.dataclass(frozen=True)
class Row:
    """A file in a store.

    Attributes:
        id: its relative path.
        seconds: its length.
        vectors: [layers, D].
        reason: why there are none.
    """

    id: str
    seconds: float
    vectors: np.ndarray | None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Vectors:
    """A store's vectors: `ids` [N], `layers` [N], `ends` [N] seconds, `matrix` float32 [N, D]."""

    space: Space
    ids: list[str]
    layers: np.ndarray
    ends: np.ndarray
    matrix: np.ndarray


class StoreWriter:
    """Adds files to a store; `finish` makes its tables.

    Attributes:
        known: ids that are in it, heard or failed.
        is_finished: whether its tables hold all of them.
    """

    def __init__(self, folder: Path, space: Space) -> None:
        """Opens a store or makes one.

        Raises:
            UserError: the folder is something else, or its vectors are of another space.
        """
        self.folder = folder
        if (folder / HEADER).is_file():
            _check_same(folder, read_space(folder), space)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not a store and not empty; give another folder.")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            header = {"muq_jax_version": __version__, **dataclasses.asdict(space)}
            _replace(folder / HEADER, (json.dumps(header, indent=2) + "\n").encode())
        self._rows = {row.id: row for row in _finished(folder)}
        self._whole = 0  # bytes of the journal that are whole records
        for row, position in _journal(folder / JOURNAL):
            self._rows[row.id], self._whole = row, position
        self.known = set(self._rows)
        self.is_finished = not (folder / JOURNAL).exists() and bool(self._rows)
        self._journal: Any = None

    def add(self, row: Row) -> None:
        """Adds a file; it is on the disk when this returns.

        Raises:
            UserError: the disk is full.
        """
        described = json.dumps({"id": row.id, "seconds": row.seconds, "reason": row.reason}).encode()
        shape = (0, 0) if row.vectors is None else row.vectors.shape
        data = struct.pack("<II", *shape)
        data += b"" if row.vectors is None else np.ascontiguousarray(row.vectors, "<f4").tobytes()
        try:
            if self._journal is None:
                self._journal = (self.folder / JOURNAL).open("ab")
                self._journal.truncate(self._whole)  # a record that a kill has cut
            check = zlib.crc32(described + data)
            self._journal.write(_FRAME.pack(len(described), len(data), check) + described + data)
            self._journal.flush()
            os.fsync(self._journal.fileno())
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._rows[row.id] = row
        self.known.add(row.id)

    def finish(self) -> None:
        """Writes the tables from everything that is there and removes the journal.

        Raises:
            UserError: the disk is full; the journal is still there.
        """
        if self._journal is not None:
            self._journal.close()
        try:
            _write_tables(self.folder, self._rows, read_space(self.folder))
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        (self.folder / JOURNAL).unlink(missing_ok=True)

    @property
    def failures(self) -> list[Row]:
        """The files that could not be heard, in order."""
        return sorted((row for row in self._rows.values() if row.vectors is None), key=lambda row: row.id)

    def write_frames(self, id: str, arrays: Mapping[str, Any]) -> None:
        """Writes a file's `frames/ID.npz`, whole or not at all.

        Raises:
            UserError: the disk is full.
        """
        path = self.folder / FRAMES / f"{id}.npz"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}.unfinished")
            with unfinished.open("wb") as file:
                np.savez(file, **arrays)
            unfinished.replace(path)
        except OSError as error:
            raise _unwritable(self.folder, error) from error


def read_space(folder: Path) -> Space:
    """Returns what made a store's vectors.

    Raises:
        UserError: it is no store, or its header is damaged.
    """
    try:
        data = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        names = [field.name for field in dataclasses.fields(Space)]
        return Space(**{**{name: data[name] for name in names}, "layers": tuple(data["layers"])})
    except FileNotFoundError:
        raise UserError(f"{folder} is not a store: it has no {HEADER}.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / HEADER} is damaged ({error!r}).") from None


def check_same_weights(wanted: Space, found: Space) -> None:
    """Checks that a model makes vectors that can be compared with a store's.

    Args:
        wanted: the store's.
        found: the model's.

    Raises:
        UserError: it is another model.
    """
    if found.params_sha256 != wanted.params_sha256:
        raise UserError(
            f"the store was made by a {wanted.model} of the weights {wanted.params_sha256[:12]}..., the "
            f"model is a {found.model} with {found.params_sha256[:12]}...: their vectors cannot be compared."
        )


def load_vectors(*folders: Path) -> Vectors:
    """Returns the vectors of finished stores of one space, one after the other.

    Raises:
        UserError: one is no store, is not finished, is of another space, or has a damaged table; or they hold
            nothing.
    """
    spaces = [read_space(folder) for folder in folders]
    for folder, space in zip(folders, spaces, strict=True):
        _check_same(folder, space, spaces[0])
        if (folder / JOURNAL).exists():
            raise UserError(f"{folder} is not finished; run the command that makes it again.")
    rows = [row for folder in folders for row in _finished(folder) if row.vectors is not None]
    if not rows:
        raise UserError(f"{', '.join(map(str, folders))}: no vectors.")
    layers = spaces[0].layers or (0,)
    count = len(layers)
    return Vectors(
        spaces[0],
        [row.id for row in rows for _ in layers],
        np.tile(np.array(layers), len(rows)),
        np.repeat([row.seconds for row in rows], count),
        np.concatenate([row.vectors for row in rows if row.vectors is not None]),
    )


def _finished(folder: Path) -> Iterator[Row]:
    """The rows of a store's tables and failures."""
    for path in sorted((folder / VECTORS).glob("*.parquet")):
        try:
            table = pq.read_table(path, schema=_SCHEMA)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is damaged ({error}); delete the store and make it again.") from None
        matrix = table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
        ids, ends = table["id"].to_pylist(), table["end"].to_pylist()
        start = 0
        while start < len(ids):
            stop = start
            while stop < len(ids) and ids[stop] == ids[start]:
                stop += 1
            yield Row(ids[start], ends[start], matrix[start:stop])
            start = stop
    path = folder / FAILURES
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        try:
            failure = json.loads(line)
            yield Row(failure["id"], 0.0, None, failure["reason"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is damaged ({error!r}); delete the line, and its file is tried again."
            ) from None


def _journal(path: Path) -> Iterator[tuple[Row, int]]:
    """The whole records of a journal, each with the position after it."""
    if not path.is_file():
        return
    data, at = path.read_bytes(), 0
    while at + _FRAME.size <= len(data):
        size, more, check = _FRAME.unpack_from(data, at)
        body = data[at + _FRAME.size : at + _FRAME.size + size + more]
        if len(body) < size + more or zlib.crc32(body) != check:
            return
        at += _FRAME.size + size + more
        described, shape = json.loads(body[:size]), struct.unpack_from("<II", body, size)
        vectors = np.frombuffer(body, "<f4", offset=size + 8).reshape(shape) if shape[0] else None
        yield Row(described["id"], described["seconds"], vectors, described["reason"]), at


def _write_tables(folder: Path, rows: Mapping[str, Row], space: Space) -> None:
    heard = sorted((row for row in rows.values() if row.vectors is not None), key=lambda row: row.id)
    layers = space.layers or (0,)
    per_table = max(1, ROWS_PER_TABLE // len(layers))
    (folder / VECTORS).mkdir(exist_ok=True)
    written = set()
    for number, at in enumerate(range(0, len(heard), per_table)):
        part = [(row, n) for row in heard[at : at + per_table] for n in range(len(layers))]
        table = pa.table(
            {
                "id": [row.id for row, _ in part],
                "layer": [layers[n] for _, n in part],
                "start": [0.0] * len(part),
                "end": [row.seconds for row, _ in part],
                "vector": [row.vectors[n] for row, n in part if row.vectors is not None],
            },
            schema=_SCHEMA,
        )
        path = folder / VECTORS / f"{number:05}.parquet"
        pq.write_table(table, unfinished := path.with_suffix(".unfinished"))
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
        written.add(path)
    for path in set((folder / VECTORS).iterdir()) - written:
        path.unlink()
    failed = sorted((row for row in rows.values() if row.vectors is None), key=lambda row: row.id)
    lines = [json.dumps({"id": row.id, "reason": row.reason}) + "\n" for row in failed]
    _replace(folder / FAILURES, "".join(lines).encode())


def _check_same(folder: Path, found: Space, wanted: Space) -> None:
    for field in dataclasses.fields(Space):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        if a != b:
            raise UserError(
                f"{folder} holds vectors of {field.name} {a}; those of {b} are another space, and the two "
                "are not mixed. Give another store, or what made this one."
            )


def _replace(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    unfinished.replace(path)


def _unwritable(folder: Path, error: OSError) -> UserError:
    reason = "the disk is full" if is_full_disk(error) else str(error)
    return UserError(
        f"{folder} could not be written: {reason}. What was finished is kept; run the same command again."
    )
