"""Examples out of tensorflow_datasets: any data set with a waveform feature, read without tensorflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.audio.decode import SAMPLE_RATE_HZ, resample
from muq_jax.data.sources import Example
from muq_jax.errors import UserError

WAVE_FEATURES = ("audio", "wave", "waveform")
RATE_FEATURES = ("sample_rate_hz", "sample_rate", "sampling_rate")
ID_FEATURES = ("id", "tfds_id", "filename")


class TfdsSource:
    """Wraps what `tfds.data_source` or `builder.as_data_source(split)` gives, or a sequence of such dicts.

    Args:
        data_source: random access to dicts with a waveform under one of `WAVE_FEATURES`: float in [-1, 1], or
            integers of 16 bits; [S], or [S, channels], whose mean is taken.
        sample_rate_hz: the waveforms' rate, where neither the examples nor the Audio feature say.
    """

    def __init__(self, data_source: Any, *, sample_rate_hz: int | None = None):
        if not (hasattr(data_source, "__getitem__") and hasattr(data_source, "__len__")):
            raise UserError(f"source {data_source!r}: expected a path, a name or a tfds data source")
        if len(data_source) == 0:
            raise UserError(f"{data_source!r}: no example in it")
        features = sorted(data_source[0])
        self._data_source = data_source
        self._wave = _first(WAVE_FEATURES, features)
        if self._wave is None:
            raise UserError(
                f"tfds source: no waveform feature; found {', '.join(features)}, "
                f"expected one of {', '.join(WAVE_FEATURES)}"
            )
        self._id = _first(ID_FEATURES, features)
        self._rate = _first(RATE_FEATURES, features)
        info = getattr(data_source, "dataset_info", None)
        stated = None if info is None else getattr(info.features[self._wave], "sample_rate", None)
        self._sample_rate_hz = sample_rate_hz or stated
        if self._rate is None and self._sample_rate_hz is None:
            raise UserError(
                f"tfds source: nothing says the sample rate of {self._wave!r}; expected a feature "
                f"{RATE_FEATURES[0]!r}, or the argument sample_rate_hz of TfdsSource"
            )

    def __len__(self) -> int:
        return len(self._data_source)

    def __getitem__(self, index: int) -> Example:
        raw = self._data_source[index]
        id = str(index) if self._id is None else _plain(raw[self._id])
        rate: Any = raw[self._rate] if self._rate else self._sample_rate_hz
        wave = _full_scale_one(np.asarray(raw[self._wave]), id)
        if wave.ndim == 2:
            wave = wave.mean(axis=-1)
        skip = {self._wave, self._id, self._rate}
        return {
            "id": str(id),
            "wave": resample(wave, int(rate), SAMPLE_RATE_HZ),
            "labels": {name: _plain(value) for name, value in raw.items() if name not in skip},
        }

    def __repr__(self) -> str:
        return f"TfdsSource({len(self)} examples)"


def open_tfds(name: str, *, split: str | None = None) -> TfdsSource:
    """Returns the source for `NAME` or `NAME:SPLIT`.

    The data set was prepared beforehand, in TFDS_DATA_DIR or ~/tensorflow_datasets. NAME may be the folder
    of a prepared data set. A `split` given as argument holds if NAME gives none.

    Raises:
        UserError: there is no such data set here, or reading it needs tensorflow.
    """
    import tensorflow_datasets as tfds

    name, _, own_split = name.partition(":")
    split = own_split or split or "train"
    try:
        if "/" in name and Path(name, "features.json").is_file():
            return TfdsSource(tfds.builder_from_directory(name).as_data_source(split=split))
        return TfdsSource(tfds.data_source(name, split=split, download=False))
    except ModuleNotFoundError as error:
        raise UserError(
            f"tfds:{name}: reading it needs the package {error.name or 'tensorflow'} "
            "(tfds.features.Audio needs tensorflow); install it, or prepare its audio files instead"
        ) from error
    except (tfds.core.DatasetNotFoundError, FileNotFoundError, ValueError, AssertionError) as error:
        raise UserError(f"tfds:{name}:{split}: cannot be opened ({str(error).splitlines()[0]})") from error


def _first(names: tuple[str, ...], features: list[str]) -> str | None:
    return next((name for name in names if name in features), None)


def _full_scale_one(wave: np.ndarray, id: Any) -> np.ndarray:
    """Returns float32 samples with full scale 1. tfds's Audio gives 16-bit samples as int64."""
    if np.issubdtype(wave.dtype, np.floating):
        return wave.astype(np.float32)
    if not np.issubdtype(wave.dtype, np.signedinteger) or np.abs(wave).max(initial=0) > 32768:
        raise UserError(
            f"tfds example {id!r}: {wave.dtype} samples beyond 16 bits; expected float or 16-bit integers"
        )
    return wave.astype(np.float32) / np.float32(32768)


def _plain(value: Any) -> Any:
    """Returns text for bytes, which is what tfds gives for text, also in lists; everything else as it is."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:  # tfds's texts
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value
