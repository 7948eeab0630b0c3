"""The clips that a configuration trains on and is judged by."""

from pathlib import Path

from ml_collections import ConfigDict

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.data.mixture import Mixture, parse_mixture
from muq_jax.data.sources import FileSource, Source, make_source
from muq_jax.data.splits import split_names

VALID_SPLITS = ("val", "valid", "validation")
READ_SPLITS = frozenset({"train", "test", *VALID_SPLITS})
"""Names of splits that training or an evaluation reads."""


def train_source(config: ConfigDict) -> Source:
    """Returns the training split of `data.source`, or all of it where it has no splits."""
    splits = split_names(config.data.source)
    return make_source(
        config.data.source, split="train" if splits else None, keep_channels=config.data.random_channel
    )


def valid_source(config: ConfigDict) -> Source | None:
    """Returns the validation clips: of `data.valid_source`, else of `data.source`; None where it has none."""
    spec = config.data.valid_source or config.data.source
    if isinstance(spec, str) and (mixture := parse_mixture(spec)):
        parts = [(corpus, weight, _valid_split(corpus)) for corpus, weight in mixture]
        if named := [part for part in parts if part[2]]:
            sources = [make_source(corpus, split=split) for corpus, _, split in named]
            return Mixture(sources, [weight for _, weight, _ in named])
    split = _valid_split(spec)
    if split is None and not config.data.valid_source:
        return None
    return make_source(spec, split=split)


def audio_paths(source: Source) -> set[Path]:
    """Returns the audio files that a source reads: none of shards and of what is made."""
    parts = source.sources if isinstance(source, Mixture) else [source]
    return {path for part in parts if isinstance(part, FileSource) for path in part.paths}


def _valid_split(spec: str) -> str | None:
    splits = split_names(spec)
    return next((split for split in VALID_SPLITS if split in splits), None)


def crop_samples(config: ConfigDict) -> int:
    """Returns the length of a crop, as the data is read."""
    return round(config.data.crop_seconds * SAMPLE_RATE_HZ)
