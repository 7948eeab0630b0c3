"""`toy_music` as a TFDS data set, written and read without tensorflow.

builder = ToyMusicBuilder(data_dir=folder, num_clips=1000)
builder.download_and_prepare()
source = builder.as_data_source("train")
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.data.toy_music import SPLITS, ToyMusicSource, to_pcm16

_TEXTS = ("kind", "key", "metre", "instrument", "style", "caption")


class ToyMusicBuilder(tfds.core.GeneratorBasedBuilder):
    """Splits train, val and test of `num_clips` clips.

    The wave is int16 at `sample_rate_hz`; a missing text is "", a missing pitch or tempo is -1. Chords and
    melody have the columns start, end (seconds), label. TFDS shuffles what it stores: know a clip by its id.

    Args:
        num_clips, seed, seconds: as for `ToyMusicSource`.
        **kwargs: what every TFDS builder takes, such as data_dir.
    """

    VERSION = tfds.core.Version("1.0.0")
    name = "toy_music"
    # TFDS would look for checksums beside this file, through a package that it does not declare.
    code_path = None

    def __init__(self, *, num_clips: int = 1024, seed: int = 0, seconds: float = 10.0, **kwargs: Any):
        self._corpus = partial(ToyMusicSource, num_clips, seed, seconds)
        # The name is part of the path: another corpus in the same data_dir is another data set.
        config = tfds.core.BuilderConfig(name=f"{num_clips}_clips_{seconds:g}_seconds_seed_{seed}")
        # The default format, tfrecord, cannot be written without tensorflow.
        super().__init__(config=config, **{"file_format": "array_record", **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        # Not features.Audio, whose constructor imports tensorflow.
        return tfds.core.DatasetInfo(
            builder=self,
            description="Music composed and synthesised by muq_jax.",
            features=features.FeaturesDict(
                {
                    "id": features.Text(),
                    "wave": features.Tensor(shape=(None,), dtype=np.int16),
                    "sample_rate_hz": np.int32,
                    "tempo_bpm": np.float32,
                    "pitch": np.int32,
                    "has_drums": np.bool_,
                    **{text: features.Text() for text in _TEXTS},
                    **{
                        times: features.Tensor(shape=(None,), dtype=np.float32)
                        for times in ("beats", "downbeats")
                    },
                    "instruments": features.Sequence(features.Text()),
                    "chords": features.Sequence(
                        {"start": np.float32, "end": np.float32, "label": features.Text()}
                    ),
                    "melody": features.Sequence({"start": np.float32, "end": np.float32, "label": np.int32}),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in dict.fromkeys(SPLITS)}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        source = self._corpus(split)
        for example in (source[i] for i in range(len(source))):
            labels = dict(example["labels"])
            for name in _TEXTS:
                labels[name] = labels[name] or ""
            for name in ("tempo_bpm", "pitch"):
                labels[name] = -1 if labels[name] is None else labels[name]
            for name in ("chords", "melody"):
                labels[name] = [
                    {"start": start, "end": end, "label": label} for start, end, label in labels[name]
                ]
            for name in ("beats", "downbeats"):
                labels[name] = np.array(labels[name], np.float32)
            yield (
                example["id"],
                {
                    "id": example["id"],
                    "wave": to_pcm16(example["wave"]),
                    "sample_rate_hz": SAMPLE_RATE_HZ,
                    **labels,
                },
            )
