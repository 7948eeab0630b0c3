import jax.numpy as jnp
import numpy as np

from muq_jax.nn.positions import apply_rotary, rotary_table


def test_a_pair_is_turned_as_a_complex_number():
    tokens, heads, size = 9, 2, 6
    x = np.random.default_rng(0).standard_normal((3, tokens, heads, size)).astype(np.float32)
    frequency = 1 / 100.0 ** (2 * np.arange(size // 2) / size)
    turn = np.exp(1j * np.arange(tokens)[:, None] * frequency)  # [T, K/2]
    pairs = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * turn[:, None]
    expected = np.concatenate([pairs.real, pairs.imag], axis=-1)
    turned = apply_rotary(jnp.asarray(x), *rotary_table(tokens, size, base=100.0))
    np.testing.assert_allclose(turned, expected, atol=2e-6)


def test_products_depend_on_the_distance_alone():
    query, key = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 8)).astype(np.float32)
    cos, sin = rotary_table(50, 8)
    turned_query = apply_rotary(jnp.asarray(np.broadcast_to(query, (1, 50, 1, 8))), cos, sin)[0, :, 0]
    turned_key = apply_rotary(jnp.asarray(np.broadcast_to(key, (1, 50, 1, 8))), cos, sin)[0, :, 0]
    products = np.asarray(turned_query @ turned_key.T)
    for distance in (0, 3, 20):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert abs(products[0, 3] - products[0, 20]) > 1e-2


def test_a_bfloat16_input_keeps_its_type_and_float32_angles():
    x = jnp.ones((1, 700, 1, 4), jnp.bfloat16)
    table = rotary_table(700, 4)
    turned = apply_rotary(x, *table)
    assert turned.dtype == jnp.bfloat16
    expected = apply_rotary(x.astype(jnp.float32), *table)
    np.testing.assert_array_equal(turned, expected.astype(jnp.bfloat16))
