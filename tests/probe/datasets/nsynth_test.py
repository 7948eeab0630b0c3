"""NSynth, as its archives unpack."""

import json
import shutil

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.datasets.nsynth import FAMILIES, read_nsynth_instrument, read_nsynth_pitch
from tests.probe.marble_folders_more import make_nsynth


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nsynth")
    make_nsynth(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "nsynth")


def edit(folder, split, change):
    path = folder / f"nsynth-{split}" / "examples.json"
    notes = json.loads(path.read_text())
    change(notes)
    path.write_text(json.dumps(notes))


def test_splits_labels_and_groups(made):
    pitch, family = read_nsynth_pitch(str(made)), read_nsynth_instrument(str(made))
    assert [i.split for i in pitch.items].count("train") == 9
    assert {i.split for i in pitch.items} == {"train", "val", "test"}
    assert len(pitch.classes) == 128 and family.classes == FAMILIES and len(FAMILIES) == 11
    for p, f in zip(pitch.items, family.items, strict=True):
        assert (p.id, p.audio) == (f.id, f.audio)
        assert p.audio.is_file()
        assert int(p.audio.stem.split("-")[1]) == int(p.label)  # a MIDI number, not MARBLE's pitch - 1
        assert p.audio.stem.startswith(f.label)
        assert p.group == (
            None if "flute_acoustic_100" in p.id else p.audio.stem.rpartition("_")[0] + p.id[-12:-8]
        )
    assert sum(i.group is None for i in pitch.items) == 2
    assert not pitch.left_out
    (problem,) = pitch.problems
    assert "9/3/3" in problem and "289,205/12,678/4,096" in problem


def test_one_folder_deeper(made):
    assert len(read_nsynth_pitch(str(made.parent)).items) == 15


def test_audio_that_is_missing(folder):
    next((folder / "nsynth-train" / "audio").iterdir()).unlink()
    dataset = read_nsynth_pitch(str(folder))
    assert len(dataset.items) == 14 and dataset.left_out == {"audio missing": 1}


def test_an_instrument_of_train_in_test(folder):
    edit(folder, "test", lambda notes: next(iter(notes.values())).update(instrument_str="bass_acoustic_000"))
    dataset = read_nsynth_instrument(str(folder))
    assert "1 instruments of train, such as bass_acoustic_000, are in valid or test" in dataset.problems[1]
    assert all(item.group != "bass_acoustic_000" for item in dataset.items)


def test_no_split(folder):
    shutil.rmtree(folder / "nsynth-valid")
    with pytest.raises(UserError, match=r"nsynth-valid/examples.json.*nsynth-valid.jsonwav.tar.gz"):
        read_nsynth_pitch(str(folder))


def test_no_audio_at_all(folder):
    for split in ("train", "valid", "test"):
        shutil.rmtree(folder / f"nsynth-{split}" / "audio")
    with pytest.raises(UserError, match=r"none of the 15 notes has its audio.*unpack the three"):
        read_nsynth_pitch(str(folder))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pitch", 128, "'128' is no class; expected one of 0 to 127"),
        ("pitch", 60.5, "'60.5' is no class"),
    ],
)
def test_a_pitch_out_of_reach(folder, field, value, message):
    edit(folder, "valid", lambda notes: next(iter(notes.values())).update({field: value}))
    with pytest.raises(UserError, match=rf"nsynth-valid/examples.json, note '.*': {message}"):
        read_nsynth_pitch(str(folder))


def test_a_family_that_is_unknown(folder):
    edit(folder, "train", lambda notes: next(iter(notes.values())).update(instrument_family_str="kazoo"))
    with pytest.raises(UserError, match="'kazoo' is no class; expected one of bass to vocal"):
        read_nsynth_instrument(str(folder))


@pytest.mark.parametrize("field", ["pitch", "instrument_str"])
def test_an_entry_without_a_field(folder, field):
    edit(folder, "train", lambda notes: next(iter(notes.values())).pop(field))
    with pytest.raises(
        UserError, match="expected the fields pitch, instrument_str and instrument_family_str"
    ):
        read_nsynth_pitch(str(folder))


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "a JSON list; expected an object")])
def test_what_is_no_list_of_notes(folder, text, message):
    (folder / "nsynth-test" / "examples.json").write_text(text)
    with pytest.raises(UserError, match=rf"nsynth-test/examples.json: {message}"):
        read_nsynth_pitch(str(folder))
