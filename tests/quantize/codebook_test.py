import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from muq_jax.quantize.codebook import code_counts, codebook_health, lookup, nearest_code, unit


def cosines(latents, codebook):
    """float64 [..., V]."""
    latents, codebook = np.float64(latents), np.float64(codebook)
    latents /= np.linalg.norm(latents, axis=-1, keepdims=True)
    return latents @ (codebook / np.linalg.norm(codebook, axis=-1, keepdims=True)).T


@pytest.mark.parametrize(
    ("shape", "num_codes"), [((7, 5), 3), ((2, 9, 16), 1024), ((1, 1, 8), 1), ((3, 2, 2, 1), 2)]
)
def test_nearest_code_is_the_one_with_the_largest_cosine(shape, num_codes):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=shape).astype(np.float32) * rng.uniform(0.01, 100, shape[:-1])[..., None]
    codebook = rng.normal(size=(num_codes, shape[-1])).astype(np.float32) * rng.uniform(
        0.01, 100, (num_codes, 1)
    )
    codes = np.asarray(nearest_code(jnp.asarray(latents, jnp.float32), jnp.asarray(codebook, jnp.float32)))
    assert codes.dtype == np.int32 and codes.shape == shape[:-1]
    similarity = cosines(latents, codebook)
    chosen = np.take_along_axis(similarity, codes[..., None], -1)[..., 0]
    np.testing.assert_allclose(chosen, similarity.max(-1), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_the_first_of_equal_rows_wins(seed, copies):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(6, 4)).astype(np.float32)
    # Halving and doubling are exact, so rows of the same origin are equal once scaled to length one.
    codebook = rows[copies] * np.float32([1, 2, 0.5, 4, 1, 2])[:, None]
    codes = np.asarray(
        nearest_code(jnp.asarray(rng.normal(size=(20, 4)), jnp.float32), jnp.asarray(codebook))
    )
    assert all(copies.index(copies[code]) == code for code in codes)


def test_zero_vectors_are_no_nan():
    codebook = jnp.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_array_equal(unit(codebook), codebook)
    assert nearest_code(jnp.array([[3.0, 0.0], [-0.1, 0.0]]), codebook).tolist() == [1, 2]
    assert 0 <= nearest_code(jnp.zeros((1, 2)), codebook)[0] < 3
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros((1, 2)))).all()


def test_unit_divides_by_the_norm_and_by_no_less_than_the_original_does():
    vectors = np.random.default_rng(2).normal(size=(50, 8)) * np.logspace(-15, 3, 50)[:, None]
    norm = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    np.testing.assert_allclose(unit(jnp.asarray(vectors, jnp.float32)), vectors / norm, rtol=1e-5)


def test_lookup_returns_raw_rows():
    codebook = jnp.array([[3.0, 4.0], [0.0, 0.5]])
    np.testing.assert_array_equal(lookup(jnp.array([[1, 0]]), codebook), [[[0.0, 0.5], [3.0, 4.0]]])


def test_code_counts_against_bincount():
    rng = np.random.default_rng(1)
    codes, valid = rng.integers(0, 13, (3, 17, 4)), rng.random((3, 17)) < 0.7
    want = np.stack([np.bincount(codes[valid][:, q], minlength=13) for q in range(4)])
    np.testing.assert_array_equal(code_counts(jnp.asarray(codes), 13, jnp.asarray(valid)), want)
    everything = code_counts(jnp.asarray(codes), 13)
    np.testing.assert_array_equal(everything.sum(-1), [51] * 4)


def test_codebook_health():
    counts = np.array([[5, 5, 5, 5], [7, 0, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]])
    health = codebook_health(counts)
    assert health["used"].tolist() == [4, 1, 0, 4]
    np.testing.assert_allclose(health["entropy"], [np.log(4), 0, 0, entropy([1, 2, 3, 4])])
    np.testing.assert_allclose(health["perplexity"], [4, 1, 1, np.exp(entropy([1, 2, 3, 4]))])
