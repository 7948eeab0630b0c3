import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.nn.transformer import QKNormAttention, Transformer, TransformerConfig

CONFIG = TransformerConfig(width=12, num_layers=2, num_heads=2, head_size=4)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def test_attention_is_eight_times_the_cosine_of_scaled_queries_and_keys():
    x = normal(1, 5, 12)
    module = QKNormAttention(CONFIG)
    params = module.init(jax.random.key(0), x, None, train=False)["params"]
    params = {**params, "query_scale": normal(4), "key_scale": normal(4) + 1}
    found = module.apply({"params": params}, x, None, train=False)

    p = jax.tree.map(np.asarray, params)
    key, value = np.split(x[0] @ p["key_value"]["kernel"], 2, axis=-1)
    query, mixed = x[0] @ p["query"]["kernel"], []
    for head in (slice(0, 4), slice(4, 8)):
        q, k = (a[:, head] / np.linalg.norm(a[:, head], axis=-1, keepdims=True) for a in (query, key))
        scores = 8 * (q * p["query_scale"]) @ (k * p["key_scale"]).T
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed.append(weights / weights.sum(-1, keepdims=True) @ value[:, head])
    np.testing.assert_allclose(found[0], np.concatenate(mixed, -1) @ p["out"]["kernel"], atol=2e-6)


def test_what_is_not_valid_is_not_heard():
    x, module = normal(2, 6, 12), Transformer(CONFIG)
    variables = module.init(jax.random.key(0), x)
    valid = jnp.array([[True] * 4 + [False] * 2, [True] * 6])
    found = module.apply(variables, x, valid)
    np.testing.assert_allclose(found[0, :4], module.apply(variables, x[:1, :4])[0], atol=1e-6)
    np.testing.assert_allclose(found[1], module.apply(variables, x[1:])[0], atol=1e-6)


def test_no_layers_hand_the_input_on():
    x, module = normal(1, 3, 12), Transformer(TransformerConfig(width=12, num_layers=0))
    variables = module.init(jax.random.key(0), x)
    assert not variables
    np.testing.assert_array_equal(module.apply(variables, x), x)


def test_the_feed_forward_is_two_thirds_of_its_multiple():
    assert TransformerConfig().ffn_width == 2048
    assert TransformerConfig(width=40).ffn_width == 106


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_heads": 0}, r"transformer\.num_heads must be at least 1, found 0"),
        ({"num_layers": -1}, r"transformer\.num_layers must be at least 0, found -1"),
        ({"ffn_dropout": 1.0}, r"transformer\.ffn_dropout must be at least 0 and below 1, found 1\.0"),
    ],
)
def test_a_mistake_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        TransformerConfig(**fields)
