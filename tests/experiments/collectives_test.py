import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments import hlo
from experiments.collectives import Expected, axis_of, collectives
from experiments.hlo import Array
from muq_jax import parallel

# A reduction of which each device keeps its slice, and a gather that a TPU's compiler spreads over fusions.
TPU = """\
%scatter (input: bf16[192,64]) -> bf16[24,64] {
  %input = bf16[192,64]{1,0} parameter(0)
  %reduced = bf16[192,64]{1,0} all-reduce(%input), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %partition-id = u32[] partition-id()
  %zero = u32[] constant(0)
  ROOT %own = bf16[24,64]{1,0} dynamic-slice(%reduced, %partition-id, %zero), dynamic_slice_sizes={24,64}
}

%started (shard: bf16[1,24,64]) -> (bf16[1,24,64], bf16[1,192,64]) {
  %shard = bf16[1,24,64]{2,1,0} parameter(0)
  %gather.1 = bf16[1,192,64]{2,1,0} all-gather(%shard), channel_id=9, replica_groups=mesh['a'=8] {'a'}, dimensions={1}
  ROOT %start = (bf16[1,24,64]{2,1,0}, bf16[1,192,64]{2,1,0}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%ended (shard.2: bf16[1,24,64]) -> bf16[1,192,64] {
  %shard.2 = bf16[1,24,64]{2,1,0} parameter(0)
  %gather.2 = bf16[1,192,64]{2,1,0} all-gather(%shard.2), channel_id=9, replica_groups=mesh['a'=8] {'a'}, dimensions={1}
  ROOT %done = bf16[1,192,64]{2,1,0} custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (w: bf16[192,64], s: bf16[1,24,64]) -> bf16[24,64] {
  %w = bf16[192,64]{1,0} parameter(0)
  %s = bf16[1,24,64]{2,1,0} parameter(1)
  %f.1 = (bf16[1,24,64]{2,1,0}, bf16[1,192,64]{2,1,0}) fusion(%s), kind=kCustom, calls=%started
  %f.2 = bf16[1,192,64]{2,1,0} fusion(%s), kind=kCustom, calls=%ended
  %sent = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%w), channel_id=4, source_target_pairs={{0,1},{1,0}}
  ROOT %fusion = bf16[24,64]{1,0} fusion(%w), kind=kCustom, calls=%scatter, metadata={op_name="jit(step)/grad"}
}
"""  # noqa: E501


def test_fusions_of_a_tpu():
    gather, permute, scatter = collectives(hlo.parse(TPU), 8)
    assert (gather.op, gather.arrays, gather.times) == ("all-gather", (Array("bf16", (1, 192, 64)),), 1)
    assert gather.groups == (tuple(range(8)),)
    assert gather.sent == 192 * 64 * 2 * 7 / 8
    assert (scatter.op, scatter.source) == ("reduce-scatter", "jit(step)/grad")
    assert scatter.sent == 192 * 64 * 2 * 7 / 8
    assert (permute.op, permute.groups) == ("collective-permute", ((0, 1), (1, 0)))


def test_a_gather_that_hides_behind_a_loop_is_sent_once():
    looping = """\
%condition (s: (s32[], bf16[1,24,64])) -> pred[] {
  %s.1 = (s32[], bf16[1,24,64]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s.1), index=0
  %n = s32[] constant(8)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%within (shard.3: bf16[1,24,64]) -> bf16[1,192,64] {
  %shard.3 = bf16[1,24,64]{2,1,0} parameter(0)
  ROOT %gather.3 = bf16[1,192,64]{2,1,0} all-gather(%shard.3), channel_id=9, replica_groups={}, dimensions={1}
}

%body (b: (s32[], bf16[1,24,64])) -> (s32[], bf16[1,24,64]) {
  %b = (s32[], bf16[1,24,64]{2,1,0}) parameter(0)
  %part = bf16[1,24,64]{2,1,0} get-tuple-element(%b), index=1
  %f.3 = bf16[1,192,64]{2,1,0} fusion(%part), kind=kCustom, calls=%within
  ROOT %same = (s32[], bf16[1,24,64]{2,1,0}) copy(%b)
}

"""
    loop = "  %loop = (s32[], bf16[1,24,64]{2,1,0}) while(%s), condition=%condition, body=%body\n"
    text = looping + TPU.replace("  %f.2 =", loop + "  %f.2 =")
    module = hlo.parse(text)
    assert module.times["body"] == 8
    assert [one.times for one in collectives(module, 8) if one.op == "all-gather"] == [1]


def attributes(groups):
    return TPU.replace("replica_groups={{0,1,2,3,4,5,6,7}}", f"replica_groups={groups}")


@pytest.mark.parametrize(
    "written, groups",
    [
        ("{{0,2},{1,3}}", ((0, 2), (1, 3))),
        ("{}", (tuple(range(8)),)),
        ("[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['x'=2,'y'=4] {'x'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['x'=2,'y'=4] {'x','y'}", (tuple(range(8)),)),
        ("mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['x'=2,'y'=4] {'y':(1)2}", ()),
    ],
)
def test_groups(written, groups):
    assert collectives(hlo.parse(attributes(written)), 8)[-1].groups == groups


def test_axes_are_those_of_the_mesh():
    mesh = parallel.make_mesh(2, 4)
    assert axis_of(((0, 1, 2, 3), (4, 5, 6, 7)), mesh) == "fsdp"
    assert axis_of(((0, 4), (1, 5), (2, 6), (3, 7)), mesh) == "data"
    assert axis_of((tuple(range(8)),), mesh) == "data x fsdp"
    assert axis_of(((0, 1), (2, 3)), mesh) == "2 of fsdp"
    assert axis_of(((0, 5),), mesh) == "?"
    assert axis_of((), mesh) == "?"


def test_what_may_be_sent():
    leaves = [(12, 1024, 4096), (12, 1024), (3, 3, 512, 512), (16384, 1024), (8, 1024)]
    kind = Expected(leaves, layers=[12], fsdp=16, times=(720_000, 3000, 1500, 750)).kind
    for dims in [(1024, 4096), (1, 4096, 1024), (9, 512, 512), (32, 512, 1024), (64, 4096), (12, 1024)]:
        assert kind(Array("bf16", dims)) == "weights", dims
    for dims in [(), (512,), (8, 1024, 4), (192,)]:
        assert kind(Array("f32", dims)) == "statistics", dims
    for dims in [(48, 750, 1024), (1024, 2250), (3, 3000, 128), (48, 720_000), (750,), (3, 16, 1024, 64)]:
        assert kind(Array("f32", dims)) == "activations", dims
    assert kind(Array("bf16", (256, 8, 128)), between_slices=True) == "weights"
    assert kind(Array("bf16", (256, 8, 128))) == "activations"


def compiled_text(function, *specs):
    mesh = parallel.make_mesh(2, 4)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec)) for shape, spec in specs
    ]
    with jax.set_mesh(mesh):
        return jax.jit(function, out_shardings=NamedSharding(mesh, P())).lower(*arguments).compile().as_text()


def test_a_compiled_sum_and_a_compiled_gather():
    mesh = parallel.make_mesh(2, 4)
    text = compiled_text(lambda x: x.sum(axis=0), ((16, 32), P(("data", "fsdp"))))
    [found] = collectives(hlo.parse(text), 8)
    assert (found.op, found.arrays, axis_of(found.groups, mesh)) == (
        "all-reduce",
        (Array("f32", (32,)),),
        "data x fsdp",
    )
    assert found.sent == 2 * 128 * 7 / 8
    [found] = collectives(hlo.parse(compiled_text(lambda x: x + 1, ((16, 32), P("fsdp")))), 8)
    assert (found.op, found.arrays) == ("all-gather", (Array("f32", (16, 32)),))
    assert axis_of(found.groups, mesh) == "fsdp" and found.sent == 16 * 32 * 4 * 3 / 4


def test_a_collective_in_a_loop_counts_every_turn():
    def step(x):
        return jax.lax.scan(
            lambda c, _: (c + jnp.sin(x * c.sum()).sum(axis=0), None), jnp.ones(32), length=5
        )[0]

    found = collectives(hlo.parse(compiled_text(step, ((16, 32), P(("data", "fsdp"))))), 8)
    assert [(one.op, one.times) for one in found] == [("all-reduce", 5)]
