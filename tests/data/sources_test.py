"""Every kind of source gives the same examples, and feeds batches."""

import json
import pickle

import numpy as np
import pytest
import soundfile

from muq_jax.data.pipeline import make_batches
from muq_jax.data.prepare import prepare
from muq_jax.data.sources import FileSource, make_source
from muq_jax.errors import UserError


@pytest.fixture
def music(tmp_path):
    """Clips 0 to 5, a second of 100 * (i + 1) Hz; the odd ones are stereo, silent on the right, at 48 kHz."""
    folder = tmp_path / "music"
    folder.mkdir()
    rows = []
    for i in range(6):
        rate = 48000 if i % 2 else 24000
        wave = 0.5 * np.sin(2 * np.pi * 100 * (i + 1) * np.arange(rate) / rate)
        soundfile.write(folder / f"{i}.wav", np.stack([wave, 0 * wave], 1) if i % 2 else wave, rate)
        rows.append(
            {"file": f"music/{i}.wav", "id": str(i), "split": "test" if i == 5 else "train", "number": i}
        )
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(tmp_path / "m.jsonl", tmp_path / "shards")
    return tmp_path


def specs(music):
    return [music / "music", str(music / "m.jsonl"), music / "shards"]


def test_all_kinds_hold_the_same_clips(music):
    folder, manifest, shards = map(make_source, specs(music))
    assert len(folder) == len(manifest) == len(shards) == 6
    for i in range(6):
        assert folder[i]["id"] == manifest[i]["id"] == shards[i]["id"] == str(i)
        assert folder[i]["wave"].dtype == shards[i]["wave"].dtype == np.float32
        assert folder[i]["wave"].shape == (24000,)
        np.testing.assert_array_equal(folder[i]["wave"], manifest[i]["wave"])
        np.testing.assert_allclose(folder[i]["wave"], shards[i]["wave"], atol=2**-15)
    assert manifest[3]["labels"] == {"number": 3}


def test_all_kinds_feed_the_same_batches(music):
    batches = []
    for spec in specs(music):
        with make_batches(make_source(spec), batch_size=4, crop_samples=6000, seed=5) as stream:
            batches.append([next(stream) for _ in range(3)])
    for other in batches[1:]:
        for a, b in zip(batches[0], other, strict=True):
            assert a["id"] == b["id"]
            np.testing.assert_allclose(a["wave"], b["wave"], atol=2**-15)


def test_splits(music):
    _, *with_splits = specs(music)
    for spec in with_splits:
        assert [example["id"] for example in map(make_source(spec, split="test").__getitem__, range(1))] == [
            "5"
        ]
        assert len(make_source(spec, split="train")) == 5
        with pytest.raises(UserError, match="no clip of split 'val'; found test, train"):
            make_source(spec, split="val")
    with pytest.raises(UserError, match="no splits at all"):
        make_source(music / "music", split="train")


def test_channels_are_kept_on_request(music):
    source = make_source(music / "music", keep_channels=True)
    assert source[0]["wave"].shape == (1, 24000) and source[1]["wave"].shape == (2, 24000)
    np.testing.assert_allclose(source[1]["wave"].mean(0), make_source(music / "music")[1]["wave"], atol=1e-6)
    with pytest.raises(UserError, match="shards hold one channel"):
        make_source(music / "shards", keep_channels=True)
    for spec, who in (
        ("toy_music:8", "toy_music:8: toy_music gives"),
        ("tfds:nsynth", "tfds:nsynth: tfds gives"),
        ([{"audio": np.zeros(8, np.float32), "sample_rate": 24000}], "a tfds data source gives"),
    ):
        with pytest.raises(UserError, match=f"^{who} one channel; random_channel needs audio files"):
            make_source(spec, keep_channels=True)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_sources_go_to_other_processes(music, kind):
    source = make_source(specs(music)[kind])
    size = len(pickle.dumps(source))
    wave = source[2]["wave"]
    assert len(pickle.dumps(source)) == size, "what was decoded should stay behind"
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[2]["wave"], wave)


def test_files_are_decoded_once_while_there_is_room(music, monkeypatch):
    from muq_jax.data import sources

    decoded = []

    def load_audio(path, **options):
        decoded.append(path.stem)
        return np.zeros(24000, np.float32)

    monkeypatch.setattr(sources, "load_audio", load_audio)
    monkeypatch.setattr(sources, "_KEPT_BYTES", 4 * 24000 * 4)
    source = make_source(music / "music")
    for _ in range(3):
        for i in range(6):
            assert source[i]["id"] == str(i)
    assert decoded == ["0", "1", "2", "3", "4", "5", "4", "5", "4", "5"]


def test_a_file_that_breaks_while_training(music):
    source = make_source(music / "music")
    (music / "music/2.wav").write_bytes(b"RIFF and no more")
    with pytest.raises(UserError, match=r"2\.wav.*`python -m muq_jax prepare` skips such files"):
        source[2]


def test_missing_files_are_counted_at_once(music):
    (music / "music/2.wav").unlink()
    (music / "music/4.wav").unlink()
    with pytest.raises(UserError, match=r"2\.wav: no such audio file \(clip '2'\); 2 of 6"):
        make_source(music / "m.jsonl")


@pytest.mark.parametrize(
    "spec", ["nowhere", "toy_music:", "toy_music:many", "toy_music:0", "tfds:no_such_data"]
)
def test_a_name_that_means_nothing(spec):
    if spec == "toy_music:":
        assert len(make_source(spec)) == len(make_source("toy_music"))
        return
    with pytest.raises(UserError, match=spec.split(":")[0]):
        make_source(spec)


def test_toy_music():
    assert len(make_source("toy_music:12")) == 12
    train = make_source("toy_music:40", split="train")
    assert 0 < len(train) < 40
    with make_batches(train, batch_size=2, crop_samples=2400, seed=0) as batches:
        assert np.abs(next(batches)["wave"]).max() > 0
    with pytest.raises(UserError, match="split"):
        make_source("toy_music:40", split="dev")


def test_damaged_shards(music):
    shard = music / "shards/shard-00000.array_record"
    manifest = music / "shards/manifest.jsonl"
    with pytest.raises(UserError, match="a shard, not an audio file"):
        make_source(manifest)
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"hold 6 records, manifest\.jsonl says 5"):
        make_source(music / "shards")
    manifest.write_text("".join(lines))
    shard.rename(shard.with_name("shard-00001.array_record"))
    with pytest.raises(UserError, match="this shard is missing"):
        make_source(music / "shards")


def test_a_shard_cut_short(music):
    shard = music / "shards/shard-00000.array_record"
    shard.write_bytes(shard.read_bytes()[:-70_000])
    with pytest.raises(UserError, match="a shard is damaged"):
        make_source(music / "shards")


def test_shards_of_something_else(music):
    (music / "shards/manifest.jsonl").write_text('{"path": "shard-00000.array_record"}\n')
    with pytest.raises(UserError, match="num_pieces"):
        make_source(music / "shards")


def test_file_source_repr_is_short(music):
    assert repr(make_source(music / "music")) == "FileSource(6 clips)"
    assert isinstance(make_source(music / "music"), FileSource)
