import pytest

from experiments import chips
from experiments.collectives import Expected
from experiments.step_report import lines, make_report
from muq_jax import parallel
from tests.experiments.collectives_test import TPU
from tests.parallel_test import FakeDevice

MEMORY = dict.fromkeys(
    ("parameters", "optimizer", "model_state", "batch", "arguments", "temporaries", "output", "aliased"), 0
)


def make(text, leaves, *, slices=1, model_flops=1e9, chip=chips.TPUS["v5e"]):
    devices = [FakeDevice(i, slice_index=i * slices // 8) for i in range(8)]
    return make_report(
        text,
        memory=MEMORY | {"program": 0, "total": 0},
        chip=chip,
        mesh=parallel.make_mesh(-1, -1, devices=devices),
        model_flops=model_flops,
        dtype="bfloat16",
        expected=Expected(leaves, layers=[12], fsdp=8, times=(750,)),
    )


def test_weights_are_expected_and_what_is_as_long_as_a_clip_is_not():
    # The permutation's operand has the gather's shape.
    found = make(TPU, [(192, 64)])
    assert found["unexpected"] == [] and {one["kind"] for one in found["collectives"]} == {"weights"}
    found = make(TPU.replace("192,64]", "750,64]"), [(192, 64)])
    assert [one["op"] for one in found["unexpected"]] == [
        "collective-permute",
        "all-gather",
        "reduce-scatter",
    ]
    text = "\n".join(lines(found))
    assert "3 collectives, 3 of them unexpected" in text and "  unexpected all-gather" in text


def test_rows_of_a_shared_table_are_expected():
    line = (
        "  %rows = f32[8,12,128,96]{3,2,1,0} all-to-all(%own), channel_id=9, replica_groups={}, "
        'dimensions={0}, metadata={op_name="jit(step)/TextTower/SOURCE"}\n'
    )
    own = "  %own = f32[8,12,128,96]{3,2,1,0} broadcast(%w), dimensions={}\n"
    program = SLICES.split("  %token")[0] + own + line + "  ROOT %w = bf16[24,64]{1,0} parameter(0)\n}\n"
    (found,) = make(program.replace("SOURCE", "gather"), [(192, 64)])["collectives"]
    assert found["expected"] and found["kind"] == "rows"
    (found,) = make(program.replace("SOURCE", "transpose"), [(192, 64)])["collectives"]
    assert not found["expected"] and found["kind"] == "activations"


def test_the_largest_comes_first_and_the_sum_bounds_the_step():
    found = make(TPU, [(192, 64)])
    sent = [one["bytes_per_step"] for one in found["collectives"]]
    assert sent == sorted(sent, reverse=True) and found["collective_bytes"] == sum(sent)
    assert found["seconds_at_least"]["interconnect"] == sum(sent) / 200e9
    assert found["seconds_at_least"]["compute"] == 1e9 / 197e12  # the model's: the text has no product
    assert found["bound"] == "compute" and found["utilisation_allowed"] == pytest.approx(1.0)


# What a slice of several says of the gradient that it shares with the others.
SLICES = """\
ENTRY %main (w: bf16[24,64], g: bf16[12,128]) -> bf16[24,64] {
  %g = bf16[12,128]{1,0} parameter(1)
  %token = token[] after-all()
  %send = (bf16[12,128]{1,0}, u32[], token[]) send(%g, %token), channel_id=5, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (bf16[12,128]{1,0}, u32[], token[]) recv(%token), channel_id=6, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %sums = f32[64]{0} all-reduce(%g), channel_id=7, replica_groups={}, to_apply=%add
  ROOT %w = bf16[24,64]{1,0} parameter(0)
}
"""  # noqa: E501


def test_what_goes_between_slices_is_bound_by_the_network():
    found = make(SLICES, [(96, 128)], slices=2)
    assert found["mesh"] == {"data": 2, "fsdp": 4}
    within, between = found["collectives"]
    assert (between["op"], between["axis"], between["kind"]) == ("all-reduce", "slices", "weights")
    assert found["bytes_between_slices"] == between["bytes_per_step"] == 12 * 128 * 2
    assert found["seconds_at_least"]["network"] == 12 * 128 * 2 / 3.125e9
    # The program is that of one slice: four devices.
    assert found["collective_bytes"] == within["bytes_per_step"] == 12 * 128 * 2 * 2 * 3 / 4
    assert "GB between slices" in "\n".join(lines(found))
    assert make(TPU, [(192, 64)])["bytes_between_slices"] == 0


def test_a_network_of_unknown_speed_is_no_part_of_the_bound():
    found = make(SLICES, [(96, 128)], slices=2, chip=chips.TPUS["v4"])
    assert "network" not in found["seconds_at_least"]
    assert "not published" in "\n".join(lines(found))
