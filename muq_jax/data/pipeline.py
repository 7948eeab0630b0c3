"""From a source to batches, in an order that is a function of (seed, step) alone.

Row r of global batch k is example k * G + r of `source.seed(s).shuffle().repeat().random_map(crop)`, G rows a
batch; of a mixture, of the `mix` of such endless sources, with a seed each. Nothing in that depends on how
many hosts read it, each its own rows, nor on how many workers do the reading: batches are formed before they
are handed to workers. So a run resumes by starting at a step, on any topology, and the masks, noise and
dropout that are drawn by row fall on the same clips.
"""

import re
import weakref
from collections.abc import Iterator, Sequence
from typing import Literal, NotRequired, TypedDict

import grain
import numpy as np
from absl import flags

from muq_jax.data.labels import LabelledSource
from muq_jax.data.mixture import Mixture
from muq_jax.data.sources import Source
from muq_jax.data.texts import TextReader
from muq_jax.data.transforms import Augment, CentreCrop, Crop, RandomCrop, no_codes
from muq_jax.errors import UserError

Rows = Sequence[int]

_OPTIONAL: tuple[Literal["codes", "ids"], ...] = ("codes", "ids")
"""Arrays of a batch that only some sources have."""


class Batch(TypedDict):
    """This host's n rows of one global batch.

    Attributes:
        wave: float32 [n, crop_samples], zeros after each row's samples.
        num_samples: int32 [n].
        row: int32 [n], the row's number in the global batch.
        id: the n clips' ids; "" where `make_eval_batches` filled up its last batch.
        codes: int32 [n, T, Q] of a source that has them stored; -1 where there is no audio.
        ids: int32 [n, N], token ids of the texts, where these are read.
    """

    wave: np.ndarray
    num_samples: np.ndarray
    row: np.ndarray
    id: list[str]
    codes: NotRequired[np.ndarray]
    ids: NotRequired[np.ndarray]


class Batches(Iterator[Batch]):
    """An iterator over batches; `close` it, or use it in a `with`, to end its threads and processes."""

    def __init__(self, dataset: grain.MapDataset, *, num_workers: int, num_threads: int):
        # An element is a whole batch: one for each thread is enough, grain's 500 would fill memory.
        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
        batches = dataset.to_iter_dataset(options)
        if num_workers > 0:
            # grain reads an absl flag here and fails in any program that did not start by `absl.app.run`.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
        self._in_shared_memory = num_workers > 0
        # A program that ends without `close` would end in tracebacks: grain's iterators tidy up when they are
        # deleted, which is too late once the interpreter has begun to go.
        self._iterator = [iter(batches)]
        self._finalizer = weakref.finalize(self, _close, self._iterator)

    def __next__(self) -> Batch:
        if not self._iterator:
            raise StopIteration
        try:
            batch = next(self._iterator[0])
        except RuntimeError as error:
            died = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
            if not died:
                raise
            raise UserError(
                f"a data worker of this host has died with exit code {died.group(1)}. The system kills one "
                "(-9) when memory runs out: set data.num_workers or data.num_threads lower then, and run the "
                "same command again."
            ) from None
        if self._in_shared_memory:
            # Such arrays, too, complain if they are still there at the end.
            for name in ("wave", "num_samples", "row"):
                batch[name] = np.array(batch[name])
            for name in _OPTIONAL:
                if name in batch:
                    batch[name] = np.array(batch[name])
        return batch

    def close(self) -> None:
        self._finalizer()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def make_batches(
    source: Source,
    *,
    batch_size: int,
    crop_samples: int,
    token_samples: int = 1,
    texts: TextReader | None = None,
    seed: int,
    start_step: int = 0,
    num_epochs: int | None = None,
    rows: Rows | None = None,
    num_workers: int = 0,
    num_threads: int = 4,
    augment: Augment | None = None,
    shuffle: bool = True,
) -> Batches:
    """Returns training batches: random crops, every clip once an epoch, in another order every epoch.

    Args:
        source: random access to examples, see `data.sources`. Of a `Mixture`, every corpus is read in its own
            order, every clip of it once before any comes again, and they alternate evenly: the first n
            examples hold n times a corpus's share of it, to an example or two and 1 % (weights are rounded).
        batch_size: rows of the global batch, over all hosts.
        crop_samples: length of every row at 24 kHz; shorter clips are zero-padded.
        token_samples: crops start on multiples of it: with stored codes, the samples of a token.
        texts: draws a text for every crop from its clip's labels; `texts.check_texts` tells before whether
            all clips have one.
        seed: from 0 to 2**32 - 1; decides order, crops and augmentation.
        start_step: the first batch to give, as if those before had been read.
        num_epochs: passes over the source; a last, incomplete batch is dropped. None never ends.
        rows: the rows of every global batch that this host reads, in ascending order; None reads all.
        num_workers: processes that make batches; with 0 it is threads of this process, which is as fast on
            few cores and starts at once. A script that uses processes needs the `if __name__ == "__main__"`
            guard.
        num_threads: batches made at a time by each process; so many are held in memory, too.
        augment: what else to draw for each crop.
        shuffle: False takes the source in its own order.

    Raises:
        UserError: the source is empty, or smaller than one batch while `num_epochs` is given.
    """
    if isinstance(source, Mixture):
        if num_epochs is not None:
            raise ValueError("a mixture has no epochs: each of its corpora comes round in its own time")
        # A seed each: corpora of one size would come in one order.
        seeds = [np.random.SeedSequence([seed, i]).generate_state(1)[0] for i in range(len(source.sources))]
        parts = [
            _in_order(part, int(own), shuffle, None) for part, own in zip(source.sources, seeds, strict=True)
        ]
        dataset = grain.MapDataset.mix(parts, source.weights).seed(seed)
    else:
        dataset = _in_order(source, seed, shuffle, num_epochs)
    dataset = dataset.random_map(RandomCrop(crop_samples, augment or Augment(), token_samples, texts))
    if len(dataset) < batch_size:
        raise UserError(
            f"{source}: {len(dataset)} examples in {num_epochs} epochs do not fill one batch of {batch_size}"
        )
    batches = _HostRows(dataset, batch_size, rows, num_batches=len(dataset) // batch_size)
    return Batches(batches[start_step:], num_workers=num_workers, num_threads=num_threads)


def make_eval_batches(
    source: Source,
    *,
    batch_size: int,
    crop_samples: int,
    token_samples: int = 1,
    texts: TextReader | None = None,
    rows: Rows | None = None,
    num_workers: int = 0,
    num_threads: int = 4,
) -> Batches:
    """Returns evaluation batches: the middle of every clip, once, in the source's order; nothing is drawn.

    The last batch is filled up with rows of no samples (zero wave, `num_samples` 0, id ""), so that all
    batches have one shape; weigh rows by `num_samples > 0`. Such a row's `ids` are padding alone; a clip's
    text is read without chance. Arguments and errors as in `make_batches`.
    """
    dataset = grain.MapDataset.source(_not_empty(source)).map(CentreCrop(crop_samples, token_samples, texts))
    filler: Crop = {"id": "", "wave": np.zeros(crop_samples, np.float32), "num_samples": 0}
    if isinstance(source, LabelledSource):
        filler["codes"] = no_codes(crop_samples // token_samples, source.num_books)
    if texts is not None:
        filler["ids"] = texts.nothing()
    batches = _HostRows(dataset, batch_size, rows, num_batches=-(-len(dataset) // batch_size), filler=filler)
    return Batches(batches, num_workers=num_workers, num_threads=num_threads)


def _in_order(source: Source, seed: int, shuffle: bool, num_epochs: int | None) -> grain.MapDataset:
    dataset = grain.MapDataset.source(_not_empty(source)).seed(seed)
    return (dataset.shuffle() if shuffle else dataset).repeat(num_epochs)


class _HostRows(grain.MapDataset):
    """Some rows of every global batch; element k is this host's part of batch k.

    It comes after `random_map`, whose random numbers are keyed by the index it sees: the global one here,
    so that no two hosts draw the same.
    """

    def __init__(
        self,
        parent: grain.MapDataset,
        batch_size: int,
        rows: Rows | None,
        num_batches: int,
        filler: Crop | None = None,
    ):
        super().__init__(parent)
        rows = range(batch_size) if rows is None else rows
        if not rows or sorted({*rows} & {*range(batch_size)}) != list(rows):
            raise ValueError(f"rows {rows} are not rows, in ascending order, of a batch of {batch_size}")
        self._batch_size, self._rows = batch_size, tuple(rows)
        self._num_batches, self._filler = num_batches, filler

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        first = index * self._batch_size
        end = first + self._batch_size if self._filler is None else len(self._parent)
        crops = [self._parent[first + r] if first + r < end else self._filler for r in self._rows]
        return _collate(crops, self._rows)


def _close(iterator: list[grain.DatasetIterator]) -> None:
    while iterator:
        iterator.pop().close()


def _collate(crops: Sequence[Crop], rows: Rows) -> Batch:
    batch: Batch = {
        "wave": np.stack([crop["wave"] for crop in crops]),
        "num_samples": np.array([crop["num_samples"] for crop in crops], np.int32),
        "row": np.array(rows, np.int32),
        "id": [crop["id"] for crop in crops],
    }
    for name in _OPTIONAL:
        if name in crops[0]:
            batch[name] = np.stack([crop[name] for crop in crops])
    return batch


def _not_empty(source: Source) -> Source:
    if len(source) == 0:
        raise UserError(f"{source}: no example in it")
    return source
