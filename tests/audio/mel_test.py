"""Errors are in dB, over the bins that count: those less than 60 dB below the clip's loudest."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.original import as_wave
from muq_jax.audio.framing import MIN_SAMPLES
from muq_jax.audio.mel import MelConfig, denormalize, log_mel, normalize
from muq_jax.audio.mel_numpy import log_mel_numpy
from muq_jax.errors import UserError

TOLERANCE_DB = {"rfft": 5e-3, "matmul": 5e-2}
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "mel.npz")

pytestmark = pytest.mark.filterwarnings("ignore:n_fft=2048 is too large")
both = pytest.mark.parametrize("stft", TOLERANCE_DB)


def music(samples, seed=0):
    """Decaying chords and soft noise, [samples] float32: loud and quiet frames, empty and full bands."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 24_000
    wave = 1e-4 * rng.standard_normal(samples)
    for hz in 110 * 2 ** (rng.integers(0, 48, 6) / 12):
        wave += 0.1 * np.sin(2 * np.pi * hz * t) * np.exp(-4 * (t % rng.uniform(0.3, 0.9)))
    return wave.astype(np.float32)


def strong(mel_db):
    return mel_db > mel_db.max() - 60


def error_db(mel_db, expected):
    assert mel_db.shape == expected.shape
    return np.abs(np.asarray(mel_db) - expected)[strong(expected)].max()


def librosa_db(wave):
    power = librosa.feature.melspectrogram(
        y=wave.astype(np.float64), sr=24_000, n_fft=2048, hop_length=240, n_mels=128,
        htk=True, norm=None, pad_mode="reflect",
    )  # fmt: skip
    return 10 * np.log10(np.maximum(power, 1e-10)).T[: len(wave) // 240]


def compile_sharded(function, *shapes):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    by_row = NamedSharding(mesh, PartitionSpec("data"))
    args = [jax.ShapeDtypeStruct(shape, dtype, sharding=by_row) for shape, dtype in shapes]
    return jax.jit(function).lower(*args).compile().as_text()


@pytest.mark.parametrize("name", ["clip", "shortest", "awkward", "silence"])
@both
def test_equals_the_pytorch_original(stft, name):
    wave, expected = as_wave(GOLDEN[f"{name}_pcm"]), GOLDEN[f"{name}_db"].T
    mel_db = log_mel(wave[None], config=MelConfig(stft=stft))[0]
    assert mel_db.dtype == jnp.float32
    assert error_db(mel_db, expected) < TOLERANCE_DB[stft]
    assert np.abs(mel_db - expected).max() < 0.1  # in the bins that do not count, too


@pytest.mark.parametrize("samples", [1026, 24_000 * 7 + 13])
@both
def test_equals_librosa(stft, samples):
    wave = music(samples)
    assert (
        error_db(log_mel(wave[None], config=MelConfig(stft=stft))[0], librosa_db(wave)) < TOLERANCE_DB[stft]
    )


@pytest.mark.parametrize("samples", [1025, 30_001, 240 * 515])
def test_the_numpy_version_equals_librosa(samples):
    wave = music(samples)
    mel_db = log_mel_numpy(wave)
    assert mel_db.dtype == np.float32
    np.testing.assert_allclose(mel_db, librosa_db(wave), atol=1e-4)


def test_the_numpy_version_refuses_what_it_cannot_reflect():
    for wave in (np.zeros(1024), np.zeros((2, 2000))):
        with pytest.raises(ValueError, match="1025 samples or more"):
            log_mel_numpy(wave)


@both
def test_silence_is_100_dB_below_and_a_loud_clip_does_not_raise_the_floor(stft):
    # torchaudio's top_db would clamp the second half to 80 dB under the peak of the first.
    wave = np.concatenate([music(24_000), np.zeros(24_000, np.float32)])
    mel_db = np.asarray(log_mel(wave[None], config=MelConfig(stft=stft))[0])
    np.testing.assert_allclose(mel_db[-50:], -100, atol=1e-4)
    np.testing.assert_allclose(normalize(mel_db[-1]), -5.797, atol=1e-3)


# A matrix product's order of summation depends on its shape: in float32 that shows 60 dB down.
@pytest.mark.parametrize("stft, tolerance", [("rfft", 1e-5), ("matmul", 2e-3)])
def test_each_clip_of_a_batch_comes_out_as_alone(stft, tolerance):
    config = MelConfig(stft=stft)
    lengths = [1025, 7_777, 12_000]
    clips = [music(n, seed) for seed, n in enumerate(lengths)]
    batch = np.full((3, 12_000), np.nan, np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    together = np.asarray(log_mel(batch, np.array(lengths), config=config))
    assert together.shape == (3, 50, 128)
    for mel_db, clip in zip(together, clips, strict=True):
        alone = np.asarray(log_mel(clip[None], config=config)[0])
        assert error_db(mel_db[: len(alone)], alone) <= tolerance
        assert not mel_db[len(alone) :].any()


def test_the_order_of_a_batch_does_not_matter():
    batch = np.stack([music(6_000, seed) for seed in range(3)])
    lengths, order = np.array([6_000, 2_000, 4_321]), np.array([2, 0, 1])
    np.testing.assert_array_equal(log_mel(batch, lengths)[order], log_mel(batch[order], lengths[order]))


def test_a_clip_under_the_minimum_is_refused_and_one_zero_padded_to_it_is_not():
    assert log_mel(np.zeros((1, MIN_SAMPLES), np.float32)).shape == (1, 4, 128)
    with pytest.raises(ValueError, match="zero-pad"):
        log_mel(np.zeros((1, MIN_SAMPLES - 1), np.float32))


@pytest.mark.parametrize("with_lengths", [False, True])
def test_the_matmul_version_compiles_to_no_gather_on_a_sharded_batch(with_lengths):
    shapes = [((16, 4_800), jnp.float32)] + [((16,), jnp.int32)] * with_lengths
    config = MelConfig(stft="matmul")
    program = compile_sharded(lambda *a: log_mel(*a, config=config), *shapes)
    assert " dot(" in program or "custom-call" in program
    assert re.findall(r"\b(all-)?gather", program) == []
    assert "all-to-all" not in program and "all-reduce" not in program


def test_the_check_for_gathers_would_find_one():
    program = compile_sharded(lambda wave: wave[jnp.argsort(wave[:, 0])], ((16, 4_800), jnp.float32))
    assert {"all-", ""} <= set(re.findall(r"\b(all-)?gather", program))


@both
def test_bfloat16_never_touches_the_mel(stft):
    config = MelConfig(stft=stft)
    wave = music(4_800)[None]
    expected = log_mel(wave, config=config)
    with jax.default_matmul_precision("bfloat16"):
        function = jax.jit(lambda w: log_mel(w, config=config))
        np.testing.assert_allclose(function(wave), expected, atol=1e-5)
        assert "bf16" not in function.lower(wave).compile().as_text()
        lowered = function.lower(wave).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert products and all("HIGHEST" in line for line in products)
    rounded = jnp.asarray(wave, jnp.bfloat16)
    mel_db = log_mel(rounded, config=config)
    assert mel_db.dtype == jnp.float32
    np.testing.assert_array_equal(mel_db, log_mel(rounded.astype(jnp.float32), config=config))


def test_auto_takes_rfft_on_a_cpu_and_the_matmul_elsewhere_even_when_compiled_on_a_cpu():
    wave = jax.ShapeDtypeStruct((1, 2_400), jnp.float32)
    traced = log_mel.trace(wave)
    on_cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    on_tpu = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "fft" in on_cpu and on_cpu.count("dot_general") == 1
    assert "fft" not in on_tpu and on_tpu.count("dot_general") == 3


def test_two_calls_in_one_program_hold_the_basis_once():
    config = MelConfig(stft="matmul")
    wave = jax.ShapeDtypeStruct((1, 2_400), jnp.float32)
    program = (
        jax.jit(lambda w: log_mel(w, config=config) - log_mel(2 * w, config=config)).lower(wave).as_text()
    )
    assert len(re.findall(r"stablehlo.constant .*tensor<2160x1025xf32>", program)) == 2  # cosine and sine


def test_normalize_and_back():
    mel_db = np.array([[-100.0, 6.768444971712967, 25.186367624008262]], np.float32)
    np.testing.assert_allclose(normalize(mel_db), [[-5.797, 0, 1]], atol=1e-3)
    np.testing.assert_allclose(denormalize(normalize(mel_db)), mel_db, atol=1e-4)
    config = MelConfig(mean=1.0, std=2.0)
    np.testing.assert_allclose(normalize(np.array([5.0]), config), [2.0])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"stft": "fft"}, "mel.stft is 'fft'; expected one of auto, rfft, matmul"),
        ({"hop_length": 0}, "mel.hop_length must be at least 1, found 0"),
        ({"num_mels": 512}, "mel.num_mels=512 is too many for mel.n_fft=2048"),
        ({"std": 0.0}, r"mel.mean 6\.7.* and mel.std 0\.0 must be finite, the latter above 0"),
        ({"mean": float("nan")}, "mel.mean nan"),
    ],
)
def test_a_front_end_that_cannot_be_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        MelConfig(**fields)


@pytest.mark.torch
@pytest.mark.parametrize("samples", [1025, 1026, 24_000, 24_000 * 7 + 13, 24_000 * 30])
@both
def test_equals_torchaudio(stft, samples):
    from experiments.original import import_original

    import_original()
    import torch
    import torchaudio

    wave = music(samples)
    to_mel = torchaudio.transforms.MelSpectrogram(sample_rate=24_000, n_fft=2048, hop_length=240, n_mels=128)
    expected = torchaudio.transforms.AmplitudeToDB()(to_mel(torch.from_numpy(wave)))[:, :-1].numpy().T
    assert error_db(log_mel(wave[None], config=MelConfig(stft=stft))[0], expected) < TOLERANCE_DB[stft]
