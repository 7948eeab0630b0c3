import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.make_goldens import noise_wave
from experiments.original import random_tensors, upstream_config
from muq_jax.convert import mulan as mulan_names
from muq_jax.errors import UserError
from muq_jax.models.config_json import from_upstream_json
from muq_jax.models.mulan import AudioTower, MuLanConfig, TextTower
from muq_jax.models.roberta import RobertaConfig
from muq_jax.nn.transformer import TransformerConfig

GOLDEN = Path(__file__).parents[1] / "golden"


def small_config(audio_layers=0):
    """The configuration of the goldens."""
    return MuLanConfig(
        muq=from_upstream_json(upstream_config()),
        roberta=RobertaConfig(101, 48, 3, 4, 96, 40),
        audio_transformer=TransformerConfig(40, audio_layers, 2, 16),
        text_transformer=TransformerConfig(48, 2, 2, 16),
        latent_size=32,
    )


@pytest.fixture(scope="module", params=["mulan", "mulan_deep"])
def golden(request):
    """Returns what the original computed, the configuration, and variables with the original's weights."""
    arrays = np.load(GOLDEN / f"{request.param}.npz")
    config = small_config(2 if request.param == "mulan_deep" else 0)
    shapes = json.loads(str(arrays["shapes"]))
    return arrays, config, mulan_names.from_torch_names(random_tensors(shapes), config)


def text_tower(config, variables, ids, **options):
    return TextTower(config).apply({"params": variables["params"]["text"]}, ids, **options)


def audio_tower(config, variables, wave, num_samples=None):
    tower = {"params": variables["params"]["audio"], "batch_stats": variables["batch_stats"]["audio"]}
    return AudioTower(config).apply(tower, wave, num_samples)


def padded_ids(texts, pad_id=1):
    rows = [[int(word) for word in text.split()] for text in texts]
    return np.array([row + [pad_id] * (max(map(len, rows)) - len(row)) for row in rows], np.int32)


def test_texts_alone_are_upstreams_whatever_they_share_the_batch_with(golden):
    arrays, config, variables = golden
    ids = padded_ids(json.loads(str(arrays["texts"])))
    np.testing.assert_allclose(text_tower(config, variables, ids), arrays["text_alone"], atol=2e-6)
    longer = np.pad(ids[::-1], ((0, 0), (0, 5)), constant_values=1)
    np.testing.assert_allclose(text_tower(config, variables, longer)[::-1], arrays["text_alone"], atol=2e-6)


def test_texts_averaged_over_padding_are_upstreams_batch(golden):
    arrays, config, variables = golden
    ids = padded_ids(json.loads(str(arrays["texts"])))
    found = text_tower(config, variables, ids, over_padding=True)
    np.testing.assert_allclose(found, arrays["text_padded"], atol=2e-6)
    assert np.abs(arrays["text_padded"] - arrays["text_alone"]).max() > 0.01


def test_a_clip_is_upstreams_alone_and_in_a_batch(golden):
    """Upstream's 7 s track is one clip of 10 s whose end is the track's start."""
    arrays, config, variables = golden
    seven, three = noise_wave(7), noise_wave(3)
    clips = np.zeros((2, 240_000), np.float32)
    clips[0], clips[1, :144_000] = np.concatenate([seven, seven[:72_000]]), np.concatenate([three, three])
    found = audio_tower(config, variables, clips, jnp.array([240_000, 144_000]))
    np.testing.assert_allclose(found[0], arrays["audio_7s"], atol=2e-6)
    np.testing.assert_allclose(found[1], arrays["audio_3s"], atol=2e-6)
    np.testing.assert_allclose(audio_tower(config, variables, clips[:1])[0], arrays["audio_7s"], atol=2e-6)


def test_vectors_have_length_one_also_in_bfloat16():
    config = small_config()
    ids = jnp.array([[0, 5, 2]])
    tower = TextTower(config, "bfloat16")
    vectors = tower.apply(tower.init(jax.random.key(0), ids), ids)
    assert vectors.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"latent_size": 0}, "latent_size must be at least 1, found 0"),
        ({"clip_seconds": 0}, "clip_seconds must be at least 1, found 0"),
        ({"audio_layer": 13}, "audio_layer is 13; the MuQ's layers are numbered 0 to 12"),
        ({"text_transformer": TransformerConfig(512)}, r"text_transformer\.width is 512, roberta\.width 768"),
    ],
)
def test_a_mistake_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        MuLanConfig(**fields)
