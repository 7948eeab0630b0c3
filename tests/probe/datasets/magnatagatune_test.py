"""MagnaTagATune's tags and its split by folders."""

import shutil

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets.magnatagatune import TAGS, read_magnatagatune
from tests.probe.marble_folders import TOP_TAGS, make_magnatagatune


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("magnatagatune")
    make_magnatagatune(folder, seconds=0.2)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "magnatagatune")


def edit(path, line, change):
    lines = path.read_text().split("\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines))


def test_tags_and_splits(made):
    dataset = read_magnatagatune(str(made))
    items = dataset.items
    assert [sum(item.split == split for item in items) for split in ("train", "val", "test")] == [12, 4, 6]
    assert dataset.classes == TAGS == tuple(sorted(TOP_TAGS)) and len(TAGS) == 50
    assert {item.id[0] for item in items if item.split == "train"} == set("0123456789ab")
    assert {item.id[0] for item in items if item.split == "test"} == set("def")
    assert set(items[0].label) == set(TOP_TAGS[::2]) and set(items[1].label) == set(TOP_TAGS[1::2])
    assert items[0].id == "0/artist_0-the_album-01-a_song-0-29"
    assert items[0].group == "0/artist_0-the_album-01-a_song"
    assert items[0].audio.is_file()
    assert "18,706/1,825/5,329" in dataset.problems[0]


def test_a_clip_of_rare_tags_alone_is_kept_and_an_empty_file_is_not(made):
    dataset = read_magnatagatune(str(made))
    assert dataset.items[-1].label == ()
    assert dataset.left_out == {"audio empty": 1}


def test_audio_beside_the_table_or_in_another_folder(folder):
    (folder / "mp3").rename(folder / "audio")
    assert len(read_magnatagatune(str(folder)).items) == 22
    for path in (folder / "audio").iterdir():
        path.rename(folder / path.name)
    assert len(read_magnatagatune(str(folder)).items) == 22


def test_missing_audio_is_counted(folder):
    shutil.rmtree(folder / "mp3/c")
    dataset = read_magnatagatune(str(folder))
    assert dataset.left_out == {"audio missing": 4, "audio empty": 1} and len(dataset.items) == 18


def test_no_audio_at_all(folder):
    for path in (folder / "mp3").rglob("*.mp3"):
        path.unlink()
    with pytest.raises(UserError, match=r"none of the 23 clips of annotations_final\.csv.*mp3\.zip\.001"):
        read_magnatagatune(str(folder))
    shutil.rmtree(folder / "mp3")
    with pytest.raises(UserError, match=r"none of the folders 0 to f.*mp3\.zip\.001"):
        read_magnatagatune(str(folder))


def test_no_table(folder):
    (folder / "annotations_final.csv").unlink()
    with pytest.raises(UserError, match=r"found none of annotations_final\.csv.*mirg\.city\.ac\.uk"):
        read_magnatagatune(str(folder))


def test_a_row_of_another_folder(folder):
    edit(folder / "annotations_final.csv", 3, lambda line: line.replace('"1/', '"x/'))
    with pytest.raises(UserError, match=r"annotations_final\.csv, line 3: mp3_path is 'x/"):
        read_magnatagatune(str(folder))


def test_a_tag_that_is_neither_there_nor_not(folder):
    edit(folder / "annotations_final.csv", 4, lambda line: line.replace('\t"1"\t', '\t"yes"\t', 1))
    with pytest.raises(UserError, match=r"line 4: the column 'guitar' holds 'yes'; expected 0 or 1"):
        read_magnatagatune(str(folder))


def test_a_table_without_one_of_the_tags(folder):
    edit(folder / "annotations_final.csv", 1, lambda line: line.replace('"harpsichord"', '"harpsicord"'))
    with pytest.raises(UserError, match="no column harpsichord"):
        read_magnatagatune(str(folder))


def test_a_row_that_is_cut_short(folder):
    edit(folder / "annotations_final.csv", 5, lambda line: line[:100])
    with pytest.raises(UserError, match=r"line 5: \d+ cells; expected 190"):
        read_magnatagatune(str(folder))
