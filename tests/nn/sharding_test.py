import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from muq_jax.nn.sharding import constrain_batch


def make_mesh(names=("data", "fsdp")):
    return jax.make_mesh((2, 4), names, axis_types=(AxisType.Auto,) * 2)


def test_the_batch_is_split_over_both_axes():
    with jax.set_mesh(make_mesh()):
        y = jax.jit(lambda x: constrain_batch(x + 1))(jnp.zeros((8, 3, 4)))
    assert y.sharding.spec == PartitionSpec(("data", "fsdp"))
    assert y.addressable_shards[0].data.shape == (1, 3, 4)


def test_nothing_happens_without_a_mesh_on_another_mesh_or_for_an_odd_batch():
    x = jnp.zeros((8, 3))
    assert constrain_batch(x) is x
    with jax.set_mesh(make_mesh(("rows", "columns"))):
        assert constrain_batch(x) is x
    with jax.set_mesh(make_mesh()):
        odd = jnp.zeros((3, 2))
        assert constrain_batch(odd) is odd


def test_nothing_happens_where_each_device_sees_its_own_rows():
    spec = PartitionSpec(("data", "fsdp"))
    with jax.set_mesh(make_mesh()):
        double = jax.shard_map(lambda x: constrain_batch(x) * 2, in_specs=spec, out_specs=spec)
        y = jax.jit(double)(jnp.ones((8, 2)))
    assert (y == 2).all()
