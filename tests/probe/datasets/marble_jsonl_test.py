"""MARBLE v2's own lists."""

import json
import shutil

import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets.marble_jsonl import (
    MARBLE_V2_NAMES,
    is_marble_jsonl,
    read_marble_jsonl,
    shared_groups,
    without_shared_groups,
)
from muq_jax.probe.task import Beats, Item
from tests.probe.marble_folders_more import make_marble_jsonl


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns a function that gives the folder of a list, made once."""
    root = tmp_path_factory.mktemp("marble")

    def folder(name):
        if not (root / name).exists():
            make_marble_jsonl(root / name, name)
        return root / name

    return folder


@pytest.fixture
def edited(made, tmp_path):
    """Returns a function that copies a list and changes the rows of a split."""

    def folder(name, change=lambda rows: None, split="train"):
        copy = shutil.copytree(made(name), tmp_path / name)
        path = copy / f"{name}.{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        change(rows)
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return copy

    return folder


FIRST_LABELS = {
    "GTZANGenre": ["blues", "jazz", "rock"],
    "GTZANBeatTracking": [Beats((0.1, 0.5, 0.9, 1.3, 1.7, 2.1, 2.5, 2.9, 3.3), (0.1, 1.7, 3.3))],
    "GS": ["C:maj", "Eb:min", "A:min"],
    "EMO": [(-0.3, 0.1), (0.1, 0.2), (0.5, -0.4)],
    "MTT": [("guitar", "slow"), (), ("no vocals",)],
    "MTGTop50": [("genre---a",), ("genre---b",)],
    "MTGGenre": [("genre---a",), ("genre---b",)],
    "MTGInstrument": [("instrument---a",), ("instrument---b",)],
    "MTGMood": [("mood/theme---a",), ("mood/theme---b",)],
    "Chords1217": [((0.0, 1.0, "N"), (1.0, 2.0, "D:maj"), (2.0, 3.0, "A:min"))],
    "HookTheoryKey": ["C:maj", "Eb:min", "A:min"],
    "HookTheoryStructure": ["chorus", "inst", "verse"],
}
CLASSES = {
    "GTZANGenre": 10,
    "GTZANBeatTracking": 0,
    "GS": 24,
    "EMO": 2,
    "Chords1217": 25,
    "HookTheoryKey": 24,
}


@pytest.mark.parametrize("name", MARBLE_V2_NAMES)
def test_every_list(made, name):
    assert is_marble_jsonl(str(made(name)), name)
    dataset = read_marble_jsonl(str(made(name)), name)
    counts = [sum(item.split == split for item in dataset.items) for split in ("train", "val", "test")]
    assert counts == [9, 3, 3] and not dataset.left_out
    labels = [item.label for item in dataset.items]
    assert labels[: len(FIRST_LABELS[name])] == FIRST_LABELS[name]
    assert len({item.id for item in dataset.items}) == 15
    if name in CLASSES:
        assert len(dataset.classes) == CLASSES[name] and not dataset.problems
    for item in dataset.items:
        assert callable(item.audio) or item.audio.is_file()
        assert (item.group is not None) == (name == "GS" or name.startswith("Hook"))


@pytest.mark.parametrize(("name", "num"), [("MTT", 50), ("MTGTop50", 50), ("MTGGenre", 87), ("MTGMood", 56)])
def test_tags_are_those_of_the_lists(made, name, num):
    dataset = read_marble_jsonl(str(made(name)), name)
    assert dataset.classes == tuple(sorted({tag for item in dataset.items for tag in item.label}))
    assert dataset.problems == (f"{name} has {len(dataset.classes)} tags here, and {num} in MARBLE.",)


def test_the_clips_of_a_song_are_one_recording(made):
    item = read_marble_jsonl(str(made("GS")), "GS").items[0]
    assert item.id == item.group == "song000"
    wave = item.audio()
    assert wave.dtype == np.float32 and wave.shape == (4 * 24_000,)


def test_clips_of_a_song_in_two_keys(edited):
    folder = edited("GS", lambda rows: rows[1].update(label="D major"))
    with pytest.raises(UserError, match=r"song song000 \(train\) have several keys: \['C:maj', 'D:maj'\]"):
        read_marble_jsonl(str(folder), "GS")


@pytest.mark.parametrize("above", ["GTZAN", "data/GTZAN"])
def test_lists_in_a_folder_below(made, tmp_path, above):
    shutil.copytree(made("GTZANGenre"), tmp_path / above)
    assert len(read_marble_jsonl(str(tmp_path), "GTZANGenre").items) == 15


def test_what_is_not_there(tmp_path, made):
    assert not is_marble_jsonl(str(tmp_path), "GTZANGenre")
    assert not is_marble_jsonl(str(tmp_path / "gone"), "GTZANGenre")
    assert not is_marble_jsonl(str(made("GS")), "NSynth")
    with pytest.raises(UserError, match=r"no GTZANGenre.train.jsonl.*m-a-p/GTZAN at Hugging Face"):
        read_marble_jsonl(str(tmp_path), "GTZANGenre")


def test_one_list_is_missing(edited):
    folder = edited("EMO")
    (folder / "EMO.val.jsonl").unlink()
    with pytest.raises(UserError, match=r"no EMO.val.jsonl"):
        read_marble_jsonl(str(folder), "EMO")


def test_paths_as_they_stand(edited):
    folder = edited(
        "EMO", lambda rows: [r.update(audio_path=r["audio_path"][len("data/EMO/") :]) for r in rows]
    )
    assert len(read_marble_jsonl(str(folder), "EMO").items) == 15
    absolute = edited_paths = [str(folder / "audio" / "EMO" / f"{n:03d}-0.wav") for n in range(9)]
    lines = [json.dumps({"audio_path": path, "label": [0, 1]}) for path in absolute]
    (folder / "EMO.train.jsonl").write_text("\n".join(lines))
    items = read_marble_jsonl(str(folder), "EMO").items
    assert [str(item.audio) for item in items[:9]] == edited_paths


def test_audio_that_is_missing(edited):
    folder = edited("GTZANGenre")
    (folder / "audio" / "GTZANGenre" / "000-0.wav").unlink()
    dataset = read_marble_jsonl(str(folder), "GTZANGenre")
    assert len(dataset.items) == 14 and dataset.left_out == {"audio missing": 1}
    assert dataset.problems == ("1 recordings of MARBLE's lists have no audio here.",)
    shutil.rmtree(folder / "audio")
    with pytest.raises(UserError, match=r"no line of GTZANGenre's lists can be used.*'audio missing': 15"):
        read_marble_jsonl(str(folder), "GTZANGenre")


def test_keys_that_marble_leaves_out(edited):
    def change(rows):
        rows[0]["label"] = "D harmonicMinor"
        rows[1]["num_samples"] = int(11.9 * rows[1]["sample_rate"])

    dataset = read_marble_jsonl(str(edited("HookTheoryKey", change)), "HookTheoryKey")
    assert dataset.left_out == {"mode other than major and minor": 1, "shorter than 12 s": 1}


def test_several_clips_of_a_video_in_test(edited):
    folder = edited("HookTheoryKey", lambda rows: rows[0].update(ori_uid=rows[1]["ori_uid"]), "test")
    dataset = read_marble_jsonl(str(folder), "HookTheoryKey")
    assert dataset.problems == (
        "Clips are scored; MARBLE averages those of one video first, whose keys may differ.",
    )


def test_videos_in_two_splits_are_no_group(edited):
    folder = edited("HookTheoryStructure", lambda rows: rows[0].update(ori_uid="song000"), "test")
    items = read_marble_jsonl(str(folder), "HookTheoryStructure").items
    assert [item.group is None for item in items] == [True] + 11 * [False] + [True, False, False]


def test_groups_that_splits_share():
    items = [
        Item("a", "train", "", print, "x"),
        Item("b", "test", "", print, "x"),
        Item("c", "val", "", print, "y"),
    ]
    assert shared_groups(items) == {"x": {"train", "test"}}
    assert [item.group for item in without_shared_groups(items)] == [None, None, "y"]


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("GTZANGenre", "polka", "the label 'polka' is unknown; expected one of blues, classical"),
        ("GTZANGenre", 3, "the label 3 is unknown"),
        ("GTZANGenre", ["blues"], "unknown"),
        ("GTZANBeatTracking", [0.5, 1.0], "not as MARBLE v2 writes it"),
        ("GTZANBeatTracking", {"beat": ["x"]}, "not as MARBLE v2 writes it"),
        ("GS", "D# minor", "the label 'D# minor' is unknown"),
        ("EMO", [0.1], "not as MARBLE v2 writes it"),
        ("EMO", "high", "not as MARBLE v2 writes it"),
        ("MTT", "guitar", "not as MARBLE v2 writes it"),
        ("MTGMood", None, "not as MARBLE v2 writes it"),
        ("Chords1217", [{"start_time": 0}], "not as MARBLE v2 writes it"),
        ("Chords1217", [{"start_time": 0, "end_time": 1, "chord_str": "H"}], "'H' is no chord label"),
        ("HookTheoryKey", "H major", "the label 'H major' is unknown"),
        ("HookTheoryKey", "C blues", "the label 'C blues' is unknown"),
        (
            "HookTheoryStructure",
            ["chorus", "coda"],
            "the label 'chorus_coda' is unknown; expected one of intro",
        ),
        ("HookTheoryStructure", 3, "not as MARBLE v2 writes it"),
    ],
)
def test_labels_that_are_none(edited, name, label, message):
    folder = edited(name, lambda rows: rows[1].update(label=label), "val")
    with pytest.raises(UserError, match=rf"{name}.val.jsonl, line 2: .*{message}"):
        read_marble_jsonl(str(folder), name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", r"found \[\]; expected an object with `audio_path` and `label`"),
        ('{"audio_path": "x"}', "expected an object with"),
        ('{"audio_path": 3, "label": "blues"}', "expected an object with"),
    ],
)
def test_lines_that_are_none(edited, line, message):
    folder = edited("GTZANGenre")
    path = folder / "GTZANGenre.test.jsonl"
    path.write_text(path.read_text() + "\n\n" + line)
    with pytest.raises(UserError, match=rf"GTZANGenre.test.jsonl, line 6: .*{message}"):
        read_marble_jsonl(str(folder), "GTZANGenre")
