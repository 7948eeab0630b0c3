"""HookTheory in Sheet Sage's layout; MARBLE's lists are in marble_jsonl_test."""

import gzip
import json
import shutil

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets.hooktheory import read_hooktheory_key, read_hooktheory_structure
from tests.probe.marble_folders_more import make_hooktheory, make_marble_jsonl


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hooktheory")
    make_hooktheory(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "hooktheory")


def edit(folder, change):
    """Changes the first annotation."""
    path = folder / "Hooktheory.json.gz"
    annotations = json.loads(gzip.decompress(path.read_bytes()))
    change(annotations["hook00"])
    path.write_bytes(gzip.compress(json.dumps(annotations).encode()))


def test_splits_labels_stretches_and_groups(made):
    dataset = read_hooktheory_key(str(made))
    counts = [sum(item.split == split for item in dataset.items) for split in ("train", "val", "test")]
    assert counts == [9, 3, 3] and len(dataset.classes) == 24 and not dataset.left_out
    assert [item.label for item in dataset.items[:3]] == ["C:maj", "A:min", "F:maj"]
    for number, item in enumerate(dataset.items):
        assert item.audio.name == f"-video{number:02d}.mp3" and item.group == f"artist-{number}"
        assert (item.start_seconds, item.end_seconds) == (0.5, 13.5)
    assert "Sheet Sage" in dataset.problems[0] and len(dataset.problems) == 1


def test_the_users_alignment_where_there_is_no_other(folder):
    edit(folder, lambda a: a["alignment"].update(refined=None))
    item = read_hooktheory_key(str(folder)).items[0]
    assert (item.start_seconds, item.end_seconds) == pytest.approx((0.4, 13.4))


def test_times_beyond_the_alignment_lie_on_its_line(folder):
    edit(folder, lambda a: a["alignment"].update(refined={"beats": [2, 4, 24], "times": [1.0, 2.0, 22.0]}))
    item = read_hooktheory_key(str(folder)).items[0]
    assert (item.start_seconds, item.end_seconds) == pytest.approx((0.0, 24.0))


def test_a_clip_that_is_cut_already(folder):
    (folder / "audio" / "-video00.mp3").rename(folder / "audio" / "hook00.mp3")
    item = read_hooktheory_key(str(folder)).items[0]
    assert (item.audio.name, item.start_seconds, item.end_seconds) == ("hook00.mp3", 0.0, None)


def test_artists_in_two_splits_are_no_group(folder):
    edit(folder, lambda a: a["hooktheory"].update(artist="artist-14"))
    items = read_hooktheory_key(str(folder)).items
    assert items[0].group is None and items[14].group is None and items[1].group == "artist-1"


def key(steps, beat=0):
    return {"beat": beat, "tonic_pitch_class": 2, "scale_degree_intervals": steps}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a["tags"].remove("AUDIO_AVAILABLE"), "no audio known"),
        (lambda a: a["tags"].append("TEMPO_CHANGES"), "tempo changes, so that its times are not sure"),
        (lambda a: a["annotations"].update(keys=[]), "several keys, or none"),
        (
            lambda a: a["annotations"]["keys"].append(key([2, 2, 1, 2, 2, 2], 8)),
            "several keys, or none",
        ),
        (
            lambda a: a["annotations"].update(keys=[key([2, 1, 2, 2, 2, 1])]),
            "mode other than major and minor",
        ),
        (lambda a: a["annotations"].update(num_beats=20), "shorter than 12 s"),
        (lambda a: a["youtube"].update(id="gone"), "audio missing"),
    ],
)
def test_what_is_left_out(folder, change, reason):
    edit(folder, change)
    dataset = read_hooktheory_key(str(folder))
    assert len(dataset.items) == 14 and dataset.left_out == {reason: 1}
    assert ("1 annotations have no audio here." in dataset.problems) == (reason == "audio missing")


def test_the_same_key_said_twice(folder):
    edit(
        folder, lambda a: a["annotations"].update(keys=[key([2, 1, 2, 2, 1, 2]), key([2, 1, 2, 2, 1, 2], 8)])
    )
    assert read_hooktheory_key(str(folder)).items[0].label == "D:min"


def test_json_that_is_not_packed(folder):
    path = folder / "Hooktheory.json.gz"
    (folder / "Hooktheory.json").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    assert len(read_hooktheory_key(str(folder)).items) == 15


def test_marbles_lists_come_first(folder):
    make_marble_jsonl(folder, "HookTheoryKey")
    assert "Eb:min" in {item.label for item in read_hooktheory_key(str(folder)).items}


def test_nothing_there(tmp_path):
    with pytest.raises(
        UserError, match=r"found none of Hooktheory.json.gz.*m-a-p/HookTheory.*Sheet|sheetsage"
    ):
        read_hooktheory_key(str(tmp_path))


def test_structure_needs_marbles_lists(folder):
    with pytest.raises(UserError, match=r"no HookTheoryStructure.train.jsonl.*does not say the sections"):
        read_hooktheory_structure(str(folder))
    make_marble_jsonl(folder, "HookTheoryStructure")
    assert len(read_hooktheory_structure(str(folder)).items) == 15


def test_no_audio_at_all(folder):
    shutil.rmtree(folder / "audio")
    with pytest.raises(UserError, match=r"none of the 15 annotations can be used .*audio missing.*VIDEO.mp3"):
        read_hooktheory_key(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("tags"),
        lambda a: a.update(split="DEV"),
        lambda a: a["alignment"].update(refined={"beats": [0], "times": [0.0]}),
        lambda a: a["annotations"].update(keys=[{"beat": 0}]),
    ],
)
def test_annotations_that_are_none(folder, change):
    edit(folder, change)
    with pytest.raises(UserError, match=r"Hooktheory.json.gz, annotation 'hook00': .*expected the fields"):
        read_hooktheory_key(str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{}", "cannot be read"), (gzip.compress(b"[]", mtime=0), "a JSON list; expected an object")],
)
def test_what_is_no_file_of_annotations(folder, content, message):
    (folder / "Hooktheory.json.gz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_hooktheory_key(str(folder))
