"""What `prepare` has finished so far: the same command goes on from there, however the last one ended.

Beside the shards, `progress.jsonl` holds a line of what the run is made from, then a line a finished shard. A
line is written when its shard has reached the disk; a shard without a whole line is made again.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from muq_jax.data.contents import SUMS, Contents
from muq_jax.data.shards import SHARD_SUFFIX
from muq_jax.data.statistics import MelMoments
from muq_jax.errors import UserError

PROGRESS_FILE = "progress.jsonl"


def finished_parts(folder: Path, made_from: dict[str, Any]) -> list[Contents]:
    """Returns what earlier runs made from the same have finished in `folder`, and removes all else in it.

    Raises:
        UserError: there is something in it that `prepare` does not write.
    """
    if not folder.exists():
        return []
    if not folder.is_dir() or not all(path.is_file() and _is_ours(path) for path in folder.iterdir()):
        raise UserError(
            f"{folder}: not made by `prepare`, which needs this name; move it, or give another OUT"
        )
    progress, parts, kept_bytes = folder / PROGRESS_FILE, [], 0
    lines = progress.read_bytes().splitlines(keepends=True) if progress.exists() else []
    if lines and lines[0] == _line(made_from):
        kept_bytes = len(lines[0])
        for line in lines[1:]:
            part = _read_part(line, folder)
            if part is None:
                break
            parts.append(part)
            kept_bytes += len(line)
        os.truncate(progress, kept_bytes)
    shards = {part.rows[-1]["path"] for part in parts}
    for path in folder.iterdir():
        if path.name not in shards and (path != progress or not parts):
            path.unlink()
    return parts


def add_part(folder: Path, made_from: dict[str, Any], part: Contents) -> None:
    """Writes down that the shard of this part is finished."""
    progress = folder / PROGRESS_FILE
    entry = dataclasses.asdict(part) | {"num_bytes": _size(folder, part)}
    with progress.open("ab") as file:
        if file.tell() == 0:
            file.write(_line(made_from))
        file.write(_line(entry))
        file.flush()
        os.fsync(file.fileno())


def _is_ours(path: Path) -> bool:
    return path.name == SUMS or path.suffix in (SHARD_SUFFIX, ".json", ".jsonl")


def _read_part(line: bytes, folder: Path) -> Contents | None:
    """The part of a line; None if the line was cut short, or its shard is not there whole."""
    if not line.endswith(b"\n"):
        return None
    entry = json.loads(line)
    part = Contents(entry["rows"], entry["rejects"], MelMoments(*entry["moments"]), entry["sha256"])
    return part if _size(folder, part) == entry["num_bytes"] else None


def _size(folder: Path, part: Contents) -> int | None:
    shard = folder / part.rows[-1]["path"]
    return shard.stat().st_size if shard.is_file() else None


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
