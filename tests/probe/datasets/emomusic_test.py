"""EmoMusic's ratings, and its split by MediaEval's sets and by artists."""

import csv
import shutil

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets.emomusic import TARGETS, read_emomusic
from tests.probe.marble_folders import artist_of_emomusic, make_emomusic

INFOS, RATINGS = "annotations/songs_info.csv", "annotations/static_annotations.csv"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emomusic")
    make_emomusic(folder, seconds=0.2)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "emomusic")


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_ratings_splits_and_groups(made):
    dataset = read_emomusic(str(made))
    counts = [sum(item.split == split for item in dataset.items) for split in ("train", "val", "test")]
    assert counts == [12, 4, 4] and dataset.classes == TARGETS == ("arousal", "valence")
    rows = list(csv.DictReader((made / RATINGS).open()))
    expected = [(float(row["mean_arousal"]), float(row["mean_valence"])) for row in rows]
    assert [item.label for item in dataset.items] == expected
    assert dataset.items[0].group == artist_of_emomusic("train")[2]
    assert (dataset.items[0].start_seconds, dataset.items[0].end_seconds) == (0.0, None)
    assert all(item.audio.stem == item.id for item in dataset.items)
    assert not dataset.left_out and "619" in dataset.problems[0] and "125" in dataset.problems[0]
    assert len(dataset.problems) == 1


def test_tables_beside_the_clips_and_ids_with_zeros(folder):
    for name in (INFOS, RATINGS):
        (folder / name).rename(folder / name.split("/")[1])
    for path in (folder / "clips_45seconds").iterdir():
        path.rename(path.with_name(f"{int(path.stem):04d}.mp3"))
    assert len(read_emomusic(str(folder)).items) == 20


def test_an_artist_of_both_sets_is_said_and_has_no_group(folder):
    train, val = artist_of_emomusic("train"), artist_of_emomusic("val")
    replace(folder / INFOS, val[20].title(), train[2].upper() + " 1999")
    dataset = read_emomusic(str(folder))
    groups = {item.id: item.group for item in dataset.items}
    assert groups["2"] is None and groups["20"] is None and groups["3"] is not None
    assert f"1 artists of the evaluation set, such as {train[2]}," in dataset.problems[1]
    assert len(dataset.items) == 20


def test_artists_are_told_apart_as_marble_does(folder):
    """The remainders of the names' SHA-1 by 10, worked out with sha1sum and bc, are 0, 8, 4, 8 and 5."""
    names = ("The  Kyoto Connection!", "\tTours (2)", "Bleak House", "Podington Bear", "99")
    path = folder / INFOS
    for number, name in enumerate(names, start=2):
        replace(path, f"\t{artist_of_emomusic('train')[number].title()}!", name)
    items = {item.id: item for item in read_emomusic(str(folder)).items}
    assert [items[str(song)].split for song in range(2, 7)] == ["train", "val", "train", "val", "train"]
    assert items["2"].group == "the kyoto connection" and items["6"].group is None


def test_missing_clips(folder):
    (folder / "clips_45seconds/5.mp3").unlink()
    dataset = read_emomusic(str(folder))
    assert dataset.left_out == {"audio missing": 1} and len(dataset.items) == 19


def test_no_clips_at_all(folder):
    for path in (folder / "clips_45seconds").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"none of the 20 songs.*clips_45sec\.tar\.gz"):
        read_emomusic(str(folder))
    (folder / "clips_45seconds").rmdir()
    with pytest.raises(UserError, match=r"found none of clips_45seconds.*cvml\.unige\.ch"):
        read_emomusic(str(folder))


@pytest.mark.parametrize("name", [INFOS, RATINGS])
def test_a_table_is_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=r"found none of .*annotations\.tar\.gz"):
        read_emomusic(str(folder))


def test_an_unknown_set(folder):
    replace(folder / INFOS, "development", "training")
    with pytest.raises(UserError, match=r"songs_info\.csv, line 2: Mediaeval 2013 set is 'training'"):
        read_emomusic(str(folder))


@pytest.mark.parametrize("value", ["loud", "", "nan", "0.5", "9.1"])
def test_a_rating_that_is_none(folder, value):
    path = folder / RATINGS
    lines = path.read_text().split("\n")
    cells = lines[3].split(",")
    lines[3] = ",".join([cells[0], value, *cells[2:]])
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=rf"static_annotations\.csv, line 4: mean_arousal is '{value}'"):
        read_emomusic(str(folder))


def test_a_song_without_rating(folder):
    path = folder / RATINGS
    path.write_text("\n".join(path.read_text().split("\n")[:-2]))
    with pytest.raises(
        UserError, match=r"songs_info\.csv, line 21: the song 21 is not in .*static_annotations"
    ):
        read_emomusic(str(folder))


def test_another_table(folder):
    replace(folder / RATINGS, "mean_valence", "valence")
    with pytest.raises(UserError, match="no column mean_valence"):
        read_emomusic(str(folder))
