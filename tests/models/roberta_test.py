import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.models.roberta import Roberta, RobertaConfig

CONFIG = RobertaConfig(50, 16, 2, 4, 32, num_positions=12)


@pytest.fixture(scope="module")
def variables():
    return Roberta(CONFIG).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))


def test_padding_changes_nothing_before_it(variables):
    text = jnp.array([[0, 7, 8, 2]])
    padded = jnp.array([[0, 7, 8, 2, 1, 1], [0, 9, 10, 11, 12, 2]])
    alone = Roberta(CONFIG).apply(variables, text)
    together = Roberta(CONFIG).apply(variables, padded)
    np.testing.assert_allclose(together[0, :4], alone[0], atol=1e-6)


def test_order_matters(variables):
    forth, back = (Roberta(CONFIG).apply(variables, jnp.array([[0, *ids, 2]])) for ids in ([7, 8], [8, 7]))
    assert np.abs(forth[0, 0] - back[0, 0]).max() > 1e-4


def test_the_longest_text(variables):
    assert RobertaConfig().max_tokens == 512
    ids = jnp.full((1, CONFIG.max_tokens), 5)
    assert np.isfinite(Roberta(CONFIG).apply(variables, ids)).all()
    with pytest.raises(ValueError, match="11 tokens; the longest text has 10"):
        Roberta(CONFIG).apply(variables, jnp.full((1, 11), 5))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_layers": 0}, r"roberta\.num_layers must be at least 1, found 0"),
        ({"num_heads": 7}, r"roberta\.width 768 must be a multiple of num_heads \(7\)"),
        ({"pad_id": 513}, r"roberta\.pad_id must be at least 0.*found 513"),
    ],
)
def test_a_mistake_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        RobertaConfig(**fields)
