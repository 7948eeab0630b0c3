"""Chords1217 in the layout of the corpus; MARBLE's lists are in marble_jsonl_test."""

import shutil

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets.chords import MAJMIN
from muq_jax.probe.datasets.chords1217 import read_chords1217
from tests.probe.marble_folders_more import make_chords1217, make_marble_jsonl


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chords")
    make_chords1217(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "chords")


def test_splits_and_labels(made):
    dataset = read_chords1217(str(made))
    counts = [sum(item.split == split for item in dataset.items) for split in ("train", "val", "test")]
    assert counts == [9, 3, 3] and dataset.classes == MAJMIN and not dataset.left_out
    assert "fold 0" in dataset.problems[0]
    first = dataset.items[0]
    # D:sus4 has no class: its second has no label.
    assert first.label == ((0.0, 1.0, "C:maj"), (1.0, 2.0, "A:min"), (2.0, 3.0, "Gb:maj"))
    assert first.audio.name == f"{first.id}.mp3" and first.group is None


def test_the_validation_part_does_not_hang_on_the_other_songs(folder):
    before = {item.id: item.split for item in read_chords1217(str(folder)).items}
    lines = (folder / "train00.csv").read_text().split()
    (folder / "train00.csv").write_text("\n".join(lines[::2]))
    after = {item.id: item.split for item in read_chords1217(str(folder)).items}
    assert after.items() < before.items()


def test_lists_and_labels_in_their_other_places(folder):
    (folder / "chord_data_1217").mkdir()
    shutil.move(folder / "chordlab", folder / "chord_data_1217" / "chordlab")
    (folder / "data").mkdir()
    for name in ("train00.csv", "test00.csv"):
        shutil.move(folder / name, folder / "data" / name)
    assert len(read_chords1217(str(folder)).items) == 15


def test_songs_without_audio_or_labels(folder):
    next((folder / "audio").iterdir()).unlink()
    with (folder / "test00.csv").open("a") as file:
        file.write("\nTRUNKNOWN")
    dataset = read_chords1217(str(folder))
    assert dataset.left_out == {"audio missing": 1, "no labels": 1}
    assert "2 of 16 songs are missing." in dataset.problems


def test_marbles_lists_come_first(folder):
    make_marble_jsonl(folder, "Chords1217")
    assert not read_chords1217(str(folder)).problems


@pytest.mark.parametrize("name", ["chordlab", "train00.csv", "test00.csv"])
def test_what_is_missing(folder, name):
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(UserError, match=rf"found none of {name}.*m-a-p/Chords1217"):
        read_chords1217(str(folder))


def test_no_audio_at_all(folder):
    shutil.rmtree(folder / "audio")
    with pytest.raises(
        UserError, match=r"none of the 15 songs has both labels and audio.*your own audio/ID.mp3"
    ):
        read_chords1217(str(folder))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.0\t1.0", r"found '0.0\\t1.0'; expected start, end"),
        ("zero\t1.0\tC:maj", "found .*; expected start, end"),
        ("0.0\t1.0\tC:major", "'C:major' is no chord label"),
    ],
)
def test_lines_that_are_no_chords(folder, line, message):
    path = sorted((folder / "chordlab").iterdir())[0]
    path.write_text("0.0\t1.0\tN\n\n" + line + "\n")
    with pytest.raises(UserError, match=rf"{path.name}, line 3: {message}"):
        read_chords1217(str(folder))
