"""The mesh, where arrays live on it, and how the hosts' rows become one global batch."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from muq_jax.errors import UserError
from muq_jax.nn.sharding import BATCH_AXES

# An array under 64 Ki elements (256 KiB in float32) costs less to keep everywhere than to gather.
MIN_SHARDED_SIZE = 2**16

# 16 devices hold a sixteenth of a `large`'s parameters and moments each, 0.25 GB: more of them save nothing,
# and their gathers go farther.
MAX_CHOSEN_FSDP = 16

Rule = tuple[str, PartitionSpec]


def make_mesh(data: int = -1, fsdp: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh (`data`, `fsdp`): both axes split the batch, `fsdp` also splits the parameters.

    Where the devices are those of several slices (their `slice_index` differs), groups of `fsdp` devices lie
    within a slice and `data` spans the slices: over the slow network between them go gradients alone.

    Args:
        data: number of groups that hold a whole copy of the parameters; -1 takes what `fsdp` leaves.
        fsdp: devices that share one copy; -1 takes what `data` leaves. Where both are -1, as many as a slice
            can be cut into evenly, up to `MAX_CHOSEN_FSDP`.
        devices: the devices to use; all of them by default.

    Raises:
        UserError: the sizes do not multiply to the number of devices, or not within a slice.
    """
    devices = list(jax.devices() if devices is None else devices)
    members: dict[int, list[jax.Device]] = {}
    for device in devices:
        members.setdefault(getattr(device, "slice_index", 0), []).append(device)
    num_slices = len(members)
    sizes = {"data": data, "fsdp": fsdp}
    if data == fsdp == -1:
        sizes["fsdp"] = math.gcd(len(devices) // num_slices, MAX_CHOSEN_FSDP)
    free = [name for name, size in sizes.items() if size == -1]
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(free) == 1 and fixed > 0 and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if sizes["data"] * sizes["fsdp"] != len(devices) or min(sizes.values()) < 1:
        raise UserError(
            f"mesh.data={data} and mesh.fsdp={fsdp} do not fit {len(devices)} devices: the product must be "
            f"{len(devices)}. Set one of them to -1 to let it take what the other leaves."
        )
    if sizes["data"] % num_slices:
        raise UserError(
            f"mesh.fsdp={sizes['fsdp']} does not fit into {num_slices} slices of "
            f"{len(devices) // num_slices} devices: parameters would be gathered over the network between "
            "slices. Take a divisor of a slice's devices."
        )
    # Not `jax.make_mesh`, which takes no slices, and cuts an axis of the torus on a v5e only: on a v5p of
    # 4x4x4 there would be no group of 8.
    shape = (sizes["data"] // num_slices, sizes["fsdp"])
    slices = [
        mesh_utils.create_device_mesh(shape, members[index], allow_split_physical_axes=True)
        for index in sorted(members)
    ]
    # Auto: with Explicit, the default, Linen's layers raise ShardingTypeError.
    return Mesh(np.concatenate(slices), BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def state_shardings(
    abstract: Any, mesh: Mesh, *, rules: Sequence[Rule] = (), min_size: int = MIN_SHARDED_SIZE
) -> Any:
    """Returns a NamedSharding for each leaf of a tree of arrays or `jax.eval_shape` results.

    The first rule whose pattern is found in the leaf's path (`params/encoder/.../kernel`) decides. Without
    one, a leaf of `min_size` elements or more is split over `fsdp` along its largest dimension that divides
    evenly; everything else is replicated. Optimizer moments, of their parameters' shapes, follow them.
    """
    fsdp = mesh.shape["fsdp"]

    def spec(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, partition in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, partition)
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or int(np.prod(leaf.shape)) < min_size or not divisible:
            return NamedSharding(mesh, PartitionSpec())
        axis = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree_util.tree_map_with_path(spec, abstract)


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """Returns `abstract` as ShapeDtypeStructs that carry shardings, as a restore needs them."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def host_rows(mesh: Mesh, batch_size: int) -> tuple[int, ...]:
    """Returns the rows of a global batch that this host's devices own, and that it has to read, in order.

    They need not be neighbours: on most slices of a pod a host's chips are a square of the torus, and the
    mesh goes along its rows.

    Raises:
        UserError: the batch does not divide evenly over the devices.
    """
    check_batch_size(mesh, batch_size)
    owned = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = {row for index in owned if index is not None for row in range(*index[0].indices(batch_size))}
    return tuple(sorted(rows))


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    """Raises a UserError, which names the nearest ones that do, where a batch does not divide evenly."""
    if batch_size % mesh.size == 0:
        return
    below = batch_size // mesh.size * mesh.size
    nearest = f"{below} or {below + mesh.size}" if below else str(mesh.size)
    raise UserError(
        f"data.batch_size={batch_size} does not divide over the {mesh.size} devices of the mesh: take a "
        f"multiple of {mesh.size}, such as {nearest}."
    )


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global arrays of which `batch` holds this host's rows, in the order of `host_rows`.

    What is no number stays behind.
    """
    sharding = batch_sharding(mesh)
    arrays = {name: np.asarray(rows) for name, rows in batch.items()}
    # On several hosts JAX takes this for an implicit transfer, which the training loop disallows.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, rows)
            for name, rows in arrays.items()
            if rows.dtype.kind in "biuf"
        }


def place(tree: Any, shardings: Any) -> Any:
    """Returns a tree of arrays that every host holds whole as global ones; a device gets its part alone."""

    def one(array: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree, shardings)


def fetch(tree: Any) -> Any:
    """Returns a tree's global arrays whole, as numpy arrays on every host; all hosts have to take part."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)


def gather_hosts(numbers: np.ndarray) -> np.ndarray:
    """Returns every host's numbers [n] as [hosts, n], on every host; all hosts have to take part."""
    if jax.process_count() == 1:
        return numbers[None]
    with jax.transfer_guard("allow"):
        return np.asarray(multihost_utils.process_allgather(numbers))
