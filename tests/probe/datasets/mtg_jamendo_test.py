"""MTG-Jamendo's four subsets in split 0."""

import shutil

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.checks import check_dataset
from muq_jax.probe.datasets import mtg_jamendo
from tests.probe.marble_folders import JAMENDO_TAGS, make_mtg_jamendo

READERS = {
    "top50tags": mtg_jamendo.read_mtg_jamendo_top50,
    "genre": mtg_jamendo.read_mtg_jamendo_genre,
    "instrument": mtg_jamendo.read_mtg_jamendo_instrument,
    "moodtheme": mtg_jamendo.read_mtg_jamendo_mood,
}
LISTS = "mtg-jamendo-dataset/data/splits/split-0"
GENRE_TEST = f"{LISTS}/autotagging_genre-test.tsv"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jamendo")
    make_mtg_jamendo(folder, seconds=0.2)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "jamendo")


def edit(path, line, change):
    lines = path.read_bytes().decode().split("\r\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes("\r\n".join(lines).encode())


def read_genre(folder):
    return mtg_jamendo.read_mtg_jamendo_genre(str(folder))


@pytest.mark.parametrize("subset", READERS)
def test_tags_splits_and_artists(made, subset):
    dataset = READERS[subset](str(made))
    items = dataset.items
    assert [sum(item.split == split for item in items) for split in ("train", "val", "test")] == [8, 4, 4]
    assert dataset.classes == tuple(sorted(JAMENDO_TAGS[subset]))
    half = len(dataset.classes) // 2
    assert items[0].label == tuple(JAMENDO_TAGS[subset][:half])
    assert items[0].id == "track_0000901" and items[0].group == items[1].group == "artist_000000"
    assert items[0].audio.name == "901.low.mp3" and items[0].audio.is_file()
    # The number of tags is right, that of tracks is not.
    assert len(dataset.problems) == 1 and "8/4/4" in dataset.problems[0]


@pytest.mark.parametrize(
    "place", ["data/splits/split-0", "splits/split-0", "split-0", "other/data/splits/split-0"]
)
def test_lists_elsewhere(folder, place):
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / LISTS).rename(folder / place)
    assert len(read_genre(folder).items) == 16


def test_audio_of_full_quality_and_both(folder):
    shutil.copytree(folder / "audio-low", folder / "audio")
    for path in (folder / "audio").rglob("*.mp3"):
        path.rename(path.with_name(path.name.replace(".low", "")))
    assert read_genre(folder).items[0].audio.name == "901.low.mp3"
    shutil.rmtree(folder / "audio-low")
    assert read_genre(folder).items[0].audio.name == "901.mp3"


def test_missing_audio_is_counted(folder):
    (folder / "audio-low/01/901.low.mp3").unlink()
    dataset = read_genre(folder)
    assert dataset.left_out == {"audio missing": 1} and len(dataset.items) == 15


def test_no_audio_at_all(folder):
    shutil.rmtree(folder / "audio-low")
    with pytest.raises(UserError, match=r"none of the 16 tracks.*download\.py"):
        read_genre(folder)


def test_a_list_is_missing(folder):
    (folder / GENRE_TEST).unlink()
    with pytest.raises(UserError, match=r"autotagging_genre-test\.tsv.*github\.com/MTG/mtg-jamendo-dataset"):
        read_genre(folder)


def test_a_tag_of_another_category(folder):
    edit(folder / GENRE_TEST, 3, lambda line: line + "\tinstrument---piano")
    with pytest.raises(UserError, match=r"genre-test\.tsv, line 3: the tag 'instrument---piano'"):
        read_genre(folder)


def test_another_number_of_tags_is_said(folder):
    edit(folder / GENRE_TEST, 3, lambda line: line + "\tgenre---polka")
    assert "88 tags, and 87 as published" in read_genre(folder).problems[1]


def test_an_artist_in_two_splits(folder):
    edit(folder / GENRE_TEST, 2, lambda line: line.replace("artist_000006", "artist_000001"))
    with pytest.raises(UserError, match="'artist_000001' is in two splits: clip 'track_0000903' is in train"):
        check_dataset(read_genre(folder), "multilabel", "mtg_jamendo_genre", own=False)


def test_a_list_that_is_none(folder):
    edit(folder / GENRE_TEST, 3, lambda line: line[:20])
    with pytest.raises(UserError, match=r"genre-test\.tsv, line 3: 2 cells; expected TRACK_ID"):
        read_genre(folder)
    edit(folder / GENRE_TEST, 1, lambda line: "404: Not Found")
    with pytest.raises(UserError, match=r"genre-test\.tsv, line 1: found '404: Not Found'"):
        read_genre(folder)
