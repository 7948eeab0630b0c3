import jax.numpy as jnp
import numpy as np

from muq_jax.nn.valid import first_valid, zero_invalid


def test_the_first_positions_are_valid():
    found = first_valid(jnp.array([3, 0, 5]), 4)
    np.testing.assert_array_equal(found, [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])


def test_invalid_positions_become_zero_whatever_they_held():
    x = np.full((2, 3, 2, 2), np.nan, np.float32)
    x[0, :2] = 1
    y = zero_invalid(jnp.asarray(x), first_valid(jnp.array([2, 0]), 3))
    np.testing.assert_array_equal(y, np.nan_to_num(x))


def test_no_mask_leaves_everything():
    x = jnp.ones((1, 2, 3))
    assert zero_invalid(x, None) is x
