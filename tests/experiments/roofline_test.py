import jax
import jax.numpy as jnp
import pytest

from experiments import hlo, roofline

TPU = """\
%fused (p.0: f32[6,24,64], p.1: f32[24,64], p.2: s32[], p.3: f32[6,24,64]) -> f32[6,24,64] {
  %p.0 = f32[6,24,64]{2,1,0} parameter(0)
  %p.1 = f32[24,64]{1,0} parameter(1)
  %p.2 = s32[] parameter(2)
  %p.3 = f32[6,24,64]{2,1,0} parameter(3)
  %zero = s32[] constant(0)
  %row = f32[1,24,64]{2,1,0} dynamic-slice(%p.3, %p.2, %zero, %zero), dynamic_slice_sizes={1,24,64}
  %new = f32[1,24,64]{2,1,0} bitcast(%p.1)
  %sum = f32[1,24,64]{2,1,0} add(%new, %row)
  ROOT %updated = f32[6,24,64]{2,1,0} dynamic-update-slice(%p.0, %sum, %p.2, %zero, %zero)
}

ENTRY %main (a: f32[6,24,64], b: f32[24,64], i: s32[], c: f32[6,24,64]) -> f32[6,24,64] {
  %a = f32[6,24,64]{2,1,0} parameter(0)
  %b = f32[24,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %c = f32[6,24,64]{2,1,0} parameter(3)
  %near = f32[24,64]{1,0:S(1)} copy(%b)
  ROOT %fusion = f32[6,24,64]{2,1,0} fusion(%a, %near, %i, %c), kind=kLoop, calls=%fused
}
"""


def test_of_a_slice_only_the_slice_is_moved():
    row = 24 * 64 * 4
    # The copy reads a row; the fusion reads it twice (of `c`, and the copy itself) and writes it; an index.
    assert roofline.work(hlo.parse(TPU)).hbm_bytes == row + 3 * row + 4


def test_what_lies_on_the_chip_is_free():
    text = TPU.replace("p.1: f32[24,64]", "p.1: f32[24,64]").replace(
        "%p.1 = f32[24,64]{1,0} ", "%p.1 = f32[24,64]{1,0:S(1)} "
    )
    row = 24 * 64 * 4
    assert roofline.work(hlo.parse(text)).hbm_bytes == row + 2 * row + 4


@pytest.mark.parametrize(
    "left, right, result, attributes, flops",
    [
        # a product, and a batch of four of them: a window of four, three of which fall on holes
        ("f32[8,16]", "f32[16,32]", "f32[8,32]", "dim_labels=bf_io->bf", 2 * 8 * 16 * 32),
        (
            "f32[4,8,16]",
            "f32[4,16,32]",
            "f32[4,8,32]",
            "window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf",
            2 * 4 * 8 * 16 * 32,
        ),
        # a convolution of 3 x 3 taps, and a depthwise one of 31
        (
            "bf16[2,10,10,16]",
            "bf16[3,3,16,32]",
            "bf16[2,10,10,32]",
            "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
            2 * 2 * 100 * 9 * 16 * 32,
        ),
        (
            "bf16[2,50,64]",
            "bf16[31,1,64]",
            "bf16[2,50,64]",
            "window={size=31 pad=15_15}, dim_labels=b0f_0io->b0f, feature_group_count=64",
            2 * 2 * 50 * 64 * 31,
        ),
    ],
)
def test_convolutions(left, right, result, attributes, flops):
    text = f"""\
ENTRY %main (a: {left}, b: {right}) -> {result} {{
  %a = {left}{{0}} parameter(0)
  %b = {right}{{0}} parameter(1)
  ROOT %c = {result}{{0}} convolution(%a, %b), {attributes}
}}
"""
    assert roofline.work(hlo.parse(text)).flops == {"bfloat16": flops, "float32": 0}
    exact = text.replace("dim_labels", "operand_precision={highest,highest}, dim_labels")
    kind = "float32" if left.startswith("f32") else "bfloat16"
    assert roofline.work(hlo.parse(exact)).flops[kind] == flops


def test_a_compiled_product_in_a_scan():
    def step(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, length=5)[0]

    text = jax.jit(step).lower(jnp.ones((64, 128)), jnp.ones((128, 128))).compile().as_text()
    work = roofline.work(hlo.parse(text))
    assert work.flops["bfloat16"] + work.flops["float32"] == 5 * 2 * 64 * 128 * 128
    least = 5 * 4 * (64 * 128 + 128 * 128 + 64 * 128)
    assert least <= work.hbm_bytes < 4 * least
