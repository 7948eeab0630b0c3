"""A source's splits by name, without opening any audio."""

import json

import pytest

from muq_jax.data.splits import split_names
from muq_jax.errors import UserError


def manifest(path, *splits):
    path.parent.mkdir(exist_ok=True)
    rows = [{"path": f"{i}.wav"} | ({"split": split} if split else {}) for i, split in enumerate(splits)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_manifest_has_those_of_its_clips(tmp_path):
    path = manifest(tmp_path / "m.jsonl", "train", "val", None, "train")
    assert split_names(path) == split_names(str(path)) == {"train", "val"}
    assert split_names(manifest(tmp_path / "none.jsonl", None, None)) == set()


def test_shards_have_those_of_their_manifest(tmp_path):
    manifest(tmp_path / "shards/manifest.jsonl", "dev")
    (tmp_path / "shards/shard-00000.array_record").touch()
    assert split_names(tmp_path / "shards") == {"dev"}


def test_a_folder_of_audio_has_none_even_beside_a_manifest(tmp_path):
    manifest(tmp_path / "music/manifest.jsonl", "train")
    (tmp_path / "music/a.wav").touch()
    assert split_names(tmp_path / "music") == set()


@pytest.mark.parametrize("spec", ["toy_music", "toy_music:20"])
def test_toy_music_has_three(spec):
    assert split_names(spec) == {"train", "val", "test"}


def test_mtg_jamendo_has_three():
    assert split_names("mtg_jamendo:/nowhere") == {"train", "val", "test"}


@pytest.mark.parametrize("first", ["toy_music:20", "mtg_jamendo:/nowhere"])
def test_a_mixture_has_those_of_all_whatever_comes_first(tmp_path, first):
    path = manifest(tmp_path / "m.jsonl", "train", "dev")
    assert split_names(f"{first}=1,{path}=2") == {"train", "val", "test", "dev"}


@pytest.mark.parametrize("spec", ["tfds:nsynth", "tfds:nsynth:valid", "nowhere"])
def test_a_name_that_is_no_path_has_none(spec):
    assert split_names(spec) == set()


def test_a_manifest_that_cannot_be_read(tmp_path):
    (tmp_path / "m.jsonl").write_text("not JSON\n")
    with pytest.raises(UserError, match=r"m\.jsonl, line 1: not JSON"):
        split_names(tmp_path / "m.jsonl")
