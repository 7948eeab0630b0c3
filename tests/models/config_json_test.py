import json
from pathlib import Path

import pytest

from muq_jax.errors import UserError
from muq_jax.models.config import PRESETS, MelRVQConfig, MuQConfig, muq_config
from muq_jax.models.config_json import (
    from_upstream_json,
    mel_rvq_from_json,
    mel_rvq_to_json,
    to_upstream_json,
)
from muq_jax.quantize.rvq import RVQConfig

RELEASED = Path(__file__).parents[1] / "golden" / "muq_large_state_dict.json"


def through_json(config):
    return from_upstream_json(json.loads(json.dumps(to_upstream_json(config))))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_written_in_upstreams_own_keys(name):
    assert "muq_jax" not in to_upstream_json(PRESETS[name])
    assert through_json(PRESETS[name]) == PRESETS[name]


@pytest.mark.parametrize(
    "config",
    [
        muq_config("tiny", label_rate=50),
        muq_config("tiny", conformer={"remat": False, "conv_impl": "lax", "batch_norm_groups": 2}),
        muq_config("tiny", rvq={"num_codes": 64, "code_dim": 4, "hidden_dim": 9}, num_codes=64),
        muq_config("tiny", rvq={"num_codes": 2048}, num_codes=2048),
        muq_config("tiny", rvq=None, num_books=1, num_codes=4096),
        muq_config("tiny", rvq=None, num_books=3, num_codes=100),
        muq_config("tiny", num_books=4, rvq={"num_projection_layers": 2}),
        muq_config("tiny", mel_reconstruction_weight=0.5, mask_noise_std=0.2, mask_prob=0.3),
        muq_config("tiny", mel={"mean": 1.5, "std": 2.5, "num_mels": 80, "stft": "matmul"}),
    ],
)
def test_what_upstream_cannot_express_survives_the_file(config):
    assert through_json(config) == config


def test_the_released_configuration_is_large():
    released = json.loads(RELEASED.read_text())["config"]
    assert from_upstream_json(released) == PRESETS["large"] == MuQConfig()
    written = to_upstream_json(PRESETS["large"])
    del released["stat"]["melspec_2048_cnt"]
    del released["w2v2_config"]["num_hidden_layers"]  # upstream overrides it by encoder_depth
    del written["w2v2_config"]["num_hidden_layers"]
    assert {key: written[key] for key in released} == released


def test_a_mel_rvq_has_a_file_of_its_own():
    config = MelRVQConfig(rvq=RVQConfig(num_books=2, input_dim=256), label_rate=50)
    data = json.loads(json.dumps(mel_rvq_to_json(config)))
    assert data["model_type"] == "mel_rvq"
    assert mel_rvq_from_json(data) == config


def test_what_this_muq_cannot_do_is_refused():
    data = to_upstream_json(PRESETS["smoke"])
    relative = {**data, "w2v2_config": {**data["w2v2_config"], "position_embeddings_type": "relative"}}
    with pytest.raises(UserError, match="position_embeddings_type is 'relative'; only 'rotary'"):
        from_upstream_json(relative)
    with pytest.raises(UserError, match="the key 'encoder_dim' is missing"):
        from_upstream_json({key: value for key, value in data.items() if key != "encoder_dim"})


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("w2v2_config", None, "the key 'w2v2_config.position_embeddings_type' is missing or null"),
        ("w2v2_config", 5, "the key 'w2v2_config.position_embeddings_type' is missing or null"),
        ("stat", None, "the key 'stat.melspec_2048_mean' is missing or null"),
        ("stat", {"melspec_2048_mean": "6", "melspec_2048_std": 18.4}, "stat.melspec_2048_mean is '6'"),
        ("label_rate", "25", "config.json: label_rate is '25'; expected a whole number"),
        ("label_rate", 0, r"label_rate must be one of \(25, 50\).*found 0"),
        ("codebook_size", "8192", "config.json: codebook_size is '8192'; expected a whole number"),
        ("codebook_size", 512, "num_books must be at least 1, found 0"),
        ("rvq_n_codebooks", "8", "config.json: rvq_n_codebooks is '8'; expected a whole number"),
        ("n_mels", None, "the key 'n_mels' is missing or null"),
        ("hop_length", 0, "mel.hop_length must be at least 1, found 0"),
        ("recon_loss_ratio", "x", "config.json: recon_loss_ratio is 'x'; expected a number"),
        ("mask_prob", True, "config.json: mask_prob is True; expected a number"),
        ("features", "melspec_2048", "config.json: features is 'melspec_2048'; expected a list"),
        ("muq_jax", 5, "config.json: muq_jax is 5; expected an object"),
        ("muq_jax", {"conformer": 5}, "conformer is 5; expected its fields by name"),
    ],
)
def test_a_damaged_config_json_names_the_field(key, value, message):
    with pytest.raises(UserError, match=message):
        from_upstream_json({**to_upstream_json(PRESETS["smoke"]), key: value})


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("mel", None, "mel is None; expected its fields by name"),
        ("rvq", None, "rvq is None; expected its fields by name"),
        ("rvq", {"num_books": "8"}, "rvq.num_books is '8'; expected a whole number"),
        ("label_rate", "25", "label_rate is '25'; expected a whole number"),
    ],
)
def test_a_damaged_config_json_of_a_mel_rvq_names_the_field(key, value, message):
    with pytest.raises(UserError, match=message):
        mel_rvq_from_json({**mel_rvq_to_json(MelRVQConfig()), key: value})


def test_absent_and_null_are_upstreams_defaults():
    data = to_upstream_json(PRESETS["large"])
    for key in ("label_rate", "mask_hop", "mask_prob", "rvq_n_codebooks", "rvq_multi_layer_num", "features"):
        del data[key]
    assert from_upstream_json(data) == PRESETS["large"]
    assert from_upstream_json({**data, "label_rate": None}) == PRESETS["large"]
