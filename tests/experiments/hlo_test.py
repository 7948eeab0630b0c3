import jax
import jax.numpy as jnp
import pytest

from experiments import hlo
from experiments.hlo import Array

# In the manner of a TPU's compiler: layouts with tiles and memories, comments in tuples, a loop whose turns
# only its condition tells.
PROGRAM = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%condition (state: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %state = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

%doubled (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %twice = f32[8,4]{1,0:T(8,128)S(1)} add(%p, %p)
}

%inner_body (inner_state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  ROOT %inner_state = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) parameter(0)
}

%body (body_state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %body_state = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %i = s32[]{:T(128)} get-tuple-element(%body_state), index=0
  %value = f32[8,4]{1,0:T(8,128)S(1)} get-tuple-element(%body_state), index=1
  %next = s32[]{:T(128)} add(%i, %one)
  %fusion = f32[8,4]{1,0:T(8,128)S(1)} fusion(%value), kind=kLoop, calls=%doubled, metadata={op_name="jit(step)/mul"}
  %pair = (s32[]{:T(128)}, /*index=1*/f32[8,4]{1,0:T(8,128)S(1)}) tuple(%next, %fusion)
  ROOT %inner = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) while(%pair), condition=%condition, body=%inner_body, backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (argument: f32[8,4]) -> f32[8,4] {
  %argument = f32[8,4]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) tuple(%zero, %argument)
  %loop = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)S(1)}) while(%start), condition=%condition, body=%body
  ROOT %result = f32[8,4]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_types():
    arrays = hlo.parse_arrays("(bf16[2,125]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[], s4[3]{0}, token[])")
    assert arrays == (Array("bf16", (2, 125), 1), Array("pred", ()), Array("s4", (3,)), Array("token", ()))
    assert [array.nbytes for array in arrays] == [500, 1, 2, 0]
    assert str(arrays[0]) == "bf16[2,125]"


def test_instructions():
    module = hlo.parse(PROGRAM)
    assert module.entry == "main"
    body = module.computations["body"]
    fusion = body.instructions["fusion"]
    assert (fusion.opcode, fusion.operands, fusion.source) == ("fusion", ("value",), "jit(step)/mul")
    assert fusion.arrays == (Array("f32", (8, 4), 1),)
    assert [inner.name for inner in module.inner(fusion)] == ["doubled"]
    assert body.root.name == "inner" and module.computations["doubled"].root.opcode == "add"
    assert body.instructions["one"].arguments == "1"
    assert body.arrays_of(("next", "fusion")) == [Array("s32", ()), Array("f32", (8, 4), 1)]


def test_elements_of_tuples_written_in_short():
    text = """\
ENTRY %main (p: (f32[4], (s32[], bf16[2,3]))) -> bf16[2,3] {
  %p = (f32[4]{0:T(8,128)(2,1)}, /*index=1*/(s32[], bf16[2,3]{1,0})) parameter(0)
  %sum = f32[4]{0} add(%p#0, %p#0)
  %both = (s32[], bf16[2,3]{1,0}) copy(%p#1)
  ROOT %last = bf16[2,3]{1,0} copy(%p#1#1)
}
"""
    main = hlo.parse(text).computations["main"]
    assert main.instructions["sum"].operands == ("p#0", "p#0")
    assert main.arrays_of(("p#0",)) == [Array("f32", (4,))]
    assert main.arrays_of(("p#1",)) == [Array("s32", ()), Array("bf16", (2, 3))]
    assert main.arrays_of(main.root.operands) == [Array("bf16", (2, 3))]
    assert main.instructions["p#1#1"].opcode == "get-tuple-element"
    # As if it had been written at length.
    short = PROGRAM.replace("compare(%counter, ", "compare(%state#0, ").replace(
        "add(%i, ", "add(%body_state#0, "
    )
    assert hlo.parse(short).times == hlo.parse(PROGRAM).times
    body = hlo.parse(short.replace("constant(1)", "constant(3)")).computations["body"]
    assert body.instructions["body_state#0"].attributes == ", index=0"


def test_turns_of_loops_are_multiplied_out():
    module = hlo.parse(PROGRAM)
    assert module.times == {"main": 1, "body": 12, "inner_body": 36}
    assert module.unknown_loops == ()


def test_an_unrolled_loop_turns_less_often():
    text = PROGRAM.replace("constant(1)", "constant(3)")
    text = text.replace("ROOT %inner = ", "%inner = ").replace(
        "%fusion = f32", "ROOT %out = (s32[]{:T(128)}, f32[8,4]{1,0}) tuple(%next, %value)\n  %fusion = f32"
    )
    assert hlo.parse(text).times == {"main": 1, "body": 4, "inner_body": 12}


def test_a_loop_of_unknown_length_counts_once_and_is_named():
    module = hlo.parse(PROGRAM.replace("direction=LT", "direction=NE"))
    assert module.times == {"main": 1, "body": 1, "inner_body": 3}
    assert module.unknown_loops == ("loop",)


def test_every_branch_counts():
    text = """\
%a (x: f32[4]) -> f32[4] {
  ROOT %x = f32[4]{0} parameter(0)
}

%b (y: f32[4]) -> f32[4] {
  ROOT %y = f32[4]{0} parameter(0)
}

ENTRY %main (p: f32[4], i: s32[]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %i = s32[] parameter(1)
  %called = f32[4]{0} call(%p), to_apply=%a
  ROOT %chosen = f32[4]{0} conditional(%i, %called, %p), branch_computations={%a, %b}
}
"""
    assert hlo.parse(text).times == {"main": 1, "a": 2, "b": 1}


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("module @jit_step { }")


def test_a_compiled_scan():
    def step(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, length=7)[0]

    module = hlo.parse(jax.jit(step).lower(jnp.ones((8, 8))).compile().as_text())
    assert sorted(module.times.values())[-1] == 7
    assert not module.unknown_loops
