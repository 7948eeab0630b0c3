"""The least that a compiled step has to compute and to move on one device, read from its optimised program.

Counted with the turns of loops multiplied out. It is a floor: products and convolutions are all of the
arithmetic; every operand is read and every result written once an instruction, without padding, and what
collectives themselves read and write is left out.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from experiments.collectives import OPS
from experiments.hlo import Array, Computation, Instruction, Module

# Names of other arrays' memory; what moves nothing.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota",
    "partition-id", "replica-id", "after-all", "opt-barrier", "add-dependency", "domain",
}  # fmt: skip

# A TPU's compiler puts a collective into fusions between custom calls that start and end it.
_COLLECTIVES = (*OPS, *(f"{op}-start" for op in OPS), "custom-call")

_HBM = 0


class Work(NamedTuple):
    """A step's work on one device.

    Attributes:
        flops: of products and convolutions, by the type they are exact in: "bfloat16" or "float32".
        hbm_bytes: read from main memory and written to it.
    """

    flops: dict[str, float]
    hbm_bytes: float


def work(module: Module) -> Work:
    """Returns what one run of a program has to do at least."""
    flops = {"bfloat16": 0.0, "float32": 0.0}
    moved = 0.0
    for name, times in module.times.items():
        computation = module.computations[name]
        for instruction in computation.instructions.values():
            moved += times * _moved(module, computation, instruction)
        for owner, instruction in _all(module, computation):
            if instruction.opcode in ("dot", "convolution"):
                flops[_exactness(owner, instruction)] += times * product_flops(owner, instruction)
    return Work(flops, moved)


def product_flops(computation: Computation, instruction: Instruction) -> float:
    """Returns the operations of a `dot` or `convolution`; a multiply-add is two.

    A TPU's compiler writes every product as a convolution, and a batch of them as a dilated window whose
    other taps fall on the holes: dividing by the dilation leaves them out.
    """
    left, right = (computation.arrays_of((operand,))[0] for operand in instruction.operands)
    result = instruction.arrays[0].size
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        axes = [int(axis) for axis in contracted.group(1).split(",") if axis] if contracted else []
        for axis in axes:
            result *= left.dims[axis]
        return 2.0 * result
    labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
    dilated = re.search(r"lhs_dilate=([\dx]+)", instruction.attributes)
    holes = 1
    for size in dilated.group(1).split("x") if dilated else ():
        holes *= int(size)
    taps = right.size / right.dims[labels.group(1).index("o")] if labels else right.size
    return 2.0 * result * taps / holes


def _exactness(computation: Computation, instruction: Instruction) -> str:
    """Returns "float32" where operands of float32 are multiplied at full precision, else "bfloat16"."""
    operands = computation.arrays_of(instruction.operands)
    full = "operand_precision={highest,highest}" in instruction.attributes
    return "float32" if full and all(array.dtype == "f32" for array in operands) else "bfloat16"


def _all(module: Module, computation: Computation) -> Iterator[tuple[Computation, Instruction]]:
    for instruction in computation.instructions.values():
        yield computation, instruction
        for inner in module.inner(instruction):
            yield from ((inner, member) for member in inner.instructions.values())


def _moved(module: Module, computation: Computation, instruction: Instruction) -> float:
    """Returns the bytes that an instruction reads from main memory and writes to it."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
        return 0.0
    if opcode == "fusion":
        return _moved_by_fusion(module.computations[instruction.called("calls")[0]], instruction)
    operands = computation.arrays_of(instruction.operands)
    if opcode == "dynamic-update-slice":
        return 2.0 * _bytes(operands[1:2])  # in place
    if opcode in ("dynamic-slice", "slice", "gather"):
        return 2.0 * _bytes(instruction.arrays)
    if opcode.removesuffix("-start") in OPS:
        return 0.0
    if opcode.endswith("-start"):
        # A copy or a slice: as much is read from one place as is written to the other, the smaller of both.
        pair = instruction.arrays[:2]
        moved = min(array.nbytes for array in pair)
        return float(moved * sum(array.space == _HBM for array in pair))
    return _bytes(instruction.arrays) + _bytes(operands)


def _moved_by_fusion(fused: Computation, fusion: Instruction) -> float:
    """Returns a fusion's traffic: what is used of its parameters, and what it makes."""
    users: dict[str, list[Instruction]] = {}
    for instruction in fused.instructions.values():
        for operand in instruction.operands:
            users.setdefault(operand, []).append(instruction)
    root = fused.root
    results = [fused.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    moved = 0.0
    for result in results:
        made = _behind_bitcasts(fused, result)
        if made.opcode == "dynamic-update-slice":
            # In place: the slice alone is written.
            moved += _bytes(fused.arrays_of(made.operands[1:2]), of=result)
        elif made.opcode not in ("parameter", *_COLLECTIVES):
            moved += _bytes(result.arrays)
    parameters = (i for i in fused.instructions.values() if i.opcode == "parameter")
    return moved + sum(_read(parameter, users) for parameter in parameters)


def _read(parameter: Instruction, users: dict[str, list[Instruction]]) -> float:
    """Returns the bytes that a fusion reads of a parameter; of one that it only slices, the slices."""
    total, reached = 0.0, [parameter]
    while reached:
        for user in users.get(reached.pop().name, ()):
            if user.opcode in ("bitcast", "get-tuple-element"):
                reached.append(user)
            elif user.opcode in ("tuple", *_COLLECTIVES):
                continue
            elif user.opcode in ("dynamic-slice", "slice", "gather"):
                total += _bytes(user.arrays, of=parameter)
            elif user.opcode == "dynamic-update-slice" and parameter.name not in user.operands[1:]:
                continue
            else:
                return _bytes(parameter.arrays)
    return min(total, _bytes(parameter.arrays))


def _behind_bitcasts(fused: Computation, instruction: Instruction) -> Instruction:
    while instruction.opcode == "bitcast":
        instruction = fused.instructions[instruction.operands[0]]
    return instruction


def _bytes(arrays: list[Array] | tuple[Array, ...], of: Instruction | None = None) -> float:
    """Returns the bytes of the arrays in main memory; with `of`, whether they are is asked of its array."""
    if of is not None:
        return sum(array.nbytes for array in arrays) if of.arrays[0].space == _HBM else 0
    return sum(array.nbytes for array in arrays if array.space == _HBM)
