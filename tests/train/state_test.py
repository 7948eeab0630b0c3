"""The state at step 0: drawn where it is to live, but for what is given."""

import jax
import numpy as np
import optax
import pytest

from muq_jax import parallel
from muq_jax.train.state import abstract_state, init_state


class Taught:
    """Two parameters, and a teacher that is large enough to be split."""

    def init(self, key):
        drawn = jax.random.normal(key, (64, 2048))
        return {"w": drawn[0]}, {"teacher": {"kernel": drawn, "bias": drawn[0]}, "seen": drawn[:, 0]}


@pytest.mark.parametrize("data, fsdp", [(8, 1), (2, 4)])
def test_given_collections_are_placed_as_the_drawn_ones(data, fsdp):
    mesh, optimizer = parallel.make_mesh(data, fsdp), optax.adam(1e-3)
    teacher = {"kernel": np.ones((64, 2048), np.float32), "bias": np.arange(2048, dtype=np.float32)}
    drawn = init_state(Taught(), optimizer, mesh, jax.random.key(0))
    given = init_state(Taught(), optimizer, mesh, jax.random.key(0), {"teacher": teacher})
    jax.tree.map(np.testing.assert_array_equal, given.model_state["teacher"], teacher)
    np.testing.assert_array_equal(given.model_state["seen"], drawn.model_state["seen"])
    jax.tree.map(np.testing.assert_array_equal, given.params, drawn.params)
    abstract = abstract_state(Taught(), optimizer, mesh)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, given, abstract))
    kernel = given.model_state["teacher"]["kernel"]
    assert kernel.addressable_shards[0].data.size * fsdp == kernel.size


def test_a_part_of_the_parameters_is_given():
    mesh, optimizer = parallel.make_mesh(2, 4), optax.adam(1e-3)

    class Nested(Taught):
        def init(self, key):
            params, model_state = super().init(key)
            return {"tower": {"encoder": params, "head": params["w"] + 1}}, model_state

    drawn = init_state(Nested(), optimizer, mesh, jax.random.key(0))
    encoder = {"w": np.arange(2048, dtype=np.float32)}
    bias = np.ones(2048, np.float32)
    given = {"params/tower/encoder": encoder, "teacher/bias": bias}
    state = init_state(Nested(), optimizer, mesh, jax.random.key(0), given)
    np.testing.assert_array_equal(state.params["tower"]["encoder"]["w"], encoder["w"])
    np.testing.assert_array_equal(state.model_state["teacher"]["bias"], bias)
    for rest in (
        lambda state: state.params["tower"]["head"],
        lambda state: state.model_state["teacher"]["kernel"],
        lambda state: state.opt_state,
    ):
        jax.tree.map(np.testing.assert_array_equal, rest(state), rest(drawn))


def test_a_given_collection_of_another_make_is_no_accident():
    with pytest.raises(ValueError):
        init_state(
            Taught(),
            optax.adam(1e-3),
            parallel.make_mesh(),
            jax.random.key(0),
            {"teacher": {"bias": np.ones(3)}},
        )
