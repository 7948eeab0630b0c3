"""The Harmonix Set, as its repository is."""

import shutil

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets.harmonix import (
    FUNCTIONS,
    function_of,
    read_harmonix_structure,
    split_of,
)
from tests.probe.marble_folders_more import make_harmonix


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harmonix")
    make_harmonix(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "harmonix")


def test_splits_labels_and_groups(made):
    dataset = read_harmonix_structure(str(made))
    counts = [sum(item.split == split for item in dataset.items) for split in ("train", "val", "test")]
    assert counts == [9, 3, 3] and dataset.classes == FUNCTIONS and len(FUNCTIONS) == 7
    for item in dataset.items:
        assert item.label == ((0.0, 1.0, "intro"), (1.0, 2.5, "verse"), (2.5, 4.0, "chorus"))
        assert item.group == item.id == item.audio.stem and item.split == split_of(item.id)
    assert "MARBLE has published no split" in dataset.problems[0]
    assert dataset.problems[1] == "There are 15 of the 912 songs."


def test_the_split_is_of_8_to_1_to_1_and_fixed():
    splits = [split_of(f"{number:04d}_song") for number in range(4000)]
    shares = [splits.count(split) / len(splits) for split in ("train", "val", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    # Written down once: nobody's scores are to change.
    for song, split in FIXED.items():
        assert split_of(song) == split


FIXED = {
    "0001_12step": "train",
    "0004_abc": "train",
    "0044_cameraeye": "val",
    "0056_control": "val",
    "0003_6foot7foot": "test",
    "0010_andjusticeforall": "test",
}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("intro", "intro"),
        ("fadein", "intro"),
        ("Verse2", "verse"),
        ("prechorus", "verse"),
        ("pre-chorus2", "verse"),
        ("postchorus", "chorus"),
        ("introchorus", "chorus"),
        ("stutter", "chorus"),
        ("introverse", "verse"),
        ("instrumentalverse", "verse"),
        ("section17", "verse"),
        ("slow2", "verse"),
        ("instintro", "intro"),
        ("instbridge", "bridge"),
        ("transition2a", "bridge"),
        ("vocaloutro", "outro"),
        ("guitarsolo", "inst"),
        ("breakdown", "inst"),
        ("drumroll", "inst"),
        ("worstthingever", "inst"),
        ("silence", "silence"),
    ],
)
def test_labels_of_the_set(label, expected):
    assert function_of(label) == expected


def test_an_end_before_the_end_and_no_end(folder):
    paths = sorted((folder / "dataset" / "segments").iterdir())
    paths[0].write_text("1.5\tverse\n2 chorus\n3.0 end\n4.0 end\n")
    paths[1].write_text("0.0 intro\n1.0 outro\n\n")
    items = read_harmonix_structure(str(folder)).items
    assert items[0].label == ((1.5, 2.0, "verse"), (2.0, 3.0, "chorus"))
    assert items[1].label == ((0.0, 1.0, "intro"),)


def test_audio_that_is_missing(folder):
    next((folder / "audio").iterdir()).unlink()
    dataset = read_harmonix_structure(str(folder))
    assert len(dataset.items) == 14 and dataset.left_out == {"audio missing": 1}


def test_the_repositorys_dataset_folder_alone(folder):
    shutil.move(folder / "audio", folder / "dataset" / "tracks")
    assert len(read_harmonix_structure(str(folder / "dataset")).items) == 15


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"found none of dataset/segments.*github.com/urinieto/harmonixset"):
        read_harmonix_structure(str(tmp_path))


def test_no_audio_at_all(folder):
    shutil.rmtree(folder / "audio")
    with pytest.raises(UserError, match=r"none of the 15 songs has its audio.*put your own recordings"):
        read_harmonix_structure(str(folder))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.0", "found '1.0'; expected a time in seconds and a label"),
        ("one verse", "found 'one verse'; expected a time"),
        ("0.1 verse", "0.1 s comes after 0.5 s"),
    ],
)
def test_lines_that_are_no_sections(folder, line, message):
    path = sorted((folder / "dataset" / "segments").iterdir())[0]
    path.write_text(f"0.5 intro\n{line}\n4.0 end\n")
    with pytest.raises(UserError, match=rf"{path.name}, line 2: {message}"):
        read_harmonix_structure(str(folder))


def test_what_is_no_text(folder):
    sorted((folder / "dataset" / "segments").iterdir())[0].write_bytes(b"0.0 \xff\n")
    with pytest.raises(UserError, match="cannot be read as text in UTF-8"):
        read_harmonix_structure(str(folder))
