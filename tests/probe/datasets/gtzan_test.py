"""GTZAN's clips, splits and beats, in the layouts in which they are to be had."""

import json
import shutil

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets.gtzan import GENRES, read_gtzan_beat, read_gtzan_genre
from muq_jax.probe.task import Beats
from tests.probe.marble_folders import as_jams, make_gtzan, make_gtzan_beat


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gtzan")
    make_gtzan(folder, seconds=0.1)
    return folder


@pytest.fixture(scope="module")
def made_beats(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gtzan_beat")
    make_gtzan_beat(folder, seconds=3.0)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "gtzan")


@pytest.fixture
def beats(made_beats, tmp_path):
    return shutil.copytree(made_beats, tmp_path / "gtzan_beat")


def of_split(dataset, split):
    return [item for item in dataset.items if item.split == split]


def test_clips_are_in_their_lists_splits_with_their_genres(made):
    dataset = read_gtzan_genre(str(made))
    assert [len(of_split(dataset, split)) for split in ("train", "val", "test")] == [20, 10, 10]
    assert dataset.classes == GENRES == tuple(sorted(GENRES))
    assert all(item.label == item.id.split(".")[0] and item.group is None for item in dataset.items)
    assert all(item.audio.is_file() and item.audio.stem == item.id for item in dataset.items)
    assert dataset.left_out == {"jazz.00054 is damaged": 1}
    assert "20/10/10" in dataset.problems[0] and "442/197/290" in dataset.problems[0]


@pytest.mark.parametrize("where", ["genres_original", "Data/genres_original", "gtzan_genre/genres"])
def test_layouts_of_other_copies(folder, where):
    (folder / where).parent.mkdir(exist_ok=True)
    (folder / "genres").rename(folder / where)
    assert len(read_gtzan_genre(str(folder)).items) == 40


def test_au_files_and_lists_with_other_ends_of_lines(folder):
    for path in (folder / "genres").rglob("*.wav"):
        path.rename(path.with_suffix(".au"))
    path = folder / "test_filtered.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    dataset = read_gtzan_genre(str(folder))
    assert len(dataset.items) == 40 and dataset.items[0].audio.suffix == ".au"


def test_a_whole_jazz_54_is_left_out_too(folder):
    shutil.copy(folder / "genres/jazz/jazz.00000.wav", folder / "genres/jazz/jazz.00054.wav")
    dataset = read_gtzan_genre(str(folder))
    assert "jazz.00054" not in {item.id for item in dataset.items}


def test_missing_recordings_are_counted(folder):
    for number in (0, 1):
        (folder / f"genres/rock/rock.{number:05d}.wav").unlink()
    dataset = read_gtzan_genre(str(folder))
    assert dataset.left_out["audio missing"] == 2 and len(dataset.items) == 38


def test_no_audio_at_all(folder):
    shutil.rmtree(folder / "genres")
    with pytest.raises(UserError, match=r"'audio missing': 40.*genres\.tar\.gz"):
        read_gtzan_genre(str(folder))


def test_no_folder_and_no_list(folder, tmp_path):
    with pytest.raises(UserError, match=r"no such folder.*coreyker/dnn-mgr"):
        read_gtzan_genre(str(tmp_path / "nowhere"))
    (folder / "valid_filtered.txt").unlink()
    with pytest.raises(UserError, match=r"found none of valid_filtered\.txt.*coreyker/dnn-mgr"):
        read_gtzan_genre(str(folder))


@pytest.mark.parametrize("line", ["polka/polka.00001.wav", "rock/rock.wav", "rock"])
def test_a_line_that_names_no_clip(folder, line):
    path = folder / "test_filtered.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"test_filtered\.txt, line 11: .*blues/blues\.00029\.wav"):
        read_gtzan_genre(str(folder))


def test_a_list_that_is_no_text(folder):
    (folder / "test_filtered.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"test_filtered\.txt: cannot be read as text"):
        read_gtzan_genre(str(folder))


def test_beats_and_downbeats(made_beats):
    dataset = read_gtzan_beat(str(made_beats))
    assert [len(of_split(dataset, split)) for split in ("train", "val", "test")] == [8, 3, 3]
    assert dataset.classes == ()
    first = dataset.items[0].label
    period = 60 / 90
    assert first.beats == pytest.approx([0.1 + i * period for i in range(len(first.beats))], abs=1e-3)
    assert first.downbeats == first.beats[::4]


def test_beats_without_number_have_no_downbeats(beats):
    path = beats / "gtzan_tempo_beat-main/beats/gtzan_blues_00000.beats"
    path.write_text("1.5\n0.5\n\n1.0\n1.0\n")
    assert read_gtzan_beat(str(beats)).items[0].label == Beats((0.5, 1.0, 1.5), ())


def test_a_clip_without_beats_is_left_out(beats):
    (beats / "gtzan_tempo_beat-main/beats/gtzan_blues_00000.beats").unlink()
    (beats / "gtzan_tempo_beat-main/beats/gtzan_classical_00001.beats").write_text("\n")
    dataset = read_gtzan_beat(str(beats))
    assert dataset.left_out == {"no beats annotated": 2} and len(dataset.items) == 12


def test_a_damaged_file_of_beats(beats):
    path = beats / "gtzan_tempo_beat-main/beats/gtzan_blues_00000.beats"
    path.write_text("0.5\t1\nhalf\t2\n")
    with pytest.raises(UserError, match=r"gtzan_blues_00000\.beats, line 2: found 'half"):
        read_gtzan_beat(str(beats))


@pytest.mark.parametrize("name", ["blues.00000.wav.jams", "blues.00000.jams"])
def test_jams_come_before_the_other_beats(beats, name):
    path = beats / "GTZAN-Rhythm_v2_ismir2015_lbd/jams" / name
    path.parent.mkdir(parents=True)
    path.write_text(as_jams([0.25, 0.5, 0.75], [0.25]))
    dataset = read_gtzan_beat(str(beats))
    assert [item.label for item in dataset.items] == [Beats((0.25, 0.5, 0.75), (0.25,))]
    assert dataset.left_out == {"no beats annotated": 13}


def test_jams_of_the_older_kind(beats):
    path = beats / "jams/blues.00000.wav.jams"
    path.parent.mkdir()
    data = {"time": [1, 2.5], "value": [1, 1]}
    annotation = {"namespace": "beat", "sandbox": {"annotation_type": "beat"}, "data": data}
    path.write_text(json.dumps({"annotations": [annotation]}))
    assert read_gtzan_beat(str(beats)).items[0].label == Beats((1.0, 2.5), ())


@pytest.mark.parametrize("text", ["no json", "[]", '{"annotations": [{"namespace": "beat"}]}'])
def test_damaged_jams(beats, text):
    path = beats / "jams/blues.00000.wav.jams"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=r"blues\.00000\.wav\.jams: not JAMS"):
        read_gtzan_beat(str(beats))


def test_no_beats_at_all(folder, tmp_path):
    with pytest.raises(UserError, match=r"there are no beats.*gtzan_tempo_beat"):
        read_gtzan_beat(str(folder))
    with pytest.raises(UserError, match=r"no such folder.*gtzan_tempo_beat"):
        read_gtzan_beat(str(tmp_path / "nowhere"))
