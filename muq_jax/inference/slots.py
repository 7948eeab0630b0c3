"""Windows of many files through one compiled shape, with results that depend on the file alone.

A compiled program computes row r of its output from row r of its input by the same instructions whatever lies
in the other rows, but another row may be computed in another order. So each window has its row: that of its
file's name, and on from there. A file then gets the same bits whatever it shares its batches with, and also
when a run that was killed goes on with the files that were left.
"""

import collections
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np

Tag = TypeVar("Tag")


class Slots(Generic[Tag]):
    """Gathers waves by row and runs a function on full batches.

    Attributes:
        pending: waves that wait.
    """

    def __init__(self, run: Callable[[np.ndarray, np.ndarray], Any], rows: int, length: int) -> None:
        """Makes empty slots.

        Args:
            run: takes waves [rows, length] and their lengths [rows], returns an array [rows, ...].
            rows, length: of every batch.
        """
        self._run, self._rows, self._length = run, rows, length
        self._waiting: list[collections.deque[tuple[Tag, np.ndarray]]] = [
            collections.deque() for _ in range(rows)
        ]
        self.pending = 0

    def add(self, name: str, number: int, wave: np.ndarray, tag: Tag) -> Iterator[tuple[Tag, np.ndarray]]:
        """Adds window `number` of a file; yields what has become ready, each with its tag.

        A batch is run when every row has something, or when two batches' worth waits.
        """
        self._waiting[(zlib.crc32(name.encode(errors="surrogateescape")) + number) % self._rows].append(
            (tag, wave)
        )
        self.pending += 1
        while self.pending and (all(self._waiting) or self.pending >= 2 * self._rows):
            yield from self._batch()

    def flush(self) -> Iterator[tuple[Tag, np.ndarray]]:
        """Runs whatever waits."""
        while self.pending:
            yield from self._batch()

    def _batch(self) -> Iterator[tuple[Tag, np.ndarray]]:
        waves = np.zeros((self._rows, self._length), np.float32)
        lengths = np.zeros(self._rows, np.int32)
        tags: list[tuple[int, Tag]] = []
        for row, waiting in enumerate(self._waiting):
            if waiting:
                tag, wave = waiting.popleft()
                waves[row, : len(wave)], lengths[row] = wave, len(wave)
                tags.append((row, tag))
        self.pending -= len(tags)
        found = np.asarray(self._run(waves, lengths))
        for row, tag in tags:
            yield tag, found[row]
