"""Codes stored beside a corpus: a record a clip, in the order of the source, in files written whole.

A record is 4 bytes, little endian, with the length of a JSON header (`id`, `shape` of the codes), the header,
and the codes as 16-bit integers. `labels.json` says what they were made from.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
from grain.sources import ArrayRecordDataSource

from muq_jax.data.shards import SHARD_SUFFIX, ShardWriter
from muq_jax.data.sources import Example, Source
from muq_jax.errors import UserError

LABELS_FILE = "labels.json"

MAX_CODES = 2**16

_LENGTH = struct.Struct("<I")
_DTYPE = np.dtype("<u2")
# What a kill costs at most: half an hour of 30 s clips; and no more files than a file system likes.
_CLIPS_PER_FILE, _MAX_FILES = 64, 4096

Label = Callable[[Iterable[Example]], Iterator[np.ndarray]]
"""From clips to the codes int [T, Q] of each, in their order, reading on no further than it must."""


def write_labels(
    folder: Path,
    source: Source,
    label: Label,
    made_from: dict[str, Any],
    *,
    host: tuple[int, int] = (0, 1),
    num_threads: int = 4,
    progress: Callable[[int], object] = lambda num_clips: None,
) -> None:
    """Labels every clip of a source; goes on where an earlier call ended.

    Args:
        folder: where to.
        source: the clips.
        label: makes the codes.
        made_from: what they depend on, for JSON.
        host: (i, n): of n hosts, each of which writes its own files, this is the i-th.
        num_threads: clips that are read ahead.
        progress: called after each file with the number of its clips, those that were there first.

    Raises:
        UserError: `folder` holds labels that were made from something else, or the disk is full.
    """
    _begin(folder, {**made_from, "num_clips": len(source)}, writes=host[0] == 0)
    files = _files(folder, len(source))[host[0] :: host[1]]
    done = [(path, clips) for path, clips in files if path.exists()]
    progress(sum(len(clips) for _, clips in done))
    unfinished = folder / f"unfinished-{host[0]}"
    unfinished.mkdir(exist_ok=True)
    for path, clips in files:
        if (path, clips) in done:
            continue
        examples = _read_ahead(source, clips, num_threads)
        ids: list[str] = []
        with ShardWriter(unfinished, first=_number(path)) as writer:
            for codes in label(_noting(examples, ids)):
                writer.write([encode_labels(ids.pop(0), codes)])
        os.replace(unfinished / path.name, path)
        progress(len(clips))
    shutil.rmtree(unfinished)


def encode_labels(id: str, codes: np.ndarray) -> bytes:
    """Returns the record of a clip's codes int [T, Q], each from 0 to 65,535."""
    header = json.dumps({"id": id, "shape": codes.shape}).encode()
    return _LENGTH.pack(len(header)) + header + codes.astype(_DTYPE).tobytes()


def decode_labels(record: bytes) -> tuple[str, np.ndarray]:
    """Returns a clip's id and its codes int32 [T, Q]."""
    (length,) = _LENGTH.unpack_from(record)
    header = json.loads(record[_LENGTH.size : _LENGTH.size + length])
    codes = np.frombuffer(record, _DTYPE, offset=_LENGTH.size + length)
    return header["id"], codes.reshape(header["shape"]).astype(np.int32)


class LabelledSource:
    """The examples of a source, each with its stored `codes`."""

    def __init__(self, source: Source, folder: Path, *, token_samples: int, num_books: int):
        """Opens the labels of a source.

        Args:
            source: whose clips were labelled.
            folder: of `write_labels`.
            token_samples: a token's.
            num_books: Q.

        Raises:
            UserError: the labels are not finished.
        """
        paths = [path for path, _ in _files(folder, len(source))]
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise UserError(
                f"{missing[0]}: this file of labels is missing ({len(missing)} of {len(paths)}); run the "
                "same command again"
            )
        self._source, self._folder, self._token_samples = source, folder, token_samples
        self.num_books = num_books
        self._records = ArrayRecordDataSource([str(path) for path in paths])

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example: Example = self._source[index]
        id, codes = decode_labels(self._records[index])
        num_tokens = example["wave"].shape[-1] // self._token_samples
        if id != example["id"] or len(codes) != num_tokens:
            raise UserError(
                f"{self._folder}: labels {index} are of the clip {id!r} with {len(codes)} tokens, the data "
                f"has {example['id']!r} with {num_tokens} there: it has changed since. Remove that folder "
                "and run the same command again, which makes them anew."
            )
        return {**example, "codes": codes}

    def __repr__(self) -> str:
        return f"LabelledSource({self._source!r})"


def _begin(folder: Path, made_from: dict[str, Any], *, writes: bool) -> None:
    """Writes down what labels are made from, or compares."""
    path = folder / LABELS_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        found = json.loads(path.read_text())
        wanted = json.loads(json.dumps(made_from))
        differing = [
            f"{name} {found.get(name)!r} there, {wanted.get(name)!r} now"
            for name in sorted(found.keys() | wanted.keys())
            if found.get(name) != wanted.get(name)
        ]
        if differing:
            raise UserError(
                f"{path}: these labels were made from something else ({'; '.join(differing)}). Take another "
                f"--workdir, or remove {folder} to make them anew."
            )
    elif writes:
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(made_from, indent=2) + "\n")
        os.replace(unfinished, path)


def _files(folder: Path, num_clips: int) -> list[tuple[Path, range]]:
    """Returns the files that labels of so many clips have, and which clips each holds."""
    size = max(_CLIPS_PER_FILE, -(-num_clips // _MAX_FILES))
    starts = range(0, num_clips, size)
    return [
        (folder / f"shard-{number:05d}{SHARD_SUFFIX}", range(start, min(start + size, num_clips)))
        for number, start in enumerate(starts)
    ]


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("shard-"))


def _read_ahead(source: Source, clips: range, num_threads: int) -> Iterator[Example]:
    """The clips in order, a few of them decoded at a time."""
    dataset = grain.MapDataset.source(source)[clips.start : clips.stop]
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
    return iter(dataset.to_iter_dataset(options))


def _noting(examples: Iterable[Example], ids: list[str]) -> Iterator[Example]:
    for example in examples:
        ids.append(example["id"])
        yield example
