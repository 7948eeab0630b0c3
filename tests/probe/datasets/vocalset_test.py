"""VocalSet, as its archives unpack."""

import shutil

import numpy as np
import pytest
from sklearn.model_selection import GroupShuffleSplit

from muq_jax.errors import UserError
from muq_jax.probe.datasets.vocalset import (
    SINGERS,
    TECHNIQUES,
    read_vocalset_singer,
    read_vocalset_technique,
)
from tests.probe.marble_folders_more import make_vocalset


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocalset")
    make_vocalset(folder)
    return folder


@pytest.fixture
def empty_files(tmp_path):
    """Returns a function that makes empty files: readers open none."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return str(tmp_path)

    return make


def split_as_marble_does(folder):
    """MARBLE's steps in its order, on chunks: recordings have one to three."""
    rows = []
    for technique in sorted({path.parent.name for path in folder.rglob("*.wav")}):
        names = sorted(path.name for path in folder.rglob(f"{technique}/*.wav"))
        for place, name in enumerate(names):
            rows += [(name, technique, name.split("_")[0], place)] * (1 + place % 3)
    rows = np.array(rows, dtype=object)
    np.random.seed(42617)  # noqa: NPY002

    def part(rows, share):
        first, second = next(
            GroupShuffleSplit(n_splits=1, test_size=share).split(rows, groups=rows[:, 3].astype(int))
        )
        return rows[first], rows[second]

    of_task = rows[np.isin(rows[:, 1].astype(str), TECHNIQUES)]
    held_out = np.isin(of_task[:, 2].astype(str), ("f2", "f8", "m3", "m5", "m10"))
    technique = (*part(of_task[~held_out], 0.4), of_task[held_out])
    rest, test = part(rows, 0.2)
    singer = (*part(rest, 0.4), test)
    return [
        {split: set(part[:, 0]) for split, part in zip(("train", "val", "test"), parts, strict=True)}
        for parts in (technique, singer)
    ]


def names_by_split(dataset):
    return {s: {i.audio.name for i in dataset.items if i.split == s} for s in ("train", "val", "test")}


def test_the_split_is_marbles(made):
    technique, singer = split_as_marble_does(made)
    assert names_by_split(read_vocalset_technique(str(made))) == technique
    assert names_by_split(read_vocalset_singer(str(made))) == singer


def test_labels_and_groups(made):
    singer, technique = read_vocalset_singer(str(made)), read_vocalset_technique(str(made))
    assert singer.classes == SINGERS and len(SINGERS) == 20
    assert technique.classes == TECHNIQUES and len(TECHNIQUES) == 10
    for item in singer.items:
        assert item.audio.name.startswith(item.label + "_") and item.group == item.id
    for item in technique.items:
        assert item.audio.parent.name == item.label
        assert (item.split == "test") == (item.audio.name[:2] in ("f2", "m3"))
    assert len({item.id for item in singer.items}) == len(singer.items) == 128
    assert technique.left_out == {"another technique": 8} and not singer.left_out
    assert "There are no recordings of f3, f4" in singer.problems[0]
    for dataset in (singer, technique):
        trained = {item.label for item in dataset.items if item.split == "train"}
        assert trained == {item.label for item in dataset.items}


def test_names_without_a_singer_and_files_that_are_not_used(empty_files):
    folder = empty_files(
        "data_by_singer/male8/excerpts/straight/row_straight.wav",
        "data_by_singer/male10/scales/fast_piano/scales_c_fast_piano_a.wav",
        "data_by_singer/female2/scales/vibrato/f2_scales_vibrato_a(1).wav",
        "data_by_singer/female2/scales/vibrato/._f2_scales_vibrato_a.wav",
        "data_by_singer/female2/scales/humming/f2_scales_humming.wav",
        "data_by_singer/female2/stray.wav",
        "data_by_singer/female5/scales/belt/f4_scales_belt_a.wav",
        "data_by_technique/belt/f1_scales_belt_a.wav",
    )
    dataset = read_vocalset_singer(folder)
    assert {item.audio.name: item.label for item in dataset.items} == {
        "row_straight.wav": "m8",
        "scales_c_fast_piano_a.wav": "m10",
        "f4_scales_belt_a.wav": "f4",
    }
    assert dataset.left_out == {"another technique": 2, "a double, or not in the paper's table": 1}


@pytest.mark.parametrize("where", ["FULL", "VocalSet11/FULL", "VocalSet1-2/data_by_singer", "."])
def test_where_the_singers_are(made, tmp_path, where):
    shutil.copytree(made / "FULL", tmp_path / where, dirs_exist_ok=True)
    found = read_vocalset_singer(str(tmp_path))
    assert names_by_split(found) == names_by_split(read_vocalset_singer(str(made)))


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"found none of FULL.*VocalSet11.zip of zenodo.org"):
        read_vocalset_singer(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        read_vocalset_technique(str(tmp_path / "gone"))


def test_no_audio(tmp_path):
    (tmp_path / "FULL" / "female1").mkdir(parents=True)
    with pytest.raises(UserError, match="no audio file"):
        read_vocalset_singer(str(tmp_path))


def test_a_folder_that_is_no_singers(empty_files):
    folder = empty_files("FULL/female10/scales/belt/f10_scales_belt_a.wav")
    with pytest.raises(UserError, match=r"the folder 'female10' is no singer's; expected female1 to female9"):
        read_vocalset_singer(folder)
