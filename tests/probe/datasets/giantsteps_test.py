"""GiantSteps' keys and its split by artists."""

import re
import shutil

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets.giantsteps import KEYS, read_giantsteps_key
from tests.probe.marble_folders import artist_of_giantsteps, make_giantsteps

TRAIN = "giantsteps-mtg-key-dataset"
TEST = "giantsteps-key-dataset-master"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("giantsteps")
    make_giantsteps(folder, seconds=0.2)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "giantsteps")


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_keys_splits_and_groups(made):
    dataset = read_giantsteps_key(str(made))
    items = {item.id: item for item in dataset.items}
    counts = [sum(item.split == split for item in dataset.items) for split in ("train", "val", "test")]
    assert counts == [24, 6, 6] and dataset.classes == KEYS
    assert len(set(KEYS)) == 24 and {"C:maj", "Gb:min", "Bb:maj"} < set(KEYS)
    assert {item.label for item in dataset.items if item.split == "train"} == set(KEYS)
    assert items["1003"].label == "Eb:maj" and items["1018"].label == "Gb:min"  # "D# major", "F# minor"
    assert items["2000"].label == "Db:maj" and items["2000"].group is None
    assert items["1000"].group == artist_of_giantsteps("train")[0]
    assert all(item.audio.name == f"{item.id}.LOFI.mp3" for item in dataset.items)
    assert dataset.left_out == {"key uncertain": 1, "several keys": 1}
    assert "923/236/604" in dataset.problems[0]


def test_who_works_with_an_artist_of_val_is_of_val(folder):
    """1000 and 1001 share an artist, 1001 has made a song with one of val, and 1002 with nobody of them."""
    train, val = artist_of_giantsteps("train"), artist_of_giantsteps("val")
    credits = folder / TRAIN / "annotations/beatport_metadata.txt"
    replace(credits, f"1000\t{train[0]}\t", f"1000\t{train[0]}, Third\t")
    replace(credits, f"1001\t{train[1]}\t", f"1001\t{val[3]},Third\t")
    items = {item.id: item for item in read_giantsteps_key(str(folder)).items}
    assert [items[id].split for id in ("1000", "1001", "1002")] == ["val", "val", "train"]
    assert items["1000"].group == items["1001"].group != items["1002"].group


def test_artists_are_told_apart_as_marble_does(folder):
    """The remainders of the names' SHA-1 by 116, worked out with sha1sum and bc, are 10, 106, 96 and 101."""
    expected = {"Philippe Van Mullem": "train", "Panic": "val", "Break 3000": "train", "Pole Folder": "val"}
    credits = folder / TRAIN / "annotations/beatport_metadata.txt"
    for number, name in enumerate(expected):
        replace(credits, f"\t{artist_of_giantsteps('train')[number]}\t", f"\t{name}\t")
    items = {item.id: item for item in read_giantsteps_key(str(folder)).items}
    assert [items[str(1000 + i)].split for i in range(4)] == list(expected.values())


def test_audio_below_the_folder_as_marble_has_it(folder):
    (folder / "audio").mkdir()
    for path in [*folder.glob("*/audio/*.mp3")]:
        path.rename(folder / "audio" / path.name)
    assert len(read_giantsteps_key(str(folder)).items) == 36


def test_missing_audio_is_counted(folder):
    (folder / TEST / "audio/2000.LOFI.mp3").unlink()
    dataset = read_giantsteps_key(str(folder))
    assert dataset.left_out["audio missing"] == 1 and len(dataset.items) == 35


def test_no_audio_at_all(folder):
    for name in (TRAIN, TEST):
        shutil.rmtree(folder / name / "audio")
    with pytest.raises(UserError, match=r"none of the 36 songs.*audio_dl\.sh"):
        read_giantsteps_key(str(folder))


@pytest.mark.parametrize("path", [f"{TRAIN}/annotations/annotations.txt", f"{TEST}/annotations/key"])
def test_a_repository_is_missing(folder, path):
    shutil.rmtree(folder / path.split("/")[0])
    with pytest.raises(UserError, match=r"found none of giantsteps-.*github\.com/GiantSteps"):
        read_giantsteps_key(str(folder))


def test_no_keys_of_test(folder):
    for path in (folder / TEST / "annotations/key").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no file \*\.key"):
        read_giantsteps_key(str(folder))


def test_unknown_keys(folder):
    table = folder / TRAIN / "annotations/annotations.txt"
    replace(table, "1003\tD# major", "1003\tH major")
    with pytest.raises(UserError, match=r"annotations\.txt, line 5: found the key 'H major'"):
        read_giantsteps_key(str(folder))
    replace(table, "H major", "D# major ")  # a blank, as three real rows have
    (folder / TEST / "annotations/key/2001.LOFI.key").write_text("c minor")
    with pytest.raises(UserError, match=r"2001\.LOFI\.key: found the key 'c minor'; expected .*Eb minor"):
        read_giantsteps_key(str(folder))


def test_a_song_without_artist(folder):
    credits = folder / TRAIN / "annotations/beatport_metadata.txt"
    name = artist_of_giantsteps("train")[2]
    replace(credits, f"1002\t{name}\t", "1002\t\t")
    with pytest.raises(UserError, match=r"beatport_metadata\.txt, line 4: the song 1002 has no artist"):
        read_giantsteps_key(str(folder))
    replace(credits, "1002\t\tA Song\n", "")
    with pytest.raises(UserError, match=r"annotations\.txt, line 4: the song 1002 is not in"):
        read_giantsteps_key(str(folder))


def test_another_table(folder):
    table = folder / TRAIN / "annotations/annotations.txt"
    replace(table, "MANUAL KEY", "KEY")
    with pytest.raises(UserError, match=re.escape("no column MANUAL KEY; its columns are ID, KEY, C")):
        read_giantsteps_key(str(folder))
    table.write_text("ID\tMANUAL KEY\tC\n1000\tC major\n")
    with pytest.raises(UserError, match="line 2: 2 cells; expected 3"):
        read_giantsteps_key(str(folder))
    table.write_text("\n")
    with pytest.raises(UserError, match="empty; expected a table"):
        read_giantsteps_key(str(folder))
