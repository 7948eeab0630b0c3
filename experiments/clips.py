"""The clips that a configuration trains on and is judged by."""

from ml_collections import ConfigDict

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.data.sources import Source, make_source
from muq_jax.data.splits import split_names

VALID_SPLITS = ("val", "valid", "validation")


def train_source(config: ConfigDict) -> Source:
    """Returns the training split of `data.source`, or all of it where it has no splits."""
    splits = split_names(config.data.source)
    return make_source(
        config.data.source, split="train" if splits else None, keep_channels=config.data.random_channel
    )


def valid_source(config: ConfigDict) -> Source | None:
    """Returns the validation clips: of `data.valid_source`, else of `data.source`; None where it has none."""
    spec = config.data.valid_source or config.data.source
    splits = split_names(spec)
    split = next((split for split in VALID_SPLITS if split in splits), None)
    if split is None and not config.data.valid_source:
        return None
    return make_source(spec, split=split)


def crop_samples(config: ConfigDict) -> int:
    """Returns the length of a crop, as the data is read."""
    return round(config.data.crop_seconds * SAMPLE_RATE_HZ)
