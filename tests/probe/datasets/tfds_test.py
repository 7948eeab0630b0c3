"""GTZAN and NSynth out of TFDS: small data sets with their features, written to disk."""

import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets import tfds
from muq_jax.probe.datasets.tfds import (
    is_tfds,
    read_tfds_gtzan,
    read_tfds_nsynth_instrument,
    read_tfds_nsynth_pitch,
)
from tests.probe.marble_folders_more import make_tfds_gtzan, make_tfds_nsynth, tone


@pytest.fixture(scope="module")
def gtzan(tmp_path_factory):
    return make_tfds_gtzan(tmp_path_factory.mktemp("gtzan"))


@pytest.fixture(scope="module")
def nsynth(tmp_path_factory):
    return make_tfds_nsynth(tmp_path_factory.mktemp("nsynth"))


def counts(dataset):
    return [sum(item.split == split for item in dataset.items) for split in ("train", "val", "test")]


def test_whose_names_they_are():
    assert is_tfds("tfds:gtzan@lists") and not is_tfds("data/tfds:gtzan")


def test_gtzan(gtzan):
    dataset = read_tfds_gtzan(gtzan)
    assert counts(dataset) == [9, 3, 3] and len(dataset.classes) == 10
    assert dataset.left_out == {"in none of the lists": 3}
    assert "9/3/3" in dataset.problems[0] and "442/197/290" in dataset.problems[0]
    # TFDS shuffles what it stores; the order is the lists'.
    assert [item.id for item in dataset.items[:4]] == [
        "blues.00000",
        "blues.00001",
        "blues.00002",
        "jazz.00000",
    ]
    for item in dataset.items:
        assert item.id.startswith(item.label) and item.group is None
    wave = dataset.items[3].audio()
    assert wave.dtype == np.float32 and wave.shape == (24_000,)
    expected = tone([60], 1.0, 24_000) * 20000 / 32768
    assert np.corrcoef(wave, expected)[0, 1] > 0.99


def test_gtzans_clips_that_are_not_there(gtzan, tmp_path):
    name, _, lists = gtzan.rpartition("@")
    for split in ("train", "valid", "test"):
        text = open(f"{lists}/{split}_filtered.txt").read()
        (tmp_path / f"{split}_filtered.txt").write_text(text + f"metal/metal.0000{len(split)}.wav\n")
    dataset = read_tfds_gtzan(f"{name}@{tmp_path}")
    assert counts(dataset) == [9, 3, 3] and dataset.left_out["audio missing"] == 2
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}_filtered.txt").write_text("metal/metal.00001.wav\n")
    with pytest.raises(UserError, match="none of the 1 clips of the lists is in it"):
        read_tfds_gtzan(f"{name}@{tmp_path}")


def test_the_clip_that_is_damaged_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "BAD_CLIP", "rock.00000")
    dataset = read_tfds_gtzan(make_tfds_gtzan(tmp_path))
    assert counts(dataset) == [8, 3, 3]
    assert dataset.left_out == {"damaged in other copies": 1, "in none of the lists": 3}


def test_gtzan_without_lists(gtzan, tmp_path):
    with pytest.raises(UserError, match=r"has no splits; expected tfds:gtzan@LISTS.*train_filtered.txt"):
        read_tfds_gtzan("tfds:gtzan")
    with pytest.raises(UserError, match=r"found none of train_filtered.txt.*coreyker/dnn-mgr"):
        read_tfds_gtzan(f"{gtzan.rpartition('@')[0]}@{tmp_path}")
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}_filtered.txt").write_text("polka/polka.00001.wav\n")
    with pytest.raises(
        UserError, match=r"train_filtered.txt: found 'polka/polka.00001.wav'; expected a file"
    ):
        read_tfds_gtzan(f"{gtzan.rpartition('@')[0]}@{tmp_path}")


def test_what_is_no_gtzan(gtzan, nsynth):
    with pytest.raises(UserError, match=r"expected those of TFDS's gtzan: audio/filename and label"):
        read_tfds_gtzan(f"{nsynth}@{gtzan.rpartition('@')[2]}")


def test_nsynth(nsynth):
    pitch, family = read_tfds_nsynth_pitch(nsynth), read_tfds_nsynth_instrument(nsynth)
    assert counts(pitch) == counts(family) == [9, 3, 3]
    assert len(pitch.classes) == 128 and len(family.classes) == 11 and not pitch.left_out
    assert {item.label for item in pitch.items} == {"48", "60", "72"}
    assert {item.label for item in family.items} == {"bass", "brass", "flute"}
    by_id = {item.id: item for item in pitch.items}
    assert by_id["nsynth-train/train-note4"].label == "60" and by_id["nsynth-train/train-note4"].group == "14"
    assert by_id["nsynth-valid/valid-note1"].split == "val"
    # 20 to 22 are in valid, 30 to 32 in test; 10 to 18 in train.
    assert "289,205/12,678/4,096" in pitch.problems[0] and len(pitch.problems) == 1
    assert by_id["nsynth-test/test-note0"].audio().shape == (24_000,)


def test_what_is_no_nsynth(gtzan):
    with pytest.raises(UserError, match=r"example 0 of train .*expected those of TFDS's nsynth: pitch"):
        read_tfds_nsynth_pitch(gtzan.rpartition("@")[0])


def test_what_is_not_prepared(tmp_path, monkeypatch, gtzan):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    lists = gtzan.rpartition("@")[2]
    with pytest.raises(UserError, match="tfds:no_such_set"):
        read_tfds_gtzan(f"tfds:no_such_set@{lists}")
