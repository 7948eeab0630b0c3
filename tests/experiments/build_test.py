import jax
import pytest

from experiments import build
from experiments.configs import mel_rvq, muq
from muq_jax.errors import UserError
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.models.config_json import from_upstream_json, mel_rvq_from_json
from muq_jax.quantize.rvq import SINGLE_VQ


def muq_config(**model):
    config = muq.get_config("smoke")
    config.model.update(model)
    return config


def fitted(**rvq):
    """A Mel-RVQ as a run of mel_rvq.py:smoke with these sizes leaves it, but not trained."""
    config = mel_rvq.get_config("smoke")
    config.model.rvq.update(rvq)
    trainee = build.make_trainee(config, None)
    params, state = jax.jit(trainee.objective.init)(jax.random.key(0))
    return MelRVQ(mel_rvq_from_json(trainee.model_config), {"params": params, **state})


def test_a_mel_rvq_of_one_book_is_upstreams_plain_quantizer_and_makes_targets():
    rvq = fitted(num_books=1, code_dim=8, stale_tolerance=1000)
    assert rvq.config.rvq == SINGLE_VQ
    trainee = build.make_trainee(muq_config(num_books=1), rvq)
    assert trainee.objective.targets.num_books == trainee.objective.model.config.num_books == 1
    assert from_upstream_json(trainee.model_config).rvq == SINGLE_VQ
    with pytest.raises(UserError, match="4 heads of 1024 classes cannot predict rvq's 1 books"):
        build.make_trainee(muq_config(), rvq)


@pytest.mark.parametrize(
    "model, said",
    [
        ({"mel": {"n_fft": 4096}}, r"mel\.n_fft 4096 and 2048\."),
        ({"stat": (1.0, 2.0)}, r"mel\.mean 1\.0 and 6\.76.*; mel\.std 2\.0 and 18\.4"),
        ({"label_rate": 50}, "label_rate or mel.num_mels is not that of this Mel-RVQ"),
        ({"label_rate": 50, "mel": {"num_mels": 256, "n_fft": 8192}}, "frames per token 2 and 4"),
    ],
)
def test_a_mel_rvq_that_hears_something_else_is_refused(model, said):
    rvq = fitted()
    with pytest.raises(UserError, match=said):
        build.make_trainee(muq_config(**model), rvq)
