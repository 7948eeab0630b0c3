"""Features of many files: decoded as streams, heard in windows of one compiled shape, pooled as they come.

Memory does not grow with a file's length, nor with how many there are; only frames, where they are asked for,
are a file's own length. A file that cannot be heard is reported and the rest go on.
"""

import dataclasses
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np

from muq_jax.audio.decode import stream_audio
from muq_jax.errors import UserError
from muq_jax.inference.slots import Slots

POOLS = ("mean", "max")

_MOST = 4096


class Piece(NamedTuple):
    """A stretch of a file.

    Attributes:
        wave: what is heard, [S] at the model's rate.
        keep: tokens of its output that count; None where the output is one vector.
    """

    wave: np.ndarray
    keep: slice | None


class Hearer(Protocol):
    """A model as `embed_files` uses it.

    Attributes:
        sample_rate_hz: of the waves.
        piece_samples: the longest piece.
        num_devices: that share a batch.
    """

    sample_rate_hz: int
    piece_samples: int
    num_devices: int

    def pieces(self, blocks: Iterable[np.ndarray]) -> Iterator[Piece]:
        """Cuts a file's samples into pieces."""
        ...

    def hear(self, waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        """Returns [B, layers, T, D] of waves [B, piece_samples], or [B, 1, 1, E] of whole pieces."""
        ...


@dataclasses.dataclass(frozen=True)
class Heard:
    """What was heard of a file.

    Attributes:
        name: the file's.
        vectors: [layers, D], its tokens pooled.
        frames: [layers, T, D]; None where they were not asked for.
        seconds: its length.
    """

    name: str
    vectors: np.ndarray
    frames: np.ndarray | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class Failed:
    """Why a file was not heard."""

    name: str
    reason: str


class _Stopped(Exception):
    """Nobody waits for what is decoded."""


class _End(NamedTuple):
    """After a file's last piece: how many there were, and its length; or why it ended early."""

    num_pieces: int
    num_samples: int
    reason: str | None


def embed_files(
    model: Hearer,
    files: Sequence[tuple[str, Path]],
    *,
    batch_size: int | None = None,
    pool: str = "mean",
    frames: bool = False,
    workers: int = 2,
) -> Iterator[Heard | Failed]:
    """Yields every file's features, or why there are none, as they become ready.

    Args:
        model: of `hearers`.
        files: names and paths.
        batch_size: pieces embedded at a time, rounded up to a multiple of the devices. None is four a device,
            and on a CPU one: there more are no faster, and thirty seconds in a MuQ-large take 0.8 GB.
        pool: of `POOLS`, how all tokens of a file become one vector.
        frames: whether to keep every token, too.
        workers: files that are decoded at a time.

    Raises:
        UserError: no batch, or nobody who decodes.
    """
    check_counts(batch_size, workers)
    if batch_size is None:
        batch_size = model.num_devices * (1 if jax.default_backend() == "cpu" else 4)
    batch_size = -(-batch_size // model.num_devices) * model.num_devices
    slots: Slots[tuple[str, int, Piece]] = Slots(model.hear, batch_size, model.piece_samples)
    going: dict[str, _File] = {}

    def taken(ready: Iterable[tuple[tuple[str, int, Piece], np.ndarray]]) -> Iterator[Heard | Failed]:
        for (owner, k, piece), states in ready:
            going[owner].take(k, piece, states)
            yield from finished(owner)

    def finished(owner: str) -> Iterator[Heard | Failed]:
        if going[owner].is_done:
            yield going.pop(owner).result(owner, model.sample_rate_hz)

    for name, number, piece in _decoded(model, files, workers, 2 * batch_size):
        file = going.setdefault(name, _File(pool, frames))
        if isinstance(piece, _End):
            file.end = piece
            yield from finished(name)
        else:
            yield from taken(slots.add(name, number, piece.wave, (name, number, piece)))
    yield from taken(slots.flush())


def check_counts(batch_size: int | None, workers: int) -> None:
    """Checks these arguments of `embed_files`, which raises only once results are asked for.

    Raises:
        UserError: one is below 1, or more than any machine can use.
    """
    for option, value in (("batch_size", batch_size), ("workers", workers)):
        if value is not None and not 1 <= value <= _MOST:
            raise UserError(f"{option} must be at least 1 and at most {_MOST}, found {value}")


class _File:
    """What has been heard of one file so far."""

    def __init__(self, pool: str, frames: bool) -> None:
        self.end: _End | None = None
        self._pool = pool
        self._keeps_frames = frames
        # By piece, since batches may come out of order: sum or maximum of its tokens, and how many.
        self._pooled: dict[int, tuple[np.ndarray, int]] = {}
        self._frames: dict[int, np.ndarray] = {}

    def take(self, number: int, piece: Piece, states: np.ndarray) -> None:
        kept = states if piece.keep is None else states[:, piece.keep]
        pooled = kept.max(axis=1) if self._pool == "max" else kept.sum(axis=1, dtype=np.float64)
        self._pooled[number] = pooled, kept.shape[1]
        if self._keeps_frames:
            self._frames[number] = np.array(kept)

    @property
    def is_done(self) -> bool:
        return self.end is not None and len(self._pooled) == self.end.num_pieces

    def result(self, name: str, sample_rate_hz: int) -> Heard | Failed:
        assert self.end is not None
        if self.end.reason is not None:
            return Failed(name, self.end.reason)
        numbers = range(self.end.num_pieces)
        pooled = np.stack([self._pooled[n][0] for n in numbers])
        if self._pool == "max":
            vectors = pooled.max(axis=0)
        else:
            vectors = pooled.sum(axis=0) / sum(self._pooled[n][1] for n in numbers)
        if not np.isfinite(vectors).all():
            return Failed(name, "its features are not finite; are its samples between about -1 and 1?")
        frames = np.concatenate([self._frames[n] for n in numbers], axis=1) if self._keeps_frames else None
        return Heard(name, vectors.astype(np.float32), frames, self.end.num_samples / sample_rate_hz)


def _decoded(
    model: Hearer, files: Sequence[tuple[str, Path]], workers: int, ahead: int
) -> Iterator[tuple[str, int, Piece | _End]]:
    """The pieces of all files, each file's in order, decoded by threads that are at most `ahead` in front."""
    ready: queue.Queue[tuple[str, int, Piece | _End] | None] = queue.Queue(maxsize=ahead)
    todo, lock, stop = iter(files), threading.Lock(), threading.Event()

    def put(item: tuple[str, int, Piece | _End] | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue
        raise _Stopped

    def work() -> None:
        while not stop.is_set():
            with lock:
                file = next(todo, None)
            try:
                if file is None:
                    return put(None)
                _decode_one(model, *file, put)
            except _Stopped:
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, workers))]
    for thread in threads:
        thread.start()
    try:
        ended = 0
        while ended < len(threads):
            item = ready.get()
            if item is None:
                ended += 1
            else:
                yield item
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _decode_one(
    model: Hearer, name: str, path: Path, put: Callable[[tuple[str, int, Piece | _End]], None]
) -> None:
    num_samples, number, reason = 0, 0, None

    def counted(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal num_samples
        for block in blocks:
            num_samples += len(block)
            yield block

    try:
        blocks = counted(stream_audio(path, sample_rate_hz=model.sample_rate_hz))
        for number, piece in zip(itertools.count(1), model.pieces(blocks), strict=False):
            put((name, number - 1, piece))
    except _Stopped:
        raise
    except UserError as error:
        reason = str(error)
    except Exception as error:  # a decoder's own failure must not end the other files
        reason = f"{path}: {type(error).__name__}: {error}"
    put((name, number, _End(number, num_samples, reason)))
