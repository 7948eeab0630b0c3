import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.nn.attention import RotarySelfAttention, attend, attention_weights
from muq_jax.nn.positions import rotary_table


def softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def attention_by_hand(x, params, num_heads, base, num_valid):
    """One clip [T, D] at a time, a head and a query at a time, in float64."""
    tokens, width = x.shape
    size = width // num_heads
    turned = np.zeros_like(x)
    for t in range(tokens):
        for h in range(num_heads):
            for i in range(size // 2):
                angle = t / base ** (2 * i / size)
                a, b = h * size + i, h * size + i + size // 2
                turned[t, a] = x[t, a] * np.cos(angle) - x[t, b] * np.sin(angle)
                turned[t, b] = x[t, b] * np.cos(angle) + x[t, a] * np.sin(angle)

    def project(name, y):
        return y @ np.float64(params[name]["kernel"]) + np.float64(params[name]["bias"])

    query, key, value = project("query", turned), project("key", turned), project("value", x)
    mixed = np.zeros_like(x)
    for h in range(num_heads):
        head = slice(h * size, (h + 1) * size)
        for t in range(tokens):
            weights = softmax(key[:num_valid, head] @ query[t, head] / np.sqrt(size))
            mixed[t, head] = weights @ value[:num_valid, head]
    return project("out", mixed)


def test_rotary_turns_the_input_of_query_and_key_but_not_of_value():
    x = np.random.default_rng(0).standard_normal((2, 7, 12)).astype(np.float32)
    lengths = np.array([7, 4])
    module = RotarySelfAttention(num_heads=3)
    rotary = rotary_table(7, 4, base=50.0)
    variables = module.init(jax.random.key(0), x, rotary)
    y = module.apply(variables, x, rotary, np.arange(7) < lengths[:, None])
    for row, length in enumerate(lengths):
        expected = attention_by_hand(x[row].astype(np.float64), variables["params"], 3, 50.0, length)
        np.testing.assert_allclose(y[row], expected, atol=2e-6)


def test_weights_are_float32_and_sum_to_one_over_valid_keys():
    query, key = jax.random.normal(jax.random.key(0), (2, 2, 5, 3, 4), jnp.bfloat16)
    valid = np.arange(5) < np.array([5, 2])[:, None]
    weights = attention_weights(query, key, valid)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert (np.asarray(weights)[1, :, :, 2:] == 0).all()


def test_what_lies_under_invalid_keys_does_not_matter():
    query, key, value = np.random.default_rng(0).standard_normal((3, 1, 5, 2, 4)).astype(np.float32)
    valid = np.array([[True, True, True, False, False]])
    before = attend(attention_weights(query, key, valid), value)
    key[:, 3:], value[:, 3:] = 1e4, -1e4
    np.testing.assert_array_equal(attend(attention_weights(query, key, valid), value), before)


def test_a_row_without_any_valid_key_stays_finite():
    query = jnp.ones((1, 3, 1, 2))
    assert np.isfinite(attention_weights(query, query, jnp.zeros((1, 3), bool))).all()
