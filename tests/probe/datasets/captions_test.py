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
    {"tags": ["new_age", "genre---rock"], "split": "test"},
    {"caption": "a slow piece", "split": "test"},
    {"caption": None, "tags": [], "split": "test"},
    {"caption": "of another split", "split": "val"},
)


def test_captions_come_before_tags(manifest):
    dataset = read_captions(manifest(*ROWS))
    assert [(item.id, words(item.label)) for item in dataset.items] == [
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
    with pytest.raises(UserError, match=r"test, val|val, test"):
        read_captions(manifest(*ROWS), "train")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"caption": 3}, "`caption` is 3; expected a text"),
        ({"tags": "rock"}, "`tags` is 'rock'; expected a list of names"),
        ({"caption": "a"}, r"found 1 different text\(s\) for 2 tracks"),
        ({"caption": "b", "path": "gs://bucket/a.wav"}, "in an object store; probes read local files"),
    ],
)
def test_what_is_refused(row, says, manifest):
    with pytest.raises(UserError, match=says):
        read_captions(manifest({"caption": "a"}, row))
