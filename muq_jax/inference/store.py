"""A folder of vectors, one row a file and layer.

A store holds

    store.json                what made the vectors; vectors of something else are refused
    vectors/00000.parquet ... id (the file's relative path), layer, start, end (seconds), fingerprint (which
                              tells another file of that name), vector; in order of the ids
    frames/ID.npz             every token's vector, where they were asked for
    failures.jsonl            id, fingerprint and reason of every file that could not be decoded or embedded
    journal                   while it is being made: a record a file, each on the disk before the next
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muq_jax.errors import UserError

HEADER, JOURNAL, VECTORS, FRAMES, FAILURES = "store.json", "journal", "vectors", "frames", "failures.jsonl"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("layer", pa.int32()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("fingerprint", pa.string()),
        ("vector", pa.list_(pa.float32())),
    ]
)


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

    @property
    def rows(self) -> tuple[int, ...]:
        """The layers of a file's rows: 0 where the model has one vector."""
        return self.layers or (0,)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A file that could not be decoded or embedded: its id, its fingerprint, and why."""

    id: str
    fingerprint: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Vectors:
    """A store's vectors: `ids` [N], `layers` [N], `ends` [N] seconds, `matrix` float32 [N, D]."""

    space: Space
    ids: list[str]
    layers: np.ndarray
    ends: np.ndarray
    matrix: np.ndarray


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
    except NotADirectoryError:
        raise UserError(f"{folder} is a file; a store is a folder.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / HEADER} is damaged ({error!r}); give another store.") from None


def check_same_space(folder: Path, found: Space, wanted: Space) -> None:
    """Checks that a store's vectors can be mixed with others.

    Args:
        folder: the store.
        found: its space.
        wanted: that of the others.

    Raises:
        UserError: something that made them differs.
    """
    for field in dataclasses.fields(Space):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        if a != b:
            raise UserError(
                f"{folder} holds vectors of {field.name} {a}; those of {b} are another space, and the two "
                "are not mixed. Give another store, or what made this one."
            )


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
    """Returns the vectors of finished stores of one space, one store after the other.

    A file that is in several of them, by its id, counts once.

    Raises:
        UserError: one is no store, is not finished, is of another space, or has a damaged table; or they hold
            nothing.
    """
    spaces = [read_space(folder) for folder in folders]
    for folder, space in zip(folders, spaces, strict=True):
        check_same_space(folder, space, spaces[0])
        if (folder / JOURNAL).exists():
            raise UserError(f"{folder} is not finished; run the command that makes it again.")
    tables = [read_table(path) for folder in folders for path in table_paths(folder)]
    if not any(table.num_rows for table in tables):
        raise UserError(f"{', '.join(map(str, folders))}: no vectors.")
    ids = [name for table in tables for name in table["id"].to_pylist()]
    layers = np.concatenate([table["layer"].to_numpy() for table in tables])
    ends = np.concatenate([table["end"].to_numpy() for table in tables])
    matrix = np.concatenate([vectors_of(table) for table in tables])
    first = {key: row for row, key in reversed(list(enumerate(zip(ids, layers.tolist(), strict=True))))}
    if len(first) < len(ids):
        kept = sorted(first.values())
        ids, layers, ends, matrix = [ids[row] for row in kept], layers[kept], ends[kept], matrix[kept]
    return Vectors(spaces[0], ids, layers, ends, matrix)


def table_paths(folder: Path) -> list[Path]:
    """Returns a store's tables, in order."""
    return sorted((folder / VECTORS).glob("*.parquet"))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Returns one table, or some of its columns.

    Raises:
        UserError: it is damaged.
    """
    try:
        schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
        return pq.read_table(path, columns=columns, schema=schema)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the store and make it again.") from None


def vectors_of(table: pa.Table) -> np.ndarray:
    """Returns a table's vectors, float32 [N, D]."""
    return table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)


def read_failures(folder: Path) -> Iterator[Failure]:
    """Yields the files that could not be decoded or embedded.

    Raises:
        UserError: a line is damaged.
    """
    path = folder / FAILURES
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), 1):
        try:
            failure = json.loads(line)
            yield Failure(failure["id"], failure["fingerprint"], failure["reason"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is damaged ({error!r}); delete the line, and its file is tried again."
            ) from None
