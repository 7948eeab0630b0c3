import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.audio.mel import MelConfig
from muq_jax.models import mel_rvq
from muq_jax.models.config import MelRVQConfig, muq_config
from muq_jax.models.hidden_rvq import HiddenRVQConfig
from muq_jax.objectives.targets import (
    HiddenRVQTargets,
    MelRVQTargets,
    RandomProjectionTargets,
    StoredTargets,
    single_vq_targets,
)
from muq_jax.quantize.random_projection import RandomProjectionConfig
from muq_jax.quantize.rvq import RVQConfig
from tests.models.hidden_rvq_test import make_variables


def hidden_rvq_targets(label_rate):
    teacher = muq_config("smoke", rvq=None, label_rate=label_rate, conformer={"width": 16})
    rvq = RVQConfig(num_books=3, num_codes=64, input_dim=16)
    return HiddenRVQTargets(HiddenRVQConfig(teacher, 1, rvq))


MAKERS = {
    "mel_rvq": MelRVQTargets(MelRVQConfig(rvq=RVQConfig(num_books=3, num_codes=64))),
    "mel_rvq_50hz": MelRVQTargets(
        MelRVQConfig(rvq=RVQConfig(num_books=2, num_codes=64, input_dim=256), label_rate=50)
    ),
    "single_vq": single_vq_targets(),
    "single_vq_50hz": single_vq_targets(label_rate=50),
    "random_projection": RandomProjectionTargets(RandomProjectionConfig(num_codes=128), MelConfig()),
    "random_projection_50hz": RandomProjectionTargets(
        RandomProjectionConfig(num_books=2, num_codes=128, input_dim=256), MelConfig(), frames_per_token=2
    ),
    "hidden_rvq": hidden_rvq_targets(25),
    "hidden_rvq_50hz": hidden_rvq_targets(50),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_maker_of_targets_has_the_same_interface(name):
    maker = MAKERS[name]
    hidden = isinstance(maker, HiddenRVQTargets)
    variables = make_variables(maker.config) if hidden else maker.init(jax.random.key(0))
    assert jax.tree.structure(variables) == jax.tree.structure(jax.eval_shape(maker.init, jax.random.key(0)))
    # A sweep: fresh codebooks would give almost the same code to every token of noise.
    seconds = jnp.arange(9_900) / 24_000
    wave = 0.5 * jnp.sin(2 * jnp.pi * 60 * jnp.exp(12 * seconds)) * jnp.array([[1.0], [0.1], [0.01]])
    num_samples = jnp.array([9_900, 4_000, 0])
    codes, valid = jax.jit(maker)(variables, wave, num_samples)
    tokens = 20 if name.endswith("50hz") else 10
    assert codes.shape == (3, tokens, maker.num_books) and codes.dtype == jnp.int32
    assert 0 <= codes.min() and codes.max() < maker.num_codes
    assert len(np.unique(codes[0])) > 5
    # 4,000 samples are 16 frames, whatever the stacking: 4 tokens of 4 or 8 of 2.
    assert valid.sum(1).tolist() == [tokens, tokens * 4 // 10, 0]
    alone, _ = maker(variables, wave[1:2, :4_000], num_samples[1:2])
    np.testing.assert_array_equal(codes[1][valid[1]], alone[0])


def test_mel_rvq_targets_are_its_codes():
    maker = MAKERS["mel_rvq"]
    variables = maker.init(jax.random.key(0))
    wave = 0.1 * jax.random.normal(jax.random.key(1), (2, 9_600))
    codes, valid = maker(variables, wave, jnp.full(2, 9_600))
    np.testing.assert_array_equal(codes, mel_rvq.encode(variables, wave, config=maker.config))
    assert valid.all() and maker.collection == "rvq"


@pytest.mark.parametrize("label_rate, input_dim", [(25, 512), (50, 256)])
def test_single_vq_is_one_small_book(label_rate, input_dim):
    rvq = single_vq_targets(label_rate=label_rate).config.rvq
    assert rvq == RVQConfig(
        num_books=1, num_codes=1024, code_dim=8, input_dim=input_dim, stale_tolerance=1000
    )


@pytest.mark.parametrize("label_rate, token_samples", [(25, 960), (50, 480)])
def test_stored_targets_are_described_by_their_maker(label_rate, token_samples):
    maker = hidden_rvq_targets(label_rate)
    stored = StoredTargets(maker)
    for name in ("mel", "frames_per_token", "num_books", "num_codes"):
        assert getattr(stored, name) == getattr(maker, name)
    codes = jnp.zeros((3, 20, 3), jnp.int32)
    valid = stored.valid(codes, jnp.array([20 * token_samples, 7 * token_samples + 1, 0]))
    assert valid.sum(1).tolist() == [20, 7, 0]
