"""What is to be known of a compiled training step, as a dictionary and as text."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from experiments import hlo, roofline
from experiments.chips import Chip
from experiments.collectives import Collective, Expected, axis_of, collectives
from muq_jax.train.state import TrainState

GIB = 2**30


def memory_parts(compiled: Any, state: TrainState, batch: Mapping[str, Any]) -> dict[str, int]:
    """Returns the bytes on a device by part; `total` is what has to fit.

    `optimizer`, `parameters`, `model_state` and `batch` are what is handed to the step, as sharded; the
    compiler's own numbers are `arguments` (those four, with the padding of its layouts), `output`, `aliased`
    (the part of the output that takes an argument's place), `temporaries` and `program`.
    """
    stats = compiled.memory_analysis()
    parts = {
        "parameters": _bytes_here(state.params),
        "optimizer": _bytes_here(state.opt_state),
        "model_state": _bytes_here(state.model_state),
        "batch": _bytes_here(batch),
        "arguments": stats.argument_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "output": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    parts["total"] = (
        parts["arguments"] + parts["temporaries"] + parts["output"] - parts["aliased"] + parts["program"]
    )
    return parts


def make_report(
    text: str,
    *,
    memory: Mapping[str, int],
    chip: Chip,
    mesh: Mesh,
    model_flops: float,
    dtype: str,
    expected: Expected,
) -> dict[str, Any]:
    """Returns what the program's text tells, for one device and step.

    Args:
        text: the optimised program.
        memory: of `memory_parts`.
        chip: what it runs on.
        mesh: the devices that it is compiled for.
        model_flops: analytic count for one device.
        dtype: what the model computes in, whose peak is the measure of utilisation.
        expected: knows what may be sent.
    """
    module = hlo.parse(text)
    num_slices = len({getattr(device, "slice_index", 0) for device in mesh.devices.flat})
    found = collectives(module, mesh.size // num_slices, num_slices)
    sent = [_describe(one, mesh, expected) for one in found]
    sent.sort(key=lambda one: -one["bytes_per_step"])
    work = roofline.work(module)
    total_sent, between = (
        sum(one["bytes_per_step"] for one in sent if one["between_slices"] is crossing)
        for crossing in (False, True)
    )
    program_seconds = sum(flops / chip.flops[name] for name, flops in work.flops.items())
    seconds = {
        # On a GPU products are calls of a library, whose arithmetic the text does not tell.
        "compute": max(program_seconds, model_flops / chip.flops[dtype]),
        "hbm": work.hbm_bytes / chip.hbm_bytes_per_s,
        "interconnect": total_sent / chip.link_bytes_per_s,
    }
    if between and chip.network_bytes_per_s:
        seconds["network"] = between / chip.network_bytes_per_s
    bound = max(seconds.values())
    return {
        "chip": chip.name,
        "num_chips": mesh.size,
        "mesh": dict(mesh.shape),
        "memory": {**memory, "chip": chip.hbm_bytes},
        "model_flops": model_flops,
        "program_flops": work.flops,
        "hbm_bytes": work.hbm_bytes,
        "collective_bytes": total_sent,
        "bytes_between_slices": between,
        "seconds_at_least": seconds,
        "bound": max(seconds, key=lambda name: seconds[name]),
        "bound_seconds": bound,
        "utilisation_allowed": model_flops / (bound * chip.flops[dtype]),
        "collectives": sent,
        "unexpected": [one for one in sent if not one["expected"]],
        "unknown_loops": list(module.unknown_loops),
    }


def lines(report: Mapping[str, Any], *, all_collectives: bool = False) -> Iterator[str]:
    """Yields the report as text; without `all_collectives`, of the expected ones the largest ten."""
    memory, seconds = report["memory"], report["seconds_at_least"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
    yield f"{report['num_chips']} x {report['chip']}, mesh {mesh}"
    yield ""
    yield f"memory a chip: {memory['total'] / GIB:.2f} of {memory['chip'] / GIB:.2f} GiB"
    for name in ("parameters", "optimizer", "model_state", "batch"):
        yield f"  {name:<24}{memory[name] / GIB:9.3f}"
    for name in ("arguments", "temporaries", "output", "aliased", "program"):
        yield f"  {name:<24}{memory[name] / GIB:9.3f}   compiler's"
    yield ""
    yield "a step on each chip, at least"
    program = ", ".join(f"{flops / 1e12:.2f} T {name}" for name, flops in report["program_flops"].items())
    yield f"  arithmetic    {seconds['compute'] * 1e3:9.2f} ms   {program}"
    yield f"  memory        {seconds['hbm'] * 1e3:9.2f} ms   {report['hbm_bytes'] / 1e9:.2f} GB"
    sent = report["collective_bytes"] / 1e9
    yield f"  interconnect  {seconds['interconnect'] * 1e3:9.2f} ms   {sent:.3f} GB sent"
    if report["bytes_between_slices"]:
        crossing = f"{report['bytes_between_slices'] / 1e9:.3f} GB between slices"
        if "network" in seconds:
            yield f"  network       {seconds['network'] * 1e3:9.2f} ms   {crossing}"
        else:
            yield f"{'':<31}{crossing}, over a network whose speed is not published: not in the bound"
    yield (
        f"bound by {report['bound']}: no step is shorter than {report['bound_seconds'] * 1e3:.1f} ms, so of "
        f"the peak at most {report['utilisation_allowed']:.0%} can go into the model's "
        f"{report['model_flops'] / 1e12:.2f} TFLOP. A bound, not a time."
    )
    if report["unknown_loops"]:
        yield f"counted as one turn, for the text does not tell: {', '.join(report['unknown_loops'])}"
    expected = [one for one in report["collectives"] if one["expected"]]
    shown = expected if all_collectives else expected[:10]
    yield ""
    yield f"{len(report['collectives'])} collectives, {len(report['unexpected'])} of them unexpected"
    for heading, rows in (("unexpected", report["unexpected"]), ("expected", shown)):
        for one in rows:
            carried = " ".join(one["arrays"][:3]) + (" ..." if len(one["arrays"]) > 3 else "")
            yield (
                f"  {heading:<10} {one['op']:<18} {carried:<44} x {one['times']:<3} over {one['axis']}: "
                f"{one['bytes_per_step'] / 1e6:.2f} MB, {one['kind']}"
            )
    if len(shown) < len(expected):
        rest = sum(one["bytes_per_step"] for one in expected[len(shown) :])
        yield f"  and {len(expected) - len(shown)} smaller expected ones, {rest / 1e6:.2f} MB"


def _describe(one: Collective, mesh: Mesh, expected: Expected) -> dict[str, Any]:
    kinds = sorted({expected.kind(array, between_slices=one.slices > 0) for array in one.arrays})
    if one.op == "all-to-all" and one.source.endswith("/gather"):
        # Of a table of words whose columns are shared out: less than the table itself.
        kinds = ["rows"]
    return {
        "op": one.op,
        "arrays": [str(array) for array in one.arrays],
        "bytes": sum(array.nbytes for array in one.arrays),
        "times": one.times,
        "bytes_per_step": one.sent * one.times,
        "axis": "slices" if one.slices else axis_of(one.groups, mesh),
        "kind": " and ".join(kinds),
        "expected": "activations" not in kinds,
        "between_slices": bool(one.slices),
        "source": one.source,
        "name": one.name,
    }


def _bytes_here(tree: Any) -> int:
    """Returns what a device holds of a tree of ShapeDtypeStructs with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
