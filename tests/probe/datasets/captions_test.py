"""Texts of a manifest: captions, tags, and the split that is meant."""

import json

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets.captions import read_captions, words


@pytest.fixture
def manifest(tmp_path):
    def write(*rows):
        path = tmp_path / "clips.jsonl"
        path.write_text("\n".join(json.dumps({"path": f"{i}.wav", **row}) for i, row in enumerate(rows)))
        return path

    return write


ROWS = (
    {"caption": " a slow piece ", "tags": ["piano"], "split": "test"},
    {"tags": ["genre---rock", "new_age"], "split": "test"},
    {"caption": "a slow piece", "split": "test"},
    {"caption": None, "tags": [], "split": "test"},
    {"caption": "of another split", "split": "val"},
)


def test_captions_come_before_tags(manifest):
    dataset = read_captions(manifest(*ROWS))
    assert dataset.problems == ()
    assert [(item.id, *map(words, item.label)) for item in dataset.items] == [
        ("0", "a slow piece"),
        ("1", "new age, rock"),
        ("2", "a slow piece"),
    ]
    assert dataset.classes == ("a slow piece", "new age, rock") and dataset.left_out == {"no text": 1}
    assert [item.audio.name for item in dataset.items] == ["0.wav", "1.wav", "2.wav"]
    assert {item.split for item in dataset.items} == {"test"}


def test_splits(manifest):
    assert len(read_captions(manifest(*ROWS, {"caption": "b", "split": "val"}), "val").items) == 2
    without = [{"caption": "a"}, {"caption": "b"}, {"caption": "c"}]
    dataset = read_captions(manifest(*without))
    assert len(dataset.items) == 3 and dataset.items[0].split == "all"
    assert "may be among those that the model was trained on" in dataset.problems[0]
    with pytest.raises(UserError, match=r"no row of split 'val'; found no splits at all"):
        read_captions(manifest(*without), "val")
    with pytest.raises(
        UserError, match=r"no row of split 'train'; found test, val, expected train, val, test"
    ):
        read_captions(manifest(*ROWS), "train")
    names = {"a": "valid", "b": "dev", "c": "test"}
    other = [{"caption": text, "split": name} for text, name in names.items()]
    assert [item.id for item in read_captions(manifest(*other), "val").items] == ["0", "1"]


def test_rows_out_of_any_split_are_refused_or_counted(manifest):
    dataset = read_captions(manifest(*ROWS, {"caption": "b"}, {"tags": {"genre": []}, "split": "test"}))
    assert len(dataset.items) == 3 and dataset.left_out == {"no text": 2, "no split": 1}
    with pytest.raises(UserError, match="clip '5' has split 'eval'; expected train, val, test"):
        read_captions(manifest(*ROWS, {"caption": "b", "split": "eval"}))


def test_tracks_of_another_split_are_told(manifest):
    dataset = read_captions(
        manifest(*ROWS, {"path": "0.wav", "id": "again", "caption": "b", "split": "train"})
    )
    (problem,) = dataset.problems
    assert problem.startswith("Of 3 tracks 1 are in another split, too, such as") and "0.wav" in problem


def test_rows_of_one_recording_are_one_track(manifest):
    said = (("1", "x", "a"), ("2", "y", "b"), ("3", "x", "c"), ("4", "y", "a"))
    dataset = read_captions(manifest(*({"id": i, "path": f"{p}.wav", "caption": t} for i, p, t in said)))
    assert [(item.id, *map(words, item.label)) for item in dataset.items] == [
        ("1", "a", "c"),
        ("2", "b", "a"),
    ]
    assert dataset.classes == ("a", "c", "b")


def test_tags_in_any_order_are_one_text(manifest):
    rows = [{"tags": ["piano", "mood---calm"]}, {"tags": ["mood---calm", "piano"]}, {"caption": "other"}]
    assert read_captions(manifest(*rows)).classes == ("calm, piano", "other")


def test_some_rows_alone(manifest):
    rows = [{"caption": text, "source": source} for text, source in zip("abcd", "xxyx", strict=True)]
    assert [item.id for item in read_captions(manifest(*rows), where={"source": "x"}).items] == [
        "0",
        "1",
        "3",
    ]
    with pytest.raises(UserError, match="no row has source=z"):
        read_captions(manifest(*rows), where={"source": "z"})
    with pytest.raises(UserError, match="no row has a column 'sauce'; found caption, id, source, split"):
        read_captions(manifest(*rows), where={"sauce": "x"})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"caption": 3}, "`caption` is 3; expected a text"),
        ({"tags": "rock"}, "`tags` is 'rock'; expected a list of names"),
        ({"caption": "a"}, r"found 1 different text\(s\) in 2 rows"),
        ({"caption": "b", "path": "gs://bucket/a.wav"}, "in an object store; probes read local files"),
    ],
)
def test_what_is_refused(row, says, manifest):
    with pytest.raises(UserError, match=says):
        read_captions(manifest({"caption": "a"}, row))
