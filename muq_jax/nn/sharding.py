"""Where activations live on a mesh."""

import jax
from jax import Array
from jax.sharding import AxisType, PartitionSpec

BATCH_AXES = ("data", "fsdp")


def constrain_batch(x: Array) -> Array:
    """Returns `x` with its leading axis, the batch, split over the mesh and every other axis whole.

    Left alone, the TPU compiler carries the parameters' sharding over to activations, and gathers those on
    every device. Does nothing outside of `jax.set_mesh`, inside of a `shard_map`, on a mesh with other axes,
    and for a batch that the mesh does not divide.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if any(types.get(axis) != AxisType.Auto for axis in BATCH_AXES):
        return x
    if x.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, *[None] * (x.ndim - 1)))
