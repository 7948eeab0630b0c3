"""Written and read by TFDS, in a process without tensorflow."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from muq_jax.data.toy_music import ToyMusicSource, to_pcm16
from muq_jax.data.toy_music_tfds import ToyMusicBuilder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    ToyMusicBuilder(data_dir=folder, num_clips=20, seed=1, seconds=0.5).download_and_prepare()
    return folder


def text(value):
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_clip_comes_back(folder, split):
    expected = ToyMusicSource(20, seed=1, seconds=0.5, split=split)
    read = tfds.data_source("toy_music/20_clips_0.5_seconds_seed_1", split=split, data_dir=folder)
    records = {text(record["id"]): record for record in (read[i] for i in range(len(read)))}
    assert len(records) == len(expected)
    for example in (expected[i] for i in range(len(expected))):
        record, labels = records[example["id"]], example["labels"]
        np.testing.assert_array_equal(record["wave"], to_pcm16(example["wave"]))
        assert record["wave"].dtype == np.int16 and record["sample_rate_hz"] == 24_000
        for name in ("kind", "key", "metre", "instrument", "style", "caption"):
            assert text(record[name]) == (labels[name] or "")
        for name in ("tempo_bpm", "pitch"):
            assert record[name] == (-1 if labels[name] is None else labels[name])
        assert bool(record["has_drums"]) == labels["has_drums"]
        assert [text(name) for name in record["instruments"]] == labels["instruments"]
        for name in ("beats", "downbeats"):
            np.testing.assert_allclose(record[name], labels[name], atol=1e-6)
        for name in ("chords", "melody"):
            columns = record[name]
            rows = zip(columns["start"], columns["end"], map(text, columns["label"]), strict=True)
            assert [
                [pytest.approx(start), pytest.approx(end), label] for start, end, label in labels[name]
            ] == [list(row) for row in rows]
    assert "tensorflow" not in sys.modules


def test_corpora_do_not_mix(folder):
    other = ToyMusicBuilder(data_dir=folder, num_clips=20, seed=2, seconds=0.5)
    assert not other.data_path.exists()
