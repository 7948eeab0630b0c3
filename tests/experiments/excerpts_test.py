import numpy as np
import pytest

from experiments import excerpts
from muq_jax.data.manifest import Clip


def test_excerpts_share_nothing_and_have_the_level_asked_for(monkeypatch):
    monkeypatch.setattr(excerpts, "EXCERPT_SECONDS", 0.5)
    monkeypatch.setattr(excerpts, "GAP_SECONDS", 0.25)
    wave = np.random.default_rng(0).uniform(-0.1, 0.1, 48_000).astype(np.float32)
    first, second, third = excerpts.cut(wave)
    np.testing.assert_array_equal(first, wave[:12_000])
    np.testing.assert_array_equal(second, wave[18_000:30_000])
    np.testing.assert_array_equal(third, wave[36_000:])
    assert [len(piece) for piece in excerpts.cut(wave[:47_999])] == [12_000, 12_000]
    assert [len(piece) for piece in excerpts.cut(wave[:300])] == [300]
    for piece in excerpts.cut(wave, level_db=-20.0):
        assert np.sqrt(np.mean(piece**2)) == pytest.approx(0.1, rel=1e-4)
    assert not excerpts.cut(np.zeros(12_000, np.float32), level_db=-20.0)[0].any()


def test_a_recording_is_taken_once_at_its_longest(tmp_path):
    clips = [
        Clip(name, tmp_path, labels={"description": name[0], "duration_s": seconds})
        for name, seconds in (("a_cut", 5.0), ("a_first", 9.0), ("a_second", 9.0), ("b", 1.0))
    ]
    assert {clip.id for clip in excerpts.one_of_each_recording(clips)} == {"a_first", "b"}


def test_fields_come_from_the_manifests(tmp_path):
    labels = {"source": "asap", "genre": "classical piano", "programs": [2, 0, 2]}
    pieces = {
        "corpus/a/b": Clip("a/b", tmp_path, split="val", labels=labels),
        "clips/c": Clip("c", tmp_path),
    }
    found = excerpts.fields_of(["clips/c/000.wav", "corpus/a/b/001.wav"], pieces)
    assert {name: values.tolist() for name, values in found.items()} == {
        "piece": ["clips/c", "corpus/a/b"],
        "split": [excerpts.CLIPS, "val"],
        "source": ["None", "asap"],
        "kind": ["c", "classical piano"],
        "instruments": ["None []", "asap [0, 2]"],
    }
