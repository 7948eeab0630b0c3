import json

import numpy as np

from muq_jax.audio.mel_numpy import log_mel_numpy
from muq_jax.data.statistics import MelMoments, load_statistics, mel_statistics


class Noises(list):
    """A source of clips of several lengths and levels."""

    def __init__(self):
        draw = np.random.default_rng(0)
        waves = [draw.normal(0, 10.0**-i, 2000 + 777 * i).astype(np.float32) for i in range(4)]
        super().__init__({"id": str(i), "wave": wave} for i, wave in enumerate(waves))


def test_merged_moments_are_those_of_all_values_together():
    mels = np.concatenate([log_mel_numpy(example["wave"]).ravel() for example in Noises()]).astype(np.float64)
    stats = mel_statistics(Noises())
    assert stats["count"] == mels.size
    np.testing.assert_allclose([stats["mean"], stats["std"]], [mels.mean(), mels.std()], rtol=1e-9)


def test_a_large_source_is_sampled_evenly():
    first_and_last = [Noises()[0], Noises()[3]]
    assert mel_statistics(Noises(), max_clips=2) == mel_statistics(first_and_last)


def test_nothing_merges_with_nothing():
    assert MelMoments().merge(MelMoments()) == MelMoments()
    one = MelMoments.of(Noises()[0]["wave"])
    assert MelMoments().merge(one) == one.merge(MelMoments()) == one


def test_channels_are_averaged_and_short_clips_padded():
    wave = Noises()[0]["wave"]
    stereo = [{"id": "a", "wave": np.stack([wave + 0.5, wave - 0.5])}]
    np.testing.assert_allclose(
        mel_statistics(stereo)["mean"], mel_statistics([{"id": "a", "wave": wave}])["mean"], rtol=1e-4
    )
    assert MelMoments.of(wave[:300]).num_values == 1025 // 240 * 128


def test_statistics_are_found_beside_shards_only(tmp_path):
    assert load_statistics(tmp_path) is None
    (tmp_path / "stats.json").write_text(json.dumps({"loudness": -14}))
    assert load_statistics(tmp_path) is None
    (tmp_path / "stats.json").write_text(json.dumps({"mean": 1.0, "std": 2.0, "count": 3, "hours": 4}))
    assert load_statistics(tmp_path) is None
    for name in ("manifest.jsonl", "shard-00000.array_record"):
        (tmp_path / name).touch()
    assert load_statistics(tmp_path) == {"mean": 1.0, "std": 2.0, "count": 3}
