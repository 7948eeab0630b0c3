import dataclasses

import pytest

from muq_jax.errors import UserError
from muq_jax.models.config import PRESETS, MelRVQConfig, muq_config
from muq_jax.nn.conformer import ConformerConfig
from muq_jax.quantize.rvq import RVQConfig


def test_the_presets_are_those_of_the_table():
    sizes = {}
    for name, config in PRESETS.items():
        c = config.conformer
        sizes[name] = (c.width, c.num_layers, c.num_heads, c.ffn_width, config.conv_channels)
    assert sizes == {
        "smoke": (64, 2, 4, 128, 8),
        "tiny": (192, 6, 4, 768, 64),
        "base": (512, 12, 8, 2048, 256),
        "large": (1024, 12, 16, 4096, 512),
    }


def test_sizes_that_follow_from_others_follow():
    assert PRESETS["large"].frames_per_token == 4
    fast = muq_config("large", label_rate=50)
    assert (fast.frames_per_token, fast.rvq.input_dim) == (2, 256)
    assert muq_config("large", mel={"num_mels": 80}).rvq.input_dim == 320
    assert fast.mel_rvq == MelRVQConfig(rvq=fast.rvq, label_rate=50)
    assert not fast.mel_reconstruction
    assert muq_config("tiny", mel_reconstruction_weight=0.1).mel_reconstruction


def test_a_nested_configuration_may_be_given_whole():
    conformer = ConformerConfig(width=8, num_layers=1, num_heads=2, ffn_width=8)
    assert muq_config("tiny", conformer=conformer).conformer == conformer
    rvq = RVQConfig(num_books=2, input_dim=512)
    assert muq_config("tiny", rvq=rvq, num_books=2).rvq == rvq


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"conformer": {"num_layer": 3}}, "no field 'conformer.num_layer'.*did you mean 'num_layers'"),
        ({"labelrate": 50}, "no field 'labelrate'.*did you mean 'label_rate'"),
        ({"label_rate": 30}, r"label_rate must be one of \(25, 50\).*found 30"),
        ({"mel": {"hop_length": 250}}, "100 frames per second, found 24000 / 250"),
        ({"mel": {"num_mels": 126}}, "multiple of 4, found 126"),
        ({"rvq": {"input_dim": 100}}, "rvq.input_dim is 100; 4 stacked frames of 128"),
        ({"num_books": 9}, "9 heads of 1024 classes cannot predict rvq's 8 books"),
        ({"num_codes": 100}, "8 heads of 100 classes cannot predict"),
        ({"label_rate": "25"}, "label_rate must be one of .*found '25'"),
        ({"num_books": 0}, "num_books must be at least 1, found 0"),
        ({"conv_channels": 0}, "conv_channels must be at least 1, found 0"),
        ({"mask_seconds": 0}, "mask_seconds must be above 0, found 0"),
        ({"mask_prob": 0.0}, r"mask_prob must be above 0 and at most 1, found 0\.0"),
        ({"mask_prob": 1.5}, r"mask_prob must be above 0 and at most 1, found 1\.5"),
        ({"mask_noise_std": -1.0}, r"mask_noise_std must be at least 0, found -1\.0"),
        ({"mel_reconstruction_weight": -1.0}, "mel_reconstruction_weight must be at least 0"),
        ({"mel": {"stft": "fft"}}, "mel.stft is 'fft'"),
        ({"conformer": {"num_heads": 0}}, "conformer.num_heads must be at least 1, found 0"),
        ({"rvq": {"num_codes": 0}}, "rvq.num_codes must be at least 1, found 0"),
        ({"conformer": 5}, "conformer is 5; expected its fields by name"),
        ({"conformer": None}, "conformer is None; expected its fields by name"),
        ({"mel": 5}, "mel is 5; expected its fields by name"),
        ({"rvq": 5}, "rvq is 5; expected its fields by name"),
        ({"num_books": 2.5}, r"num_books is 2\.5; expected a whole number"),
        ({"conformer": {"remat": 1}}, "conformer.remat is 1; expected true or false"),
        ({"conformer": {"hidden_dropout": "0.1"}}, "conformer.hidden_dropout is '0.1'; expected a number"),
    ],
)
def test_a_mistake_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        muq_config("tiny", **overrides)


def test_an_unknown_preset_is_named():
    with pytest.raises(UserError, match="'huge'; there are smoke, tiny, base, large"):
        muq_config("huge")


def test_a_muq_without_a_mel_rvq_says_so():
    with pytest.raises(UserError, match="carries no Mel-RVQ"):
        _ = dataclasses.replace(PRESETS["smoke"], rvq=None).mel_rvq
