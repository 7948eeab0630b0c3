"""Reads the text of an optimised XLA program: computations, how often each runs, shapes.

What `compiled.as_text()` gives. XLA's own `cost_analysis()` counts the body of a loop once, so whoever wants
the cost of a step has to know how often each computation runs.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
    "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
    "f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3b11fnuz": 8,
}  # fmt: skip

_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,<=]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_OPERAND = re.compile(r"%([\w.\-]+(?:#\d+)*)")
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
_COMMENT = re.compile(r"/\*.*?\*/")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a type: element type, sizes, and the memory it lies in.

    `space` is 0 for a device's main memory; a TPU's program also places arrays in memories on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes without the padding of a tiled layout; 0 for a token."""
        return math.ceil(self.size * BITS.get(self.dtype, 0) / 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name, opcode: as written, without `%`.
        arrays: the leaves of its type; one, unless it gives a tuple.
        operands: names of the instructions that it takes.
        arguments: what stands between its parentheses, for the opcodes whose operand is a literal.
        attributes: the rest of the line.
        is_root: its value is the computation's.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    is_root: bool

    def called(self, *keys: str) -> list[str]:
        """Returns the computations that attributes name: `calls=%x`, `branch_computations={%x, %y}`."""
        names = []
        for key in keys:
            found = re.search(rf"\b{key}=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes)
            names += _NAME.findall(found.group(1)) if found else []
        return names

    @property
    def source(self) -> str:
        """What it was made from: the path of the operation in the traced program, "" where unknown."""
        found = _SOURCE.search(self.attributes)
        return found.group(1) if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order of the text, which is that of execution in a scheduled program."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.is_root)

    def arrays_of(self, names: tuple[str, ...]) -> list[Array]:
        """Returns the leaves of the types of these instructions."""
        return [array for name in names for array in self.instructions[name].arrays]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
        computations: by name.
        entry: name of the one that runs first.
        times: how often each computation runs in one run of the program; those that are part of an
            instruction, such as a fusion's, are not in it.
        unknown_loops: loops whose number of turns the text does not tell; they are counted as one.
    """

    computations: dict[str, Computation]
    entry: str
    times: dict[str, int]
    unknown_loops: tuple[str, ...]

    def inner(self, instruction: Instruction) -> Iterator[Computation]:
        """Yields the computations that are part of an instruction: a fusion's, an asynchronous call's."""
        if instruction.opcode == "fusion" or instruction.opcode.endswith("-start"):
            for name in instruction.called("calls"):
                computation = self.computations[name]
                yield computation
                for member in computation.instructions.values():
                    yield from self.inner(member)


def parse_arrays(text: str) -> tuple[Array, ...]:
    """Returns the leaves of a type such as `(f32[3,4]{1,0:T(8,128)S(1)}, s32[])`."""
    arrays = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        arrays.append(Array(dtype, sizes, int(space.group(1)) if space else 0))
    return tuple(arrays)


def parse(text: str) -> Module:
    """Returns the program of `compiled.as_text()`.

    Raises:
        ValueError: there is no entry computation, so the text is something else.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, None
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current, kinds = Computation(header.group(2), {}), {}
            computations[current.name] = current
            entry = current.name if header.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction, kind = _parse_instruction(*found.groups())
            kinds[instruction.name] = kind
            for operand in instruction.operands:
                _spell_out(operand, current, kinds)
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("this is no text of an XLA program: it has no ENTRY computation")
    times: dict[str, int] = {}
    unknown: list[str] = []
    _visit(computations, entry, 1, times, unknown)
    return Module(computations, entry, times, tuple(dict.fromkeys(unknown)))


def trip_count(loop: Instruction, computations: dict[str, Computation]) -> int | None:
    """Returns how often a `while` turns, None where the text does not tell.

    Either XLA has written it down, or the condition compares the counter, which starts at 0 as that of a
    `lax.scan`, with a constant. Where XLA has unrolled the body, the counter goes up by more than one.
    """
    known = _KNOWN_TRIPS.search(loop.attributes)
    if known:
        return int(known.group(1))
    condition = computations[loop.called("condition")[0]]
    members = list(condition.instructions.values())
    for instruction in condition.instructions.values():
        for name in instruction.called("calls"):
            members += computations[name].instructions.values()
    compares = [i for i in members if i.opcode == "compare" and "direction=LT" in i.attributes]
    limits = {
        int(i.arguments)
        for i in members
        if i.opcode == "constant" and i.arrays[0].dtype in ("s32", "s64", "u32") and i.arguments.isdigit()
    }
    if len(compares) != 1 or len(limits) != 1:
        return None
    return -(-limits.pop() // _increment(compares[0], condition, computations[loop.called("body")[0]]))


def _increment(compare: Instruction, condition: Computation, body: Computation) -> int:
    """Returns by how much a turn moves the counter; 1 where it is not plainly the sum with a constant."""
    counter = condition.instructions.get(compare.operands[0]) if compare.operands else None
    place = re.search(r"index=(\d+)", counter.attributes) if counter else None
    if not place or body.root.opcode != "tuple":
        return 1
    added = body.instructions[body.root.operands[int(place.group(1))]]
    while added.opcode in ("copy", "bitcast"):
        added = body.instructions[added.operands[0]]
    if added.opcode != "add":
        return 1
    constants = [body.instructions[name] for name in added.operands]
    steps = [int(i.arguments) for i in constants if i.opcode == "constant" and i.arguments.isdigit()]
    return steps[0] if len(steps) == 1 and steps[0] > 0 else 1


def _visit(
    computations: dict[str, Computation], name: str, times: int, total: dict[str, int], unknown: list[str]
) -> None:
    total[name] = total.get(name, 0) + times
    for instruction in computations[name].instructions.values():
        if instruction.opcode == "while":
            trips = trip_count(instruction, computations)
            if trips is None:
                unknown.append(instruction.name)
            for body in instruction.called("body"):
                _visit(computations, body, times * (1 if trips is None else trips), total, unknown)
        elif instruction.opcode == "conditional":
            # Which branch runs is not known here: as if all did.
            keys = ("branch_computations", "true_computation", "false_computation")
            for branch in instruction.called(*keys):
                _visit(computations, branch, times, total, unknown)
        elif instruction.opcode == "call":
            for callee in instruction.called("to_apply"):
                _visit(computations, callee, times, total, unknown)


def _spell_out(operand: str, computation: Computation, kinds: dict[str, str]) -> None:
    """Adds the `get-tuple-element` that `%tuple#3` stands for in what a TPU's compiler writes down."""
    owner, is_element, place = operand.rpartition("#")
    if not is_element or operand in computation.instructions:
        return
    _spell_out(owner, computation, kinds)
    kinds[operand] = kind = _elements(kinds[owner])[int(place)]
    computation.instructions[operand] = Instruction(
        operand, "get-tuple-element", parse_arrays(kind), (owner,), f"%{owner}", f", index={place}", False
    )


def _elements(kind: str) -> list[str]:
    """Returns the types in the type of a tuple, which may be tuples again."""
    elements, depth = [""], 0
    for letter in _COMMENT.sub("", kind)[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += letter
    return [element.strip() for element in elements]


def _parse_instruction(root: str | None, name: str, rest: str) -> tuple[Instruction, str]:
    """Returns a line's instruction and its type as written."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    arguments = rest[start + 1 : end]
    instruction = Instruction(
        name=name,
        opcode=rest[:start],
        arrays=parse_arrays(kind),
        operands=tuple(_OPERAND.findall(arguments)),
        arguments=arguments,
        attributes=rest[end + 1 :],
        is_root=root is not None,
    )
    return instruction, kind


def _closing(text: str, start: int) -> int:
    """Returns where the parenthesis that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"unbalanced parentheses in {text[:200]!r}")
