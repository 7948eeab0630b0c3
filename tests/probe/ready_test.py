import json

import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.probe.encoders import load_encoder
from muq_jax.probe.extract import Cut, features_of
from muq_jax.probe.ready import ReadyFeatures
from muq_jax.probe.run import run_task
from muq_jax.probe.sweep import Protocol
from muq_jax.probe.task import Dataset
from tests.probe import planted


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "features.json").write_text(json.dumps({"name": "theirs", "frame_rate_hz": 50}))
    return tmp_path


def save(folder, id, shape, seed=0):
    features = np.random.default_rng(seed).normal(size=shape)
    (folder / f"{id}.npy").parent.mkdir(exist_ok=True)
    np.save(folder / f"{id}.npy", features)
    return features.astype(np.float32)


def test_one_vector_or_a_layer_or_every_frame(folder):
    one, layers, frames = save(folder, "a", 5), save(folder, "b/c", (3, 5)), save(folder, "d", (3, 9, 5))
    ready = ReadyFeatures(folder)
    assert ready.name == "theirs" and ready.frame_rate_hz == 50
    np.testing.assert_array_equal(ready.pooled("a"), one[None])
    np.testing.assert_array_equal(ready.pooled("b/c"), layers)
    np.testing.assert_allclose(ready.pooled("d"), frames.mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(ready.frames("d"), frames)


def test_a_folder_is_an_encoder_of_the_command(folder):
    assert isinstance(load_encoder(str(folder)), ReadyFeatures)
    assert load_encoder(str(folder), "renamed").name == "renamed"


def test_they_are_probed_as_a_model_is(folder, tmp_path):
    items = planted.classification(60)
    for item in items:
        np.save(folder / f"{item.id}.npy", np.eye(4)[planted.NAMES.index(item.label)])
    task = planted.task_of("classification", ("accuracy",))
    protocol = Protocol("v1", seeds=(0,), learning_rates=(5e-3,))
    result = run_task(task, Dataset(items, planted.NAMES), load_encoder(str(folder)), protocol, tmp_path)
    assert result.content["test"]["accuracy"] == 1.0 and result.content["standardised"]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (None, "no features of the clip 'x'"),
        (b"", "cannot be read"),
        (np.zeros((1, 2, 3, 4)), "expected floats"),
        (np.zeros(3, int), "int64 of shape"),
        (np.zeros(0), "expected floats"),
        (np.array([1.0, np.nan]), "NaN"),
        (np.array(["a"]), "expected floats"),
    ],
)
def test_what_are_no_features(array, says, folder):
    if isinstance(array, bytes):
        (folder / "x.npy").write_bytes(array)
    elif array is not None:
        np.save(folder / "x.npy", array)
    with pytest.raises(UserError, match=says):
        ReadyFeatures(folder).pooled("x")


@pytest.mark.parametrize("header", ["", "[]", "{", '{"frame_rate_hz": "fast"}', '{"frame_rate_hz": -1}'])
def test_a_damaged_header(header, tmp_path):
    (tmp_path / "features.json").write_text(header)
    with pytest.raises(UserError, match=r"features\.json"):
        ReadyFeatures(tmp_path)


def test_frames_need_frames_and_a_rate(folder):
    save(folder, "a", 5)
    with pytest.raises(UserError, match=r"the shape \(5,\).*needs .L, T, D. and a rate"):
        ReadyFeatures(folder).frames("a")
    save(folder, "d", (3, 9, 5))
    (folder / "features.json").write_text('{"name": "theirs"}')
    with pytest.raises(UserError, match=r"needs .L, T, D. and a rate"):
        ReadyFeatures(folder).frames("d")


def test_clips_of_different_sizes_are_not_one_model_s(folder, tmp_path):
    items = planted.classification(5)
    for i, item in enumerate(items):
        save(folder, item.id, (2, 5 + i // 4))
    with pytest.raises(UserError, match=r"'clip-3' have the shape \(2, 5\), those of 'clip-4' \(2, 6\)"):
        features_of(items, ReadyFeatures(folder), Cut(2.0), tmp_path)


def test_an_archive_is_no_array(folder):
    with (folder / "x.npy").open("wb") as file:
        np.savez(file, a=np.zeros(3))
    (folder / "y.npy").write_bytes(b"PK\x03\x04")
    np.save(folder / "z.npy", np.array([{}], object))
    for id in "xyz":
        with pytest.raises(UserError, match=rf"{id}\.npy: cannot be read .*numpy\.save"):
            ReadyFeatures(folder).pooled(id)


def test_numbers_too_large_for_float32(folder):
    np.save(folder / "x.npy", np.array([1.0, 1e300]))
    with pytest.raises(UserError, match="too large for float32"):
        ReadyFeatures(folder).pooled("x")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_of_any_size_are_taken(dtype, folder):
    np.save(folder / "x.npy", np.array([1.0, 2.5], dtype))
    found = ReadyFeatures(folder).pooled("x")
    assert found.dtype == np.float32 and found.tolist() == [[1.0, 2.5]]


@pytest.mark.parametrize("id", ["no/such/folder", "a\0b", "x" * 5000, "."])
def test_ids_that_are_no_files(id, folder):
    with pytest.raises(UserError, match=r"no features of the clip|cannot be read"):
        ReadyFeatures(folder).pooled(id)


@pytest.mark.parametrize("header", ["{}", '{"name": null}', '{"name": ""}'])
def test_without_a_name_it_is_the_folder_s(header, folder):
    (folder / "features.json").write_text(header)
    assert ReadyFeatures(folder).name == folder.name
    assert ReadyFeatures(folder, "mine").name == "mine"


@pytest.mark.parametrize(
    "header",
    [
        *('{"name": ["a"]}', '{"name": 3}', "null", '{"a": ' * 100_000, "\udcff"),
        *('{"frame_rate_hz": NaN}', '{"frame_rate_hz": 0}', '{"frame_rate_hz": [50]}'),
        '{"frame_rate_hz": 1' + "0" * 400 + "}",
    ],
)
def test_a_header_of_something_else(header, tmp_path):
    (tmp_path / "features.json").write_bytes(header.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"features\.json: "):
        ReadyFeatures(tmp_path)


def test_other_files_are_other_features(folder):
    save(folder, "a/b", 5)
    before = ReadyFeatures(folder).digest
    assert ReadyFeatures(folder).digest == before
    save(folder, "a/b", 5, seed=1)
    assert ReadyFeatures(folder).digest != before


def test_a_clip_without_features_is_named(folder, tmp_path):
    items = planted.classification(5)
    for item in items[:4]:
        save(folder, item.id, 5)
    with pytest.raises(UserError, match="no features of the clip 'clip-4'"):
        features_of(items, ReadyFeatures(folder), Cut(2.0), tmp_path)
