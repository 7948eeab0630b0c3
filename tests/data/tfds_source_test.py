"""tfds data sets with a waveform feature, written and read without tensorflow."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from muq_jax.data.pipeline import make_batches
from muq_jax.data.sources import make_source
from muq_jax.data.tfds_source import TfdsSource
from muq_jax.errors import UserError

ROOT = Path(__file__).parents[2]


class Tones(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    # Else tfds looks for checksums beside this file, through a package that it does not declare.
    code_path = None

    def _info(self):
        features = {
            "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16),
            "sample_rate": np.int32,
            "id": tfds.features.Text(),
            "pitch": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples(8), "test": self._generate_examples(3)}

    def _generate_examples(self, n):
        for i in range(n):
            rate = 24000 if i % 2 else 12000
            wave = 8192 * np.sin(2 * np.pi * 300 * np.arange(rate) / rate)
            yield i, {"audio": wave.astype(np.int16), "sample_rate": rate, "id": f"tone{i}", "pitch": i}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Tones(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_a_builders_data_source(data_dir):
    builder = Tones(data_dir=data_dir, file_format="array_record")
    source = make_source(builder.as_data_source("train"))
    assert sorted(source[i]["id"] for i in range(len(source))) == [f"tone{i}" for i in range(8)]
    expected = 0.25 * np.sin(2 * np.pi * 300 * np.arange(24000) / 24000)
    for i in range(8):
        assert source[i]["wave"].dtype == np.float32
        assert set(source[i]["labels"]) == {"pitch"}
        np.testing.assert_allclose(source[i]["wave"][200:-200], expected[200:-200], atol=1e-4)
    with make_batches(source, batch_size=8, crop_samples=2400, seed=0) as batches:
        assert sorted(next(batches)["id"]) == [f"tone{i}" for i in range(8)]


@pytest.mark.parametrize(
    ("suffix", "split", "size"),
    [("", None, 8), ("", "test", 3), (":test", None, 3), (":train[:50%]", "test", 4)],
)
def test_by_name_and_by_folder(data_dir, monkeypatch, suffix, split, size):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    folder = data_dir / "tones/1.0.0"
    assert len(make_source(f"tfds:{folder}{suffix}", split=split)) == size


def test_a_split_that_is_not_there(data_dir):
    with pytest.raises(UserError, match="valid"):
        make_source(f"tfds:{data_dir / 'tones/1.0.0'}:valid")


@pytest.mark.parametrize("feature", ["audio", "wave", "waveform"])
@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.float32, np.float64])
def test_features_and_types(feature, dtype):
    wave = np.array([0, 0.5, -0.25])
    stored = (wave * 32768).astype(dtype) if np.issubdtype(dtype, np.integer) else wave.astype(dtype)
    source = TfdsSource([{feature: stored, "label": b"x"}], sample_rate_hz=24000)
    np.testing.assert_array_equal(source[0]["wave"], wave.astype(np.float32))
    assert (source[0]["id"], source[0]["labels"]) == ("0", {"label": "x"})


@pytest.mark.parametrize("tags", [[b"rock", "声".encode()], np.array([b"rock", "声".encode()], object)])
def test_texts_in_lists(tags):
    source = TfdsSource([{"audio": np.zeros(4), "sample_rate": 24000, "tags": tags, "beats": np.ones(2)}])
    labels = source[0]["labels"]
    assert labels["tags"] == ["rock", "声"]
    none = TfdsSource([{"audio": np.zeros(4), "sample_rate": 24000, "tags": np.array([], object)}])
    assert none[0]["labels"] == {"tags": []}
    np.testing.assert_array_equal(labels["beats"], [1, 1])


def test_channels_are_averaged():
    source = TfdsSource([{"audio": np.array([[0.0, 1.0], [0.5, 0.5]]), "sample_rate_hz": 24000}])
    np.testing.assert_array_equal(source[0]["wave"], [0.5, 0.5])


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no example"),
        (7, "expected a path"),
        ([{"image": 1, "label": 2}], "no waveform feature; found image, label"),
        ([{"audio": np.zeros(4, np.float32)}], "sample rate"),
    ],
)
def test_what_is_no_audio(examples, message):
    with pytest.raises(UserError, match=message):
        make_source(examples)


def test_integers_beyond_sixteen_bits():
    source = TfdsSource([{"audio": np.array([0, 1 << 20]), "id": b"loud", "sample_rate": 24000}])
    with pytest.raises(UserError, match=r"'loud'.*16 bits"):
        source[0]


def test_no_tensorflow(data_dir):
    program = (
        "import sys\n"
        "from muq_jax.data.sources import make_source\n"
        "print(len(make_source(sys.argv[1])[0]['wave']), 'tensorflow' in sys.modules)"
    )
    folder = data_dir / "tones/1.0.0"
    command = [sys.executable, "-c", program, f"tfds:{folder}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "24000 False\n", result.stderr
