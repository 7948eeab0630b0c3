"""A Mel-RVQ of its own or of a MuQ: codes of clips, and what they stand for."""

import warnings

import jax
import numpy as np
import pytest

from experiments.original import upstream_config
from muq_jax.convert.reader import read_tensors, write_tensors
from muq_jax.errors import UserError
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.inference.pretrained import MuQ
from muq_jax.models import mel_rvq
from muq_jax.models.config import MelRVQConfig
from muq_jax.quantize.rvq import RVQConfig
from tests.inference.conftest import random_muq


def test_mel_rvq_of_a_muq_and_of_its_own_folder_agree(muq, clips, tmp_path):
    muq.save_pretrained(tmp_path / "muq")
    carried = MelRVQ.from_pretrained(tmp_path / "muq")
    carried.save_pretrained(tmp_path / "rvq")
    own = MelRVQ.from_pretrained(tmp_path / "rvq")
    assert own.config == carried.config
    codes = own.encode(clips, sampling_rate=24_000)
    np.testing.assert_array_equal(codes, carried.encode(clips, sampling_rate=24_000))
    assert "quantizers.0.codebook.weight" in read_tensors(tmp_path / "rvq")


def test_codes_do_not_depend_on_the_batch(muq, clips):
    rvq = MelRVQ(muq.config.mel_rvq, muq.variables["rvq"])
    codes = rvq.encode(clips, sampling_rate=24_000)
    assert codes.shape == (3, 25, 2) and codes.dtype == np.int32
    for row, clip in zip(codes, clips, strict=True):
        alone = rvq.encode([clip], sampling_rate=24_000)[0]
        np.testing.assert_array_equal(row[: len(alone)], alone)
        assert (row[len(alone) :] == -1).all() and (alone >= 0).all()


def test_codes_decode_to_a_mel_in_decibels(muq, clips):
    rvq = MelRVQ(muq.config.mel_rvq, muq.variables["rvq"])
    codes = rvq.encode(clips[:2], sampling_rate=24_000)
    mel_db = rvq.decode(codes)
    assert mel_db.shape == (2, 4 * 25, 128) and mel_db.dtype == np.float32
    assert not mel_db[1, 4:].any() and mel_db[1, :4].any()
    assert not np.allclose(rvq.decode(codes[:1, :, :1]), mel_db[:1])
    for bad, says in (
        (codes[0], "expected integers"),
        (codes * 1.0, "float64"),
        (codes + 1024, "from 1023 to"),
    ):
        with pytest.raises(UserError, match=says):
            rvq.decode(bad)


def test_a_muq_without_a_mel_rvq_says_so(tmp_path):
    muq = random_muq(upstream_config(use_rvq_target=False, codebook_size=1024))
    assert "rvq" not in muq.variables
    muq.save_pretrained(tmp_path / "muq")
    assert MuQ.from_pretrained(tmp_path / "muq").config.rvq is None
    with pytest.raises(UserError, match="carries no Mel-RVQ"):
        MelRVQ.from_pretrained(tmp_path / "muq")


def test_a_mel_rvq_of_other_sizes_keeps_its_configuration(tmp_path):
    config = MelRVQConfig(rvq=RVQConfig(num_books=2, num_codes=64, num_projection_layers=2), label_rate=25)
    MelRVQ(config, jax.jit(lambda key: mel_rvq.init(key, config))(jax.random.key(0))).save_pretrained(
        tmp_path / "rvq"
    )
    assert MelRVQ.from_pretrained(tmp_path / "rvq").config == config


def test_a_quantiser_that_no_training_has_touched_is_told(muq, tmp_path):
    muq.save_pretrained(tmp_path / "used")
    drawn = jax.jit(lambda key: mel_rvq.init(key, muq.config.mel_rvq))(jax.random.key(0))
    MuQ(muq.config, muq.variables | {"rvq": drawn}).save_pretrained(tmp_path / "drawn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MelRVQ.from_pretrained(tmp_path / "used")
    half = {name: tensor.astype(np.float16) for name, tensor in read_tensors(tmp_path / "drawn").items()}
    write_tensors(tmp_path / "drawn" / "model.safetensors", half)
    with pytest.warns(UserWarning, match="drawn looks untrained: its codes mean nothing"):
        MelRVQ.from_pretrained(tmp_path / "drawn")
