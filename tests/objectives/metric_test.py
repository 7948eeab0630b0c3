import operator

import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.objectives.metric import Mean


def test_partial_means_add_up_to_the_mean_of_all():
    values, weights = np.arange(12.0).reshape(6, 2), np.array([1.0, 0, 2, 1, 3, 0])
    parts = [
        Mean(jnp.asarray((values[i] * weights[i, None]).sum(0)), jnp.asarray(weights[i].sum()))
        for i in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    total = parts[0]
    for part in parts[1:]:
        total = jax.tree.map(operator.add, total, part)
    np.testing.assert_allclose(total.value, np.average(values, axis=0, weights=weights))


def test_nothing_counted_is_nan():
    assert np.isnan(Mean(jnp.zeros(()), jnp.zeros(())).value)
