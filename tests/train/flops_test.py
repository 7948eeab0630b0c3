import jax
import numpy as np
import pytest

from muq_jax.models.config import MelRVQConfig, muq_config
from muq_jax.models.mulan import MuLanConfig, TextTower
from muq_jax.models.muq import MuQModel
from muq_jax.models.roberta import RobertaConfig
from muq_jax.nn.transformer import TransformerConfig
from muq_jax.train.flops import (
    mel_rvq_training_flops,
    mulan_training_flops,
    muq_forward_flops,
    muq_training_flops,
)


@pytest.mark.parametrize("label_rate", [25, 50])
def test_muq_count_is_the_compilers(label_rate):
    """XLA's count of the forward pass, with one layer, since it counts a scan's body once, and no remat."""
    config = muq_config(
        "smoke", label_rate=label_rate, conformer={"num_layers": 1, "remat": False, "conv_impl": "lax"}
    )
    seconds = 2
    model = MuQModel(config)
    mel = jax.ShapeDtypeStruct((1, 100 * seconds, 128), np.float32)

    def logits(variables, mel):
        return model.apply(variables, mel, method="encode").logits

    variables = jax.eval_shape(lambda key, mel: model.init(key, mel, method="encode"), jax.random.key(0), mel)
    counted = jax.jit(logits).lower(variables, mel).compile().cost_analysis()["flops"]
    ours = muq_training_flops(config, 24_000 * seconds) / 3
    assert ours == pytest.approx(counted, rel=0.1)


def test_large_is_the_sum_of_its_layers():
    """30 s: 750 tokens through 12 layers and the heads, six convolutions of 512 channels before them."""
    layer = 2 * 2 * 1024 * 4096 + 4 * 1024**2 + 2 * 750 * 1024 + 3 * 1024**2 + 31 * 1024
    tokens = 750 * (12 * layer + 1024 * 8 * 1024)
    first = 1500 * 64 * 9 * (512 + 512 * 512 + 512)
    second = 750 * 32 * 9 * 3 * 512 * 512
    linear = 750 * 512 * 32 * 1024
    config, front_end = muq_config("large"), first + second + linear
    assert muq_training_flops(config, 720_000) == 6 * (tokens + front_end)
    assert muq_training_flops(config, 720_000, frozen_subsampling=True) == 6 * tokens + 2 * front_end
    heads = 750 * 1024 * 8 * 1024
    assert muq_forward_flops(config, 720_000) == 2 * (tokens - heads + front_end)


def test_mel_rvq_count():
    per_token = 8 * (2 * 512 * 16 + 1024 * 16)
    assert mel_rvq_training_flops(MelRVQConfig(), 24_000) == 6 * 25 * per_token


def test_a_text_is_counted_as_the_compiler_does():
    """With one layer each, since it counts a scan's body once."""
    config = MuLanConfig(
        muq=muq_config("smoke"),
        roberta=RobertaConfig(500, 64, 1, 2, 256, 60),
        text_transformer=TransformerConfig(64, 1, 2, 32),
    )
    tower, ids = TextTower(config), jax.ShapeDtypeStruct((1, 50), np.int32)
    variables = jax.eval_shape(tower.init, jax.random.key(0), ids)
    counted = jax.jit(tower.apply).lower(variables, ids).compile().cost_analysis()["flops"]
    text = mulan_training_flops(config, 48_000, 50) - mulan_training_flops(config, 48_000, 0)
    assert text / 3 == pytest.approx(counted, rel=0.15)


def test_what_is_frozen_is_heard_but_not_learned():
    config = MuLanConfig(muq=muq_config("smoke"))
    heard = muq_forward_flops(config.muq, 48_000)
    audio = [
        mulan_training_flops(config, 48_000, 0, frozen=frozen)
        for frozen in ((), ("audio/muq/subsample",), ("audio/muq",))
    ]
    assert audio[0] == 3 * heard and heard < audio[1] < 3 * heard and audio[2] == heard
    xlm = 12 * (4 * 768**2 + 2 * 40 * 768 + 2 * 768 * 3072)
    texts = [mulan_training_flops(config, 48_000, 40, frozen=frozen) for frozen in ((), ("text/roberta",))]
    assert texts[0] - texts[1] == 4 * 40 * xlm
