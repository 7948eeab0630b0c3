from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from muq_jax import parallel
from muq_jax.errors import UserError


@pytest.mark.parametrize(
    "data, fsdp, expected",
    [
        *[(-1, 1, (8, 1)), (1, -1, (1, 8)), (2, 4, (2, 4)), (-1, 4, (2, 4)), (8, 1, (8, 1))],
        (-1, -1, (1, 8)),
    ],
)
def test_mesh_takes_all_devices(data, fsdp, expected):
    mesh = parallel.make_mesh(data, fsdp)
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == expected
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


@pytest.mark.parametrize("data, fsdp", [(3, 1), (-1, 3), (2, 2), (0, 8), (16, 1)])
def test_a_mesh_that_does_not_fit_is_named(data, fsdp):
    with pytest.raises(UserError, match=rf"mesh\.data={data} and mesh\.fsdp={fsdp} do not fit 8 devices"):
        parallel.make_mesh(data, fsdp)


def test_what_a_host_holds_is_placed_in_parts():
    mesh = parallel.make_mesh(2, 4)
    tree = {"a": np.arange(16.0).reshape(2, 8), "b": np.float32(3)}
    shardings = {"a": jax.sharding.NamedSharding(mesh, P(None, "fsdp")), "b": parallel.replicated(mesh)}
    placed = parallel.place(tree, shardings)
    assert placed["a"].sharding == shardings["a"] and placed["a"].addressable_shards[0].data.shape == (2, 2)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(placed), tree)


def specs(shapes, mesh, **kwargs):
    abstract = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    return jax.tree.map(lambda s: s.spec, parallel.state_shardings(abstract, mesh, **kwargs))


def test_large_leaves_are_split_along_their_largest_divisible_dimension():
    shapes = {
        "kernel": (12, 512, 2048),
        "odd": (1026, 4 * 75),
        "small": (64, 64),
        "nothing_divides": (513, 513),
        "scalar": (),
    }
    found = specs(shapes, parallel.make_mesh(2, 4))
    assert found == {
        "kernel": P(None, None, "fsdp"),
        "odd": P(None, "fsdp"),
        "small": P(),
        "nothing_divides": P(),
        "scalar": P(),
    }


def test_the_first_rule_that_matches_decides():
    shapes = {"params": {"head": {"kernel": (1024, 8192)}, "bias": (1024,)}}
    rules = [("head/kernel$", P("fsdp", None)), ("head", P(None, "fsdp")), ("bias", P("fsdp"))]
    found = specs(shapes, parallel.make_mesh(2, 4), rules=rules)
    assert found == {"params": {"head": {"kernel": P("fsdp", None)}, "bias": P("fsdp")}}


def test_without_fsdp_everything_is_replicated():
    assert specs({"kernel": (4096, 4096)}, parallel.make_mesh(8, 1)) == {"kernel": P()}


def test_host_rows_of_one_host_are_all_rows():
    assert parallel.host_rows(parallel.make_mesh(2, 4), 24) == tuple(range(24))


class FakeDevice:
    """A device that can be put into a mesh and no more."""

    platform, device_kind = "cpu", "cpu"

    def __init__(self, number, *, slice_index=0, process_index=0):
        self.id, self.slice_index, self.process_index = number, slice_index, process_index
        self.client = SimpleNamespace(process_index=lambda: 0)


def test_data_spans_slices_and_fsdp_does_not():
    devices = [FakeDevice(i, slice_index=i % 2) for i in range(32)]
    for data, fsdp, expected in [(-1, -1, (2, 16)), (-1, 4, (8, 4)), (2, -1, (2, 16)), (-1, 1, (32, 1))]:
        mesh = parallel.make_mesh(data, fsdp, devices=devices)
        assert (mesh.shape["data"], mesh.shape["fsdp"]) == expected
        slices = [[device.slice_index for device in group] for group in mesh.devices]
        assert all(len(set(group)) == 1 for group in slices)
        first = [group[0] for group in slices]
        assert first == sorted(first) and set(first) == {0, 1}
        assert sorted(device.id for device in mesh.devices.flat) == list(range(32))


def test_parameters_are_not_gathered_between_slices():
    devices = [FakeDevice(i, slice_index=i // 8) for i in range(16)]
    with pytest.raises(UserError, match=r"mesh\.fsdp=16 does not fit into 2 slices of 8 devices"):
        parallel.make_mesh(1, 16, devices=devices)


@pytest.mark.parametrize("number, fsdp", [(1, 1), (2, 2), (6, 2), (12, 4), (24, 8), (64, 16), (256, 16)])
def test_fsdp_is_chosen_from_the_number_of_devices(number, fsdp):
    mesh = parallel.make_mesh(-1, -1, devices=[FakeDevice(i) for i in range(number)])
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == (number // fsdp, fsdp)


def test_a_host_whose_devices_are_scattered_over_the_mesh_reads_its_own_rows():
    # Four hosts of 2 x 2 chips on a 4 x 4 torus, as on a pod.
    devices = [FakeDevice(i, process_index=i // 8 * 2 + i % 4 // 2) for i in range(16)]
    mesh = parallel.make_mesh(4, 4, devices=devices)
    assert parallel.host_rows(mesh, 32) == (0, 1, 2, 3, 8, 9, 10, 11)


def test_a_batch_that_does_not_divide_is_named():
    mesh = parallel.make_mesh(2, 4)
    with pytest.raises(UserError, match=r"data\.batch_size=12 .* multiple of 8, such as 8 or 16"):
        parallel.host_rows(mesh, 12)
    with pytest.raises(UserError, match=r"data\.batch_size=3 .* multiple of 8, such as 8\."):
        parallel.host_rows(mesh, 3)


def test_put_batch_keeps_rows_in_order_and_leaves_names_behind():
    mesh = parallel.make_mesh(2, 4)
    batch = {"wave": np.arange(48, dtype=np.float32).reshape(16, 3), "row": np.arange(16), "id": ["x"] * 16}
    with jax.transfer_guard("disallow"):
        placed = parallel.put_batch(batch, mesh)
    assert set(placed) == {"wave", "row"}
    assert placed["wave"].sharding == parallel.batch_sharding(mesh)
    assert placed["wave"].addressable_shards[0].data.shape == (2, 3)
    np.testing.assert_array_equal(placed["wave"], batch["wave"])
