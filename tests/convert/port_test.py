import json
from pathlib import Path

import jax
import numpy as np
import pytest

import muq_jax
from experiments.make_goldens import noise_wave
from experiments.original import random_tensors, upstream_config
from muq_jax.checkpoint import Checkpoints
from muq_jax.cli import main
from muq_jax.convert import muq as muq_names
from muq_jax.convert import rules
from muq_jax.convert.port import NOT_COMPARED, port
from muq_jax.convert.reader import read_tensors, write_tensors
from muq_jax.errors import UserError
from muq_jax.models.config_json import from_upstream_json, to_upstream_json
from tests.inference.mulan_test import TEXTS

CONFIG = from_upstream_json(upstream_config())


@pytest.fixture(scope="module")
def tensors():
    table = muq_names.muq_table(CONFIG)
    shapes = rules.state_dict_shapes(table, muq_names.template(CONFIG))
    return rules.complete(random_tensors(shapes), table)


@pytest.fixture
def source(torch_format, tensors, tmp_path):
    """A folder as the hub has it: upstream's config.json and a pickled state dict."""
    path = tmp_path / "source"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(upstream_config()))
    (path / "LICENSE").write_text("CC-BY-NC")
    torch_format(path / "pytorch_model.bin", tensors)
    return path


def hidden(path, wave):
    return np.stack(muq_jax.MuQ.from_pretrained(path)([wave], sampling_rate=24_000).hidden_states)


def record(path, model_folder, **changes):
    """What record_activations writes, of our own model."""
    wave = noise_wave(1)
    states = hidden(model_folder, wave)[:, 0]
    np.savez(path, **{"model_type": "muq", "wave_noise": wave, "hidden_noise": states} | changes)


def test_a_pickled_model_becomes_a_folder(source, tensors, tmp_path):
    report = port(source, tmp_path / "model")
    again = read_tensors(tmp_path / "model")
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor)
    assert json.loads((tmp_path / "model/conversion.json").read_text()) == report
    assert report["original"] == NOT_COMPARED and report["round_trip"] == "equal"
    assert (
        list(report["source"]) == ["pytorch_model.bin"] and len(report["source"]["pytorch_model.bin"]) == 64
    )
    assert (tmp_path / "model/LICENSE").read_text() == "CC-BY-NC"
    assert (
        set(report["tensors_unread"])
        == tensors.keys()
        - rules.to_torch(muq_names.from_torch_names(tensors, CONFIG), muq_names.muq_table(CONFIG)).keys()
    )
    np.testing.assert_array_equal(hidden(tmp_path / "model", noise_wave(1)), hidden(source, noise_wave(1)))


def test_a_file_is_ported_by_the_config_beside_it(source, tmp_path):
    assert port(source / "pytorch_model.bin", tmp_path / "a") == port(source, tmp_path / "b")


def test_one_digest_for_a_folder_and_its_port(source, tmp_path):
    first = port(source, tmp_path / "a")
    second = port(tmp_path / "a", tmp_path / "b")
    assert first["params_sha256"] == second["params_sha256"]
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_a_run_is_exported_with_its_history(tensors, tmp_path):
    variables = muq_names.from_torch_names(tensors, CONFIG)
    state = {"batch_stats": variables["batch_stats"], "rvq": variables["rvq"]}
    items = {"params": variables["params"], "opt": {"count": np.zeros(())}, "model_state": state}
    run = tmp_path / "run"
    with Checkpoints(run) as checkpoints:
        items = jax.tree.map(jax.numpy.asarray, items)
        checkpoints.save(7, items, {"model": to_upstream_json(CONFIG)})
    settings = {"data": {"source": "/home/me/records", "batch_size": 8, "crop_seconds": 5.0}}
    (run / "config.json").write_text(json.dumps(settings))
    rows = [
        {"split": "train", "step": 5, "loss": 6.0},
        {"split": "valid", "step": 7, "loss": 6.5},
        {"split": "train", "step": 9, "loss": 1.0},  # after the checkpoint
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"split": "tr')
    report = port(run, tmp_path / "model")
    assert report["source"] == {"run": "run", "step": "7"}
    card = (tmp_path / "model/README.md").read_text()
    assert "- trained on records, 7 steps of 8 clips of 5.0 s\n" in card and "/home" not in card
    assert "- training loss 6.000 at step 5\n- validation loss 6.500 at step 7\n" in card
    assert report["params_sha256"] in card and "license:" not in card
    with pytest.raises(UserError, match="expected an identifier such as cc-by-nc"):
        port(run, tmp_path / "licensed", licence="mit\nlicense: gpl")
    port(run, tmp_path / "licensed", licence="cc-by-4.0")
    assert "license: cc-by-4.0\n" in (tmp_path / "licensed/README.md").read_text()
    muq_jax.MuQ.from_pretrained(run).save_pretrained(tmp_path / "saved")
    assert "- trained on records, 7 steps" in (tmp_path / "saved/README.md").read_text()


def test_activations_of_the_original_are_held_against_it(source, tmp_path):
    record(tmp_path / "same.npz", source)
    report = port(source, tmp_path / "model", activations=tmp_path / "same.npz")
    assert report["original"].keys() == {"noise, layer 0", "noise, layer 1", "noise, layer 2"}
    assert max(size["largest"] for size in report["original"].values()) < 1e-5


def test_activations_that_compare_nothing_are_refused(source, tmp_path):
    record(tmp_path / "recorded.npz", source)
    whole = (tmp_path / "recorded.npz").read_bytes()
    np.savez(tmp_path / "empty.npz", model_type="muq")
    np.savez(tmp_path / "half.npz", model_type="muq", wave_x=noise_wave(1))
    np.save(tmp_path / "array.npz.npy", np.zeros(3))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name, message in (
        ("empty", "holds nothing to be compared"),
        ("half", "is incomplete: it lacks 'hidden_x'"),
        ("array", "one array without a name"),
        ("cut", r"not a whole \.npz file"),
        ("absent", "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            port(source, tmp_path / "model", activations=tmp_path / f"{name}.npz")
        assert not (tmp_path / "model").exists()


def test_what_is_written_is_read_back(source, tmp_path, monkeypatch):
    from muq_jax.convert import folder as model_folder

    def damages(path, tensors):
        write_tensors(path, tensors)
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(model_folder, "write_tensors", damages)
    with pytest.raises(UserError, match="does not hold what was written to it"):
        port(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_is_a_mulans(source, tokenizer_json, tmp_path):
    with pytest.raises(UserError, match="is a muq, which reads no text"):
        port(source, tmp_path / "model", tokenizer=tokenizer_json)
    (source / "tokenizer.json").write_text("whatever")
    port(source, tmp_path / "model")
    assert not (tmp_path / "model/tokenizer.json").exists()


def test_another_models_activations_stop_it(source, tmp_path):
    states = hidden(source, noise_wave(1))[:, 0]
    states[1, 3, 5] += 0.1
    record(tmp_path / "other.npz", source, hidden_noise=states)
    with pytest.raises(
        UserError, match=r"layer 1: RMS \S+, largest \S+ \(bound: RMS 1\.0e-04, largest 1\.0e-03\)"
    ):
        port(source, tmp_path / "model", activations=tmp_path / "other.npz")
    assert not (tmp_path / "model").exists()
    record(tmp_path / "kind.npz", source, model_type="mulan")
    with pytest.raises(UserError, match=r"holds activations of mulan, the model is a muq"):
        port(source, tmp_path / "model", activations=tmp_path / "kind.npz")
    (tmp_path / "text.npz").write_text("x")
    with pytest.raises(UserError, match=r"not a whole \.npz file"):
        port(source, tmp_path / "model", activations=tmp_path / "text.npz")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda t: t.pop("model.linear.weight"), r"missing model\.linear\.weight"),
        (lambda t: t.update(extra=t["model.linear.bias"]), "unknown extra"),
        (
            lambda t: t.update({"model.linear.bias": np.zeros(3, np.float32)}),
            "bias has shape",
        ),
        (lambda t: t["model.linear.weight"].fill(0), r"model\.linear\.weight is all zeros"),
        (lambda t: t["model.linear.bias"].fill(np.nan), r"model\.linear\.bias holds NaN"),
    ],
)
def test_damaged_weights_are_refused_and_nothing_is_written(source, tensors, tmp_path, damage, message):
    damaged = {name: tensor.copy() for name, tensor in tensors.items()}
    damage(damaged)
    (source / "pytorch_model.bin").unlink()
    write_tensors(source / "model.safetensors", damaged)
    with pytest.raises(UserError, match=message):
        port(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_mulan_takes_its_tokenizer_along(mulan_folder, tokenizer_json, tmp_path):
    port(mulan_folder, tmp_path / "a")
    assert main(["info", str(tmp_path / "a")]) == 0
    found = muq_jax.MuQMuLan.from_pretrained(tmp_path / "a")(texts=TEXTS)
    np.testing.assert_array_equal(found, muq_jax.MuQMuLan.from_pretrained(mulan_folder)(texts=TEXTS))
    (tmp_path / "a/tokenizer.json").unlink()
    port(tmp_path / "a", tmp_path / "b", tokenizer=tokenizer_json)
    assert (tmp_path / "b/tokenizer.json").read_bytes() == tokenizer_json.read_bytes()


def test_a_dead_text_tower_is_refused(mulan_folder, tmp_path):
    assert 0 < port(mulan_folder, tmp_path / "alive")["nearest_texts_cosine"] < 0.99
    tensors = {name: tensor.copy() for name, tensor in read_tensors(mulan_folder).items()}
    tensors["mulan.text_to_latents.weight"] *= 1e-6
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead/config.json").write_bytes((mulan_folder / "config.json").read_bytes())
    write_tensors(tmp_path / "dead/model.safetensors", tensors)
    with pytest.raises(UserError, match=r"different texts have a cosine of 1\.0+: a dead text tower"):
        port(tmp_path / "dead", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_is_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match=r"describes a model of type 'bert'; known are muq, musicfm, mulan"):
        port(tmp_path, tmp_path / "model")


def test_a_config_that_cannot_be_names_its_folder(source, tmp_path):
    (source / "config.json").write_text(json.dumps(upstream_config(label_rate="fast")))
    with pytest.raises(UserError, match=f"{source}: config.json: label_rate is 'fast'"):
        port(source, tmp_path / "model")


def test_the_command(source, tmp_path, capsys):
    assert main(["convert", str(source), str(tmp_path / "model")]) == 0
    printed = capsys.readouterr().out
    assert (
        "there and back: equal\nMel-RVQ: trained\noriginal: not compared with the original\nparams sha256 "
        in printed
    )
    record(tmp_path / "same.npz", source)
    against = ["--against", str(tmp_path / "same.npz")]
    assert main(["convert", str(source), str(tmp_path / "model"), *against]) == 0
    assert "\noriginal: noise, layer 2: RMS " in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "model"), *against]) == 0
    assert "\noriginal: noise, layer 2: RMS " in capsys.readouterr().out
    capsys.readouterr()
    assert main(["info", str(tmp_path / "model")]) == 0
    assert "model folder, muq" in capsys.readouterr().out
    assert main(["convert", str(Path(tmp_path / "none")), str(tmp_path / "model")]) == 1
    assert "There is no folder" in capsys.readouterr().err
