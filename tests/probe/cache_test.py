import dataclasses
import json
import os

import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.probe.cache import FeatureCache, MemoryStore, Pooled, Space

SPACE = Space("model", "ab" * 32, 30.0)


def clip(num_windows, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_windows, 3, 5)).astype(np.float32)
    return Pooled(vectors, np.arange(num_windows) + 0.5)


def same(a, b):
    np.testing.assert_array_equal(a.vectors, b.vectors)
    np.testing.assert_array_equal(a.seconds, b.seconds)


@pytest.mark.parametrize("make", [lambda folder: FeatureCache(folder, SPACE), lambda folder: MemoryStore()])
def test_what_was_put_in_comes_out(make, tmp_path):
    store = make(tmp_path / "cache")
    clips = {"a": clip(1), "b": clip(4, 1), "c": clip(2, 2)}
    assert not store.has("a", frames=False)
    store.add(["a", "b"], [clips["a"], clips["b"]])
    store.add(["c"], [clips["c"]])
    for key, pooled in clips.items():
        same(store.pooled(key), pooled)
    assert store.has("b", frames=False) and not store.has("b", frames=True)
    frames = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32)
    store.add_frames("b", frames)
    assert store.has("b", frames=True)
    np.testing.assert_allclose(store.frames("b"), frames, rtol=1e-3, atol=1e-4)


def test_it_is_there_for_the_next_one_and_two_may_fill_it(tmp_path):
    one, two = FeatureCache(tmp_path, SPACE), FeatureCache(tmp_path, SPACE)
    one.add(["a"], [clip(2)])
    two.add(["b"], [clip(3, 1)])
    later = FeatureCache(tmp_path, SPACE)
    same(later.pooled("a"), clip(2))
    same(later.pooled("b"), clip(3, 1))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e5])
def test_half_precision_only_where_it_loses_little(size, tmp_path):
    store = FeatureCache(tmp_path, SPACE)
    frames = (size * np.random.default_rng(0).normal(size=(2, 9, 4))).astype(np.float32)
    frames[0] = 0
    store.add_frames("a", frames)
    found = store.frames("a")
    assert found.dtype == (np.float16 if size == 1.0 else np.float32)
    assert np.abs(found - frames).max() < 1e-3 * np.abs(frames).max()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"digest": "cd" * 32}, "digest"),
        ({"window_seconds": 5.0}, "window_seconds"),
        ({"drop_short": True}, "drop_short"),
        ({"trim_silence": True}, "trim_silence"),
        ({"crop_seconds": 3.0}, "crop_seconds"),
    ],
)
def test_features_of_something_else_are_refused(changes, says, tmp_path):
    FeatureCache(tmp_path, SPACE)
    other = dataclasses.replace(SPACE, **changes)
    assert other.folder_name != SPACE.folder_name
    with pytest.raises(UserError, match=f"holds features whose {says} is .*not mixed"):
        FeatureCache(tmp_path, other)


def test_another_name_is_not_another_model(tmp_path):
    FeatureCache(tmp_path, SPACE).add(["a"], [clip(1)])
    same(FeatureCache(tmp_path, dataclasses.replace(SPACE, encoder="friend")).pooled("a"), clip(1))


def test_a_block_that_a_kill_cut_short_is_not_there(tmp_path):
    store = FeatureCache(tmp_path, SPACE)
    store.add(["a"], [clip(2)])
    (index,) = (tmp_path / "pooled").glob("*.json")
    index.unlink()  # it is written last
    (tmp_path / "pooled" / "x.npy.12.tmp").write_bytes(b"half")
    again = FeatureCache(tmp_path, SPACE)
    assert not again.has("a", frames=False)
    again.add(["a"], [clip(2)])
    same(FeatureCache(tmp_path, SPACE).pooled("a"), clip(2))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\x93NUMPY\x01"])
def test_damage_names_the_file_and_what_to_do(damage, tmp_path):
    store = FeatureCache(tmp_path, SPACE)
    store.add(["a"], [clip(2)])
    (array,) = (tmp_path / "pooled").glob("*.npy")
    whole = array.read_bytes()
    array.write_bytes(damage)
    with pytest.raises(UserError, match=f"{array.name} is damaged.*delete the folder"):
        _ = FeatureCache(tmp_path, SPACE).pooled("a").vectors
    array.write_bytes(whole)
    header = tmp_path / "space.json"
    header.write_bytes(damage)
    with pytest.raises(UserError, match=r"space\.json is damaged"):
        FeatureCache(tmp_path, SPACE)


def test_the_header_says_what_made_them(tmp_path):
    FeatureCache(tmp_path / "x", SPACE)
    content = json.loads((tmp_path / "x" / "space.json").read_text())
    assert content["encoder"] == "model" and content["digest"] == SPACE.digest


@pytest.mark.parametrize("largest", [1e-3, 1.1e-2, 1.0, 2.9e4, 3.1e4, 1e6])
def test_frames_lose_less_than_a_thousandth_of_their_layer(largest, tmp_path):
    store = FeatureCache(tmp_path, SPACE)
    rng = np.random.default_rng(1)
    layers = [rng.uniform(-1, 1, size=(40, 30)) * scale for scale in (largest, 1.0, 0.5)]
    layers[0][3, 4] = largest
    frames = np.stack(layers).astype(np.float32)
    store.add_frames("a", frames)
    found = store.frames("a").astype(np.float64)
    assert np.isfinite(found).all()
    lost = np.abs(found - frames).max(axis=(1, 2)) / np.abs(frames).max(axis=(1, 2))
    assert (lost < 1e-3).all()


@pytest.mark.parametrize(
    "index",
    [
        *(b"", b"{", b"[]", b"{}", b"[" * 100_000),
        *(b'{"keys": ["a"], "seconds": []}', b'{"keys": ["a"], "seconds": [5]}'),
        *(b'{"keys": [["a"]], "seconds": [[1]]}', b'{"keys": ["a"], "seconds": [["x"]]}'),
    ],
)
def test_a_damaged_list_of_clips_names_the_folder(index, tmp_path):
    FeatureCache(tmp_path, SPACE).add(["a"], [clip(2)])
    (path,) = (tmp_path / "pooled").glob("*.json")
    path.write_bytes(index)
    with pytest.raises(UserError, match="is damaged") as caught:
        FeatureCache(tmp_path, SPACE)
    assert str(path) in str(caught.value) and f"delete the folder {tmp_path}," in str(caught.value)


def npz(path):
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        lambda path: np.save(path, np.zeros((1, 3, 5), np.float32)),
        lambda path: np.save(path, np.zeros(2, np.float32)),
        lambda path: np.save(path, np.array([{}, {}], object)),
        lambda path: path.write_bytes(b"PK\x03\x04"),
        npz,
    ],
)
def test_damaged_vectors_name_the_folder(damage, tmp_path):
    FeatureCache(tmp_path, SPACE).add(["a"], [clip(2)])
    (path,) = (tmp_path / "pooled").glob("*.npy")
    damage(path)
    with pytest.raises(UserError, match=r"\.npy is damaged") as caught:
        _ = FeatureCache(tmp_path, SPACE).pooled("a").vectors
    assert f"delete the folder {tmp_path}," in str(caught.value)


def test_damaged_frames_name_the_folder(tmp_path):
    store = FeatureCache(tmp_path, SPACE)
    store.add_frames("a", np.ones((1, 4, 2), np.float32))
    path = tmp_path / "frames" / "a.npy"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"a\.npy is damaged") as caught:
        store.frames("a")
    assert f"delete the folder {tmp_path}," in str(caught.value)


@pytest.mark.parametrize("whole_files", [0, 1])
def test_a_kill_between_two_files_costs_the_block_alone(whole_files, tmp_path, monkeypatch):
    store = FeatureCache(tmp_path, SPACE)
    store.add(["a"], [clip(2)])
    replace, left = os.replace, [whole_files]

    def killed(source, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.add(["b"], [clip(3, 1)])
    again = FeatureCache(tmp_path, SPACE)
    assert again.has("a", frames=False) and not again.has("b", frames=False)
    again.add(["b"], [clip(3, 1)])
    later = FeatureCache(tmp_path, SPACE)
    same(later.pooled("a"), clip(2))
    same(later.pooled("b"), clip(3, 1))


def test_two_may_write_the_same_block(tmp_path):
    one, two = FeatureCache(tmp_path, SPACE), FeatureCache(tmp_path, SPACE)
    for store in (one, two):
        store.add(["a", "b"], [clip(1), clip(2, 1)])
        same(one.pooled("b"), clip(2, 1))
    assert len(list((tmp_path / "pooled").iterdir())) == 2
    two.add(["b", "a"], [clip(2, 1), clip(1)])
    same(FeatureCache(tmp_path, SPACE).pooled("a"), clip(1))


def test_a_folder_whose_blocks_were_deleted_is_filled_again(tmp_path):
    FeatureCache(tmp_path, SPACE)
    (tmp_path / "pooled").rmdir()
    (tmp_path / "frames").rmdir()
    store = FeatureCache(tmp_path, SPACE)
    store.add(["a"], [clip(1)])
    store.add_frames("a", np.ones((1, 2, 3), np.float32))
    assert store.has("a", frames=True)


def test_a_whole_number_of_seconds_is_the_same_as_an_integer(tmp_path):
    whole = dataclasses.replace(SPACE, window_seconds=30, crop_seconds=3)
    other = dataclasses.replace(SPACE, crop_seconds=3.0)
    assert whole.folder_name == other.folder_name
    FeatureCache(tmp_path, whole)
    FeatureCache(tmp_path, other)


def test_a_folder_s_name_is_a_file_s_whatever_the_encoder_is_called():
    for name in ("a/b", "..", "x" * 500, "", "\u00fc \n"):
        found = dataclasses.replace(SPACE, encoder=name).folder_name
        assert "/" not in found and found not in (".", "..") and len(found) < 100
