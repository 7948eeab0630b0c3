"""Whether a prepared folder is still what `prepare` wrote: digests, records, counts, all of it read back."""

import concurrent.futures
import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader
from tqdm import tqdm

from muq_jax.data.contents import MANIFEST, REJECTS, STATS, SUMS, Contents, is_whole, read_lists, read_sums
from muq_jax.data.paths import UnreachableError, as_path, check_reachable, local_copy
from muq_jax.data.shards import SHARD_SUFFIX, SLICE_PREFIX, decode_record, sha256_of
from muq_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Checked:
    """What was read, and what is wrong with it: a line each, which begins with a file's name."""

    num_shards: int
    num_records: int
    damage: list[str]


def check(out: str | os.PathLike[str], *, num_threads: int = 1) -> Checked:
    """Reads a prepared folder, local or remote, back: every byte against its digest, every record decoded.

    Args:
        out: what `prepare` made, with or without slices.
        num_threads: shards that are read at a time.

    Raises:
        UserError: no such folder, or its store does not answer.
    """
    out = as_path(out)
    check_reachable(out)
    try:
        return _check(out, num_threads)
    except UnreachableError as error:
        raise UserError(f"{error}; run the check again") from error


def _check(out: Path, num_threads: int) -> Checked:
    if not out.is_dir():
        raise UserError(f"{out}: no such folder; expected one that `prepare` made")
    if not is_whole(out):
        return Checked(
            0, 0, [f"{MANIFEST}, {STATS}: not both there, so it is not finished; run `prepare` again"]
        )
    damage: list[str] = []
    try:
        sums = read_sums(out)
        for name in (MANIFEST, STATS, REJECTS):
            damage += _wrong_bytes(out / name, name, sums.get(name))
        contents, stats = read_lists(out)
        damage += _wrong_counts(contents, stats)
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in contents.rows:
            rows.setdefault(row["path"], []).append(row)
    except (ValueError, KeyError, TypeError, OSError) as error:
        return Checked(0, 0, [*damage, f"{SUMS}, {MANIFEST}, {STATS}, {REJECTS}: cannot be read ({error!r})"])

    patterns = (f"*{SHARD_SUFFIX}", f"{SLICE_PREFIX}*/*{SHARD_SUFFIX}")
    present = {path.relative_to(out).as_posix() for each in patterns for path in out.glob(each)}
    names = sorted(present | rows.keys() | contents.sha256.keys())

    def check_one(name: str) -> list[str]:
        return _wrong_shard(out / name, name, rows.get(name, []), contents.sha256.get(name))

    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        # `disable=None`: no bar where there is no terminal.
        for lines in tqdm(pool.map(check_one, names), total=len(names), unit="shard", disable=None):
            damage += lines
    return Checked(len(names), contents.totals()["num_pieces"], damage)


def _wrong_counts(contents: Contents, stats: dict[str, Any]) -> list[str]:
    return [
        f"{STATS}: {name} is {stats.get(name)}, {MANIFEST} has {value}"
        for name, value in contents.totals().items()
        if stats.get(name) != value
    ]


def _wrong_bytes(path: Path, name: str, digest: str | None) -> list[str]:
    """Says if a local file is not there, or not that of the digest."""
    if not path.exists():
        return [f"{name}: missing"]
    if digest is None:
        return [f"{name}: not in {SUMS}"]
    with local_copy(path) as copy:
        found = sha256_of(copy)
    return [] if found == digest else [f"{name}: its SHA-256 is {found}, {SUMS} says {digest}"]


def _wrong_shard(path: Path, name: str, rows: Sequence[dict[str, Any]], digest: str | None) -> list[str]:
    """Says what is wrong with a shard, whose clips should be those of `rows`, in their order."""
    if not path.exists():
        return [f"{name}: missing, with {len(rows)} clips"]
    with local_copy(path) as copy:
        damage = _wrong_bytes(copy, name, digest)
        try:
            reader = ArrayRecordReader(str(copy))
        except RuntimeError as error:
            return [*damage, f"{name}: cannot be opened ({_first(error)})"]
        num_expected = sum(row["num_pieces"] for row in rows)
        if reader.num_records() != num_expected:
            damage.append(f"{name}: {reader.num_records()} records, {MANIFEST} says {num_expected}")
        else:
            damage += _wrong_records(reader, name, rows)
        with contextlib.suppress(RuntimeError):  # a reader that found damage says so again
            reader.close()
    return damage


def _wrong_records(reader: ArrayRecordReader, name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    damage, record = [], 0
    for row in rows:
        num_samples = 0
        for number in range(record, record + row["num_pieces"]):
            where = f"{name}, record {number}"
            try:
                header, wave = decode_record(reader.read([number])[0], where)
                num_samples += len(wave)
                if header["clip"] != row["id"]:
                    damage.append(f"{where}: of clip {header['clip']!r}, {MANIFEST} says {row['id']!r}")
            except UserError as error:
                damage.append(str(error))
            except RuntimeError as error:
                damage.append(f"{where}: cannot be read ({_first(error)}), of clip {row['id']!r}")
        record += row["num_pieces"]
        if num_samples != row["num_samples"]:
            damage.append(
                f"{name}: {num_samples} samples of clip {row['id']!r}, {MANIFEST} says {row['num_samples']}"
            )
    return damage


def _first(error: RuntimeError) -> str:
    """ArrayRecord's errors go on with where in its sources they were raised."""
    return str(error).split(";")[0]
