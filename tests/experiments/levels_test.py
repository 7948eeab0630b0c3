"""Copies of tracks at one level."""

import json

import numpy as np
import pytest
import soundfile

from experiments import levels
from muq_jax.data.manifest import read_manifest


def rms_db(wave):
    return 20 * np.log10(np.sqrt(np.mean(np.square(wave))))


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for number, (split, loudness) in enumerate([("train", 0.5), ("test", 0.001), ("test", 0.3)]):
        soundfile.write(tmp_path / f"{number}.wav", loudness * rng.uniform(-1, 1, 30_000), 24_000, "FLOAT")
        rows.append({"path": f"{number}.wav", "id": f"t/{number}", "split": split, "caption": f"曲 {number}"})
    (tmp_path / "music.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "music.jsonl"


def test_tracks_of_a_split_have_one_level_and_keep_what_is_said(manifest, tmp_path, capsys):
    arguments = [str(manifest), str(tmp_path / "copy"), "--split", "test", "--level_db", "-20"]
    assert levels.main(arguments) == 0
    assert "2 tracks at -20 dB" in capsys.readouterr().out
    copies = read_manifest(tmp_path / "copy" / "manifest.jsonl")
    originals = [clip for clip in read_manifest(manifest) if clip.split == "test"]
    for copy, original in zip(copies, originals, strict=True):
        assert (copy.id, copy.split, copy.labels) == (original.id, original.split, original.labels)
        wave, before = (soundfile.read(clip.path)[0] for clip in (copy, original))
        assert rms_db(wave) == pytest.approx(-20, abs=0.01)
        np.testing.assert_allclose(wave / wave.max(), before / before.max(), atol=1e-4)
    assert levels.main(arguments) == 1
    assert "copy exists; give a new folder" in capsys.readouterr().err


def test_mistakes_are_named_before_anything_is_written(manifest, tmp_path, capsys):
    assert levels.main([str(manifest), str(tmp_path / "copy"), "--split", "valid"]) == 1
    assert "no clip of split 'valid'; found test, train" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()
