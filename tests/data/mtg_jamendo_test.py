"""MTG-Jamendo as a source: the published lists and audio, told apart and refused."""

import logging
import shutil

import numpy as np
import pytest
import soundfile

from muq_jax.data.mtg_jamendo import mtg_jamendo_clips
from muq_jax.data.sources import make_source
from muq_jax.data.texts import texts_in
from muq_jax.errors import UserError
from muq_jax.text.sentences import Text

HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
LISTS = "mtg-jamendo-dataset/data/splits/split-0"
TRACKS = {
    "train": [
        (948, ["genre---rock", "mood/theme---happy"]),
        (949, ["instrument---piano"]),
        (950, ["genre---pop"]),
    ],
    "validation": [(1948, ["genre---rock"])],
    "test": [(52, ["genre---jazz", "instrument---saxophone"]), (152, ["genre---jazz"])],
}


@pytest.fixture
def folder(tmp_path):
    """All tracks but 950 have their audio, 0.5 s of noise."""
    (tmp_path / LISTS).mkdir(parents=True)
    for split, tracks in TRACKS.items():
        lines = [HEADER]
        for track, tags in tracks:
            path = f"{track % 100:02d}/{track}.mp3"
            lines.append(
                "\t".join([f"track_{track:07d}", "artist_000001", "album_000002", path, "0.5", *tags])
            )
            if track != 950:
                audio = tmp_path / "AUDIO" / path.replace(".mp3", ".low.mp3")
                audio.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(audio, np.random.default_rng(track).uniform(-0.1, 0.1, 22_050), 44_100)
        (tmp_path / LISTS / f"autotagging-{split}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("train", ["track_0000948", "track_0000949"]),
        ("val", ["track_0001948"]),
        ("test", ["track_0000052", "track_0000152"]),
    ],
)
def test_splits_and_what_is_in_them(folder, split, ids):
    source = make_source(f"mtg_jamendo:{folder}", split=split)
    assert [source[i]["id"] for i in range(len(source))] == ids
    assert 11_000 < len(source[0]["wave"]) < 14_000 and source[0]["wave"].any()
    assert source[0]["labels"] == {"tags": TRACKS["validation" if split == "val" else split][0][1]}


def test_all_splits_and_their_texts(folder):
    source = make_source(f"mtg_jamendo:{folder}")
    assert [clip.split for clip in mtg_jamendo_clips(folder)] == ["train", "train", "val", "test", "test"]
    assert list(texts_in(source))[:2] == [
        Text(None, (("genre", "rock"), ("mood/theme", "happy"))),
        Text(None, (("instrument", "piano"),)),
    ]


def test_it_may_be_a_part_of_a_mixture(folder):
    source = make_source(f"mtg_jamendo:{folder}=1,toy_music:10=1", split="test")
    assert [source[i]["id"] for i in range(2)] == ["track_0000052", "track_0000152"] and len(source) == 3


def test_of_both_qualities_the_lower_is_taken(folder):
    full = folder / "full/48/948.mp3"
    full.parent.mkdir(parents=True)
    shutil.copy(folder / "AUDIO/48/948.low.mp3", full)
    assert mtg_jamendo_clips(folder)[0].path == folder / "AUDIO/48/948.low.mp3"
    (folder / "AUDIO/48/948.low.mp3").unlink()
    assert mtg_jamendo_clips(folder)[0].path == full


@pytest.mark.parametrize(
    "place", ["data/splits/split-0", "splits/split-0", "split-0", "clone/data/splits/split-0"]
)
def test_lists_elsewhere(folder, place):
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / LISTS).rename(folder / place)
    assert len(mtg_jamendo_clips(folder)) == 5


def test_tracks_without_audio_are_counted_once(folder, caplog):
    with caplog.at_level(logging.WARNING):
        for split in ("train", "val", "train", None):
            mtg_jamendo_clips(folder, split)
    assert caplog.messages == [
        f"{folder}: 1 of 3 tracks of train have no audio here and are left out",
        f"{folder}: 1 of 6 tracks of all splits have no audio here and are left out",
    ]


def test_no_audio_at_all(folder):
    shutil.rmtree(folder / "AUDIO")
    with pytest.raises(UserError, match=r"none of the 3 tracks has its MP3.*github\.com/MTG.*download\.py"):
        make_source(f"mtg_jamendo:{folder}", split="train")


def test_what_is_not_there_is_named(folder, tmp_path):
    (folder / LISTS / "autotagging-test.tsv").unlink()
    assert len(make_source(f"mtg_jamendo:{folder}", split="train")) == 2  # which needs no other list
    with pytest.raises(
        UserError, match=r"found no data/splits/split-0/autotagging-test\.tsv.*github\.com/MTG"
    ):
        make_source(f"mtg_jamendo:{folder}")
    with pytest.raises(UserError, match=r"nowhere: no such folder\. MTG-Jamendo: clone"):
        make_source(f"mtg_jamendo:{tmp_path}/nowhere")
    with pytest.raises(UserError, match="no clip of split 'valid'; MTG-Jamendo has train, val, test"):
        make_source(f"mtg_jamendo:{folder}", split="valid")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("track_0000001\tartist_000001", "line 5: 2 cells; expected TRACK_ID"),
        ("t\ta\tb\t48/948.mp3\t3\tloud", "line 5: the tag 'loud'; expected CATEGORY---NAME"),
    ],
)
def test_a_damaged_list(folder, line, said):
    path = folder / LISTS / "autotagging-train.tsv"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=rf"autotagging-train\.tsv, {said}"):
        make_source(f"mtg_jamendo:{folder}", split="train")


def test_a_list_that_is_none(folder):
    path = folder / LISTS / "autotagging-train.tsv"
    path.write_text("404: Not Found\n")
    with pytest.raises(UserError, match="line 1: found '404: Not Found'; expected TRACK_ID"):
        mtg_jamendo_clips(folder)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"autotagging-train\.tsv: cannot be read as text in UTF-8"):
        mtg_jamendo_clips(folder)
