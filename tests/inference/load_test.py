from pathlib import Path

import huggingface_hub
import pytest

from muq_jax import MuQ, MuQMuLan
from muq_jax.convert.find_tokenizer import XLM_ROBERTA
from muq_jax.errors import UserError
from muq_jax.inference.load import load_model, make_hearer, named_files, space_of
from muq_jax.inference.tag import tag


def test_whatever_it_is_it_is_loaded_as_that(muq_folder, mulan_folder):
    assert type(load_model(muq_folder)) is MuQ
    mulan = load_model(mulan_folder)
    assert type(mulan) is MuQMuLan and load_model(mulan) is mulan


def test_a_mulan_of_the_hub_has_the_tokenizer_of_the_hub(mulan_folder, tokenizer_json, tmp_path, monkeypatch):
    """As the release is: without one of its own."""
    snapshot = tmp_path / "models--o--m" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes((mulan_folder / name).read_bytes())
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda repo_id, *_, **__: asked.append(repo_id) or str(tokenizer_json),
    )
    assert load_model("o/m").tokenizer is not None
    with pytest.raises(UserError, match="no such file"):
        tag("o/m", [tmp_path / "none.wav"])
    assert asked == [XLM_ROBERTA] * 2


def test_a_space_is_known_without_a_device(muq_folder, mulan_folder, monkeypatch):
    monkeypatch.setattr("muq_jax.inference.load.make_hearer", None)
    muq, mulan = load_model(muq_folder), load_model(mulan_folder)
    assert space_of(muq, [0, -1], 5.0, "max").layers == (0, 2)
    assert space_of(mulan).rows == (0,) and space_of(mulan).window_seconds == 10.0
    assert space_of(muq).params_sha256 != space_of(mulan).params_sha256
    with pytest.raises(UserError, match="no layers, window or pool"):
        space_of(mulan, "all")
    with pytest.raises(UserError, match=r"window_seconds is 0\.0"):
        space_of(muq, window_seconds=0.0)


def test_an_encoder_has_the_settings_of_its_space(muq_folder):
    muq = load_model(muq_folder)
    hearer = make_hearer(muq, space_of(muq, [1], 2.0))
    assert hearer.layers == (1,) and hearer.piece_samples == 48_000


def test_files_have_their_names_below_what_is_given(tmp_path):
    for name in ("one/a.wav", "one/b/c.FLAC", "two/a.wav", "x.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert [name for name, _ in named_files([tmp_path / "one"])] == ["a.wav", "b/c.FLAC"]
    assert [name for name, _ in named_files([tmp_path / "one/b", tmp_path / "two"])] == ["a.wav", "c.FLAC"]
    several = named_files([tmp_path / "two", tmp_path / "one", tmp_path / "x.mp3"])
    assert [name for name, _ in several] == ["one/a.wav", "one/b/c.FLAC", "two/a.wav", "x.mp3"]
    assert several[0][1] == Path(tmp_path / "one/a.wav")
    twice = named_files([tmp_path / "one", tmp_path / "one/a.wav", tmp_path / "one/../one"])
    assert [name for name, _ in twice] == ["a.wav", "b/c.FLAC"]
