"""The codes of a whole corpus, stored beside the run that learns to predict them."""

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.clips import crop_samples, train_source, valid_source
from muq_jax import parallel
from muq_jax.convert import rules
from muq_jax.data import labels as stored
from muq_jax.data.sources import Example, Source
from muq_jax.inference.labels import label_clips, make_encode
from muq_jax.models.hidden_rvq import HiddenRVQ
from muq_jax.train.watchdog import Watchdog

LABELS = "labels"
"""Their folder in a work directory, with a folder a split: train, valid."""

_log = logging.getLogger("muq_jax.experiments.labels")


def write_labels(config: ConfigDict, rvq: HiddenRVQ, mesh: Mesh, folder: Path) -> None:
    """Writes the codes of every clip that a run trains on or validates with; goes on where it was stopped.

    Every host makes the codes of its own part of the clips, on its own devices.

    Args:
        config: the run's.
        rvq: makes the codes, in windows of the run's crops.
        mesh: the run's.
        folder: where to.

    Raises:
        UserError: codes of something else lie there, or the disk is full.
    """
    if jax.process_count() > 1:
        # Hosts have different clips, so no step is common to all: each has a copy of the teacher.
        mesh = parallel.make_mesh(devices=jax.local_devices())
    token_samples = rvq.config.token_samples
    window_samples = crop_samples(config) // token_samples * token_samples
    # As many windows at a time as the run has crops, on fewer devices fewer.
    batch_size = config.data.batch_size // jax.process_count()
    encode = cache(lambda: make_encode(rvq.config, rvq.variables, mesh))  # not where nothing is left to do

    def label(examples: Iterable[Example]) -> Iterator[np.ndarray]:
        codes = label_clips(
            (example["wave"] for example in examples),
            encode(),
            batch_size=batch_size,
            window_samples=window_samples,
            token_samples=token_samples,
        )
        for number, clip in enumerate(codes):
            watchdog.doing("labelling", number)  # a file of them may take longer than the timeout
            yield clip

    made_from = {
        "hidden_rvq_sha256": rules.params_sha256(dict(rules.flatten(rvq.variables))),
        "layer": rvq.config.layer,
        "dtype": rvq.config.dtype,
        "token_samples": token_samples,
        "window_samples": window_samples,
    }
    sources = {"train": train_source(config), "valid": valid_source(config)}
    with Watchdog(config.train.timeout_seconds) as watchdog:
        for split, source in sources.items():
            if source is not None:
                stored.write_labels(
                    folder / split,
                    source,
                    label,
                    made_from,
                    host=(jax.process_index(), jax.process_count()),
                    num_threads=config.data.num_threads,
                    progress=_Progress(split, source),
                )


@dataclasses.dataclass
class _Progress:
    """Logs how many clips are labelled, and how long the rest will take."""

    split: str
    source: Source
    there: int = -1
    """Clips labelled by earlier calls; -1: not known yet."""
    made: int = 0
    began: float = 0.0

    def __call__(self, num_clips: int) -> None:
        if self.there < 0:
            self.there, self.began = num_clips, time.monotonic()
            return
        self.made += num_clips
        done, total = self.there + self.made, len(self.source) // jax.process_count()
        left = (time.monotonic() - self.began) / self.made * max(total - done, 0)
        _log.info("labels, %s: %d of %d clips, %.0f s left", self.split, done, total, left)
