"""Looking things up in a dataset's folder."""

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets import folder as folders
from muq_jax.probe.task import Item


def test_the_first_of_several_places_is_taken(tmp_path):
    for name in ("b/list.txt", "a/list.txt", "c/other.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert folders.require(tmp_path, ("list.txt", "*/list.txt"), "get it") == tmp_path / "a/list.txt"
    assert folders.find(tmp_path, ("nothing", ".")) == tmp_path
    assert folders.find(tmp_path, ("nothing",)) is None


def test_what_is_not_there_is_said_with_its_source(tmp_path):
    (tmp_path / "file").touch()
    for folder, message in (
        (tmp_path / "none", "none: no such folder. Get it"),
        (tmp_path / "file", "file: not a folder. Get it"),
        (tmp_path, "found none of x, y/x. Get it"),
    ):
        with pytest.raises(UserError, match=message):
            folders.require(folder, ("x", "y/x"), "Get it")


def test_audio_by_name(tmp_path):
    for name in ("b/1.LOFI.mp3", "a/2.WAV", "a/1.LOFI.flac", "a/._3.wav", "a/4.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = folders.audio_by_stem(tmp_path)
    assert found == {"1.LOFI": tmp_path / "a/1.LOFI.flac", "2": tmp_path / "a/2.WAV"}
    assert folders.audio_by_stem(tmp_path / "none") == {}


def test_rows_have_their_lines(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b'\xef\xbb\xbfid, name\r\n1,"a, ""b"""\r\n\r\n2,"two\r\nlines",,\r\n3,\tc \r\n')
    rows = list(folders.numbered_rows(path, ","))
    assert [number for number, _ in rows] == [2, 5, 6]
    assert [row["name"] for _, row in rows] == ['a, "b"', "two\r\nlines", "c"]
    assert folders.read_table(path, ",") == [row for _, row in rows]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty"),
        (b"\xff\xfe", "cannot be read as text in UTF-8"),
        (b"id,name\n1,a,b\n", "line 2: 3 cells; expected 2"),
        (b"id,name\n1\n", "line 2: 1 cells; expected 2"),
        (b'id,name\n1,"' + b"a" * 140_000, "line 2: field larger"),
    ],
)
def test_damaged_tables(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_bytes(text)
    with pytest.raises(UserError, match=message):
        folders.read_table(path, ",")


def test_counts():
    splits = ("train", "train", "val", "test", "test")
    items = [Item(str(i), split, "x", lambda: None) for i, split in enumerate(splits)]
    assert folders.count_splits(items) == (2, 1, 2)


def test_counts_that_differ_are_said():
    assert folders.published_problem((1, 2, 3), (1, 2, 3)) == ()
    (problem,) = folders.published_problem((1, 2, 3), (1000, 2, 3))
    assert "1/2/3" in problem and "1,000/2/3" in problem
