"""Which clips there are: a manifest in JSON Lines, or whatever audio a folder holds.

A manifest has one JSON object a line. Read are

| field            | also understood as                     | when missing                          |
|------------------|----------------------------------------|---------------------------------------|
| `path`           | `file`, `audio_path`, `audio_filepath` | an error; relative to the manifest    |
| `id`             |                                        | the path without its suffix           |
| `sample_rate_hz` | `sample_rate`                          | None: `with_header` reads it          |
| `num_samples`    |                                        | None: `with_header` reads it          |
| `split`          |                                        | None                                  |

and every other field is a label. Two of them are read where music and text are trained (see `texts.py`):
`caption`, a text about the clip, and `tags`, a list of names, with a category where it is known, as
["genre---rock", "instrument---piano"] or {"genre": ["rock"], "instrument": ["piano"]}.
"""

import collections
import dataclasses
import functools
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from muq_jax.audio.decode import audio_info
from muq_jax.audio.files import audio_files
from muq_jax.data.paths import as_path, is_remote, join, remote_audio_files
from muq_jax.errors import UserError, mistakes_in

_log = logging.getLogger(__name__)
_PATH_FIELDS = ("path", "file", "audio_path", "audio_filepath")
_RATE_FIELDS = ("sample_rate_hz", "sample_rate")


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording: where it is and what is said about it.

    Attributes:
        id: unique in its manifest or folder.
        path: the audio file, ready to be opened.
        sample_rate_hz, num_samples: as the manifest states them (samples a channel, at that rate), else None.
        split: "train", "val", "test" or any other name; None if there are no splits.
        labels: all other fields of the manifest's row.
    """

    id: str
    path: Path
    sample_rate_hz: int | None = None
    num_samples: int | None = None
    split: str | None = None
    labels: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_manifest(path: str | os.PathLike[str]) -> list[Clip]:
    """Returns the clips of a manifest, in its order. The audio files are not opened.

    Raises:
        UserError: names the line, what was found and what was expected.
    """
    path = as_path(path)
    try:
        # Whatever ends a line: JSON takes a carriage return for a blank.
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not a text file in UTF-8 ({error}); expected JSON Lines, a clip a line"
        ) from None

    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            rows.append((f"{path}, line {number}", _parse_row(line, f"{path}, line {number}", path.parent)))
    if not rows:
        raise UserError(f"{path}: no clip in it; expected JSON Lines, a clip a line")

    default_ids = iter(
        _ids_from_paths([_relative(clip.path, path.parent) for _, clip in rows if not clip.id])
    )
    clips = [clip if clip.id else dataclasses.replace(clip, id=next(default_ids)) for _, clip in rows]
    where_first: dict[str, str] = {}
    for (where, _), clip in zip(rows, clips, strict=True):
        if clip.id in where_first:
            raise UserError(
                f"{where}: id {clip.id!r} was already used in {where_first[clip.id]}; ids must be unique"
            )
        where_first[clip.id] = where
    return clips


def scan_folder(folder: str | os.PathLike[str]) -> list[Clip]:
    """Returns a clip for every one of `audio_files`, in their order.

    A clip's id is the relative path without its suffix, or with it where two files differ in nothing else.

    Raises:
        UserError: the folder is missing or holds no audio file.
    """
    folder = as_path(folder)
    found = remote_audio_files(folder) if is_remote(folder) else audio_files(folder)
    paths = [folder / name for name in found]
    return [Clip(id=id, path=path) for id, path in zip(_ids_from_paths(found), paths, strict=True)]


def with_header(clip: Clip) -> Clip:
    """Returns the clip with what its manifest left out read from the file's header, if that says."""
    if clip.sample_rate_hz is not None and clip.num_samples is not None:
        return clip
    info = audio_info(clip.path)
    return dataclasses.replace(
        clip,
        sample_rate_hz=clip.sample_rate_hz or info.sample_rate_hz,
        num_samples=info.num_samples if clip.num_samples is None else clip.num_samples,
    )


def select_split(clips: Sequence[Clip], split: str | None, where: str) -> list[Clip]:
    """Returns the clips of one split, or all of them when `split` is None.

    Where only some clips have a split, it is said how many are left out.

    Raises:
        UserError: there is no clip of that split; names the splits that there are.
    """
    chosen = [clip for clip in clips if split is None or clip.split == split]
    if not chosen:
        splits = sorted({clip.split for clip in clips if clip.split is not None})
        raise UserError(
            f"{where}: no clip of split {split!r}; found {', '.join(splits) or 'no splits at all'}"
        )
    num_without = 0 if split is None else sum(clip.split is None for clip in clips)
    if num_without:
        _say_left_out(where, num_without, len(clips))
    return chosen


@functools.cache  # once, however often and for whatever split the source is opened
def _say_left_out(where: str, num_without: int, num_clips: int) -> None:
    _log.warning("%s: %d of %d clips have no split and are left out", where, num_without, num_clips)


def write_manifest(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line, all of them or nothing; `path` may be remote."""
    path = as_path(path)
    # A store's file is there when it is closed.
    written = path if is_remote(path) else path.with_suffix(".partial.jsonl")
    with written.open("wb") as file:
        for row in rows:
            # A file's name that is not in UTF-8 comes here with surrogates, which JSON holds as escapes.
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
    if written != path:
        os.replace(written, path)


def _parse_row(line: str, where: str, folder: Path) -> Clip:
    """Returns the row's clip; its id is "" where the row has none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a list in a list in a list
        raise UserError(
            f"{where}: not JSON that can be read ({error}); expected one JSON object a line"
        ) from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON {type(row).__name__}, expected an object with a field `path`")

    path = _one_of(row, _PATH_FIELDS, where)
    if not isinstance(path, str) or not path:
        raise UserError(
            f"{where}: the clip's path is {path!r}; expected a field `path` with the audio file's name"
        )
    id = row.pop("id", None)
    if not isinstance(id, str | int | None) or isinstance(id, bool) or id == "":
        raise UserError(f"{where}: `id` is {id!r}; expected a text")
    split = row.pop("split", None)
    if not isinstance(split, str | None):
        raise UserError(f"{where}: `split` is {split!r}; expected a text such as train")
    with mistakes_in(where):
        audio = join(folder, path)
    return Clip(
        id="" if id is None else str(id),
        path=audio,
        sample_rate_hz=_count("sample_rate_hz", _one_of(row, _RATE_FIELDS, where), 1, where),
        num_samples=_count("num_samples", row.pop("num_samples", None), 0, where),
        split=split,
        labels=row,
    )


def _one_of(row: dict[str, Any], names: Sequence[str], where: str) -> Any:
    """Takes the value of whichever of these fields there is out of the row; None if there is none."""
    found = {name: row.pop(name) for name in names if name in row}
    values = list(found.values())
    if any(value != values[0] for value in values):
        raise UserError(
            f"{where}: {' and '.join(f'`{name}`' for name in found)} mean the same and differ: {found}"
        )
    return values[0] if values else None


def _count(name: str, value: Any, least: int, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0 or value < least:
        raise UserError(f"{where}: `{name}` is {value!r}; expected a whole number, at least {least}")
    return int(value)


def _relative(path: Path, folder: Path) -> str:
    if is_remote(path) and not is_remote(folder):
        return str(path).partition("://")[2]
    return Path(os.path.relpath(path, folder)).as_posix()


def _ids_from_paths(names: Sequence[str]) -> list[str]:
    """Returns relative paths without their suffixes, but whole where two would become the same."""
    short = [name.removesuffix(Path(name).suffix) for name in names]
    times = collections.Counter(short)
    return [id if times[id] == 1 else name for id, name in zip(short, names, strict=True)]
