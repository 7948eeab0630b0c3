"""What a compiled step sends between devices: every collective, what it carries, whether that is expected."""

import dataclasses
import math
import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from experiments.hlo import Array, Computation, Instruction, Module

OPS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)

# Up to this many elements (256 KiB of float32) it is a statistic, such as a BatchNorm's sums or a metric, if
# nothing of it says otherwise. `parallel.MIN_SHARDED_SIZE` says the same of parameters.
MAX_STATISTIC = 2**16

# For another slice a layer's small gradients are packed into one array, 66 Ki elements of `large`.
MAX_PACKED = 2**17

_GROUPS = re.compile(
    r"replica_groups=(\{\{.*?\}\}|\{\}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?"
    r"|mesh\[[^\]]*\](?:, device_ids=\(.*?\))? \{[^}]*\})"
)

_MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')

Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
        op: one of `OPS`. An all-reduce of which each device keeps a slice is a reduce-scatter.
        arrays: what it carries, whole: an all-gather's results, everything else's operands.
        groups: devices that exchange among each other, as positions in the mesh; () where the text does not
            say.
        times: how often it runs in a step.
        source: the operation of the traced program that it was made for.
        name: in the program's text.
        slices: how many exchange, each device with its like in the others, over the network between them; 0
            for what stays within a slice.
    """

    op: str
    arrays: tuple[Array, ...]
    groups: Groups
    times: int
    source: str
    name: str
    slices: int = 0

    @property
    def sent(self) -> float:
        """Bytes that a device has to send each time: those of the ring algorithm, the fewest there can be."""
        size = self.slices or max(map(len, self.groups), default=1)
        payload = sum(array.nbytes for array in self.arrays)
        if self.op not in OPS or self.op == "collective-permute":
            return payload
        if self.slices and self.op == "all-gather":
            payload *= size  # what is sent to a host is a share
        return (2 if self.op == "all-reduce" else 1) * payload * (size - 1) / size


def collectives(module: Module, num_devices: int, num_slices: int = 1) -> list[Collective]:
    """Returns the collectives of a program, in the order of the text.

    Args:
        module: the program, which is that of one slice.
        num_devices: of a slice.
        num_slices: that run it. What they exchange is written as sends to a host, which says what it is.
    """
    found = []
    started = _started(module)
    for name, times in module.times.items():
        # A TPU's compiler spreads one over several fusions (start, the work it hides behind, done), which all
        # name its channel.
        seen: set[str] = set()
        for computation, instruction in _with_inner(module, module.computations[name]):
            between = _MEGASCALE.search(instruction.attributes)
            if instruction.opcode == "send" and between:
                op = between.group(1).lower().replace("_", "-")
                arrays = tuple(computation.arrays_of(instruction.operands[:1]))
                source, own = instruction.source, instruction.name
                found.append(Collective(op, arrays, (), times, source, own, num_slices))
                continue
            op = instruction.opcode.removesuffix("-start")
            channel = re.search(r"channel_id=(\d+)", instruction.attributes)
            if op not in OPS or (channel and channel.group(1) in seen):
                continue
            if channel and channel.group(1) in started and not _starts(computation):
                continue
            seen |= {channel.group(1)} if channel else set()
            groups = _groups(instruction.attributes, num_devices)
            arrays = _payload(op, instruction, computation, max(map(len, groups), default=1))
            if op == "all-reduce" and _is_sliced(computation, instruction):
                op = "reduce-scatter"
            source = instruction.source or _fusion_source(module, name, computation.name)
            found.append(Collective(op, arrays, groups, times, source, instruction.name))
    return found


def axis_of(groups: Groups, mesh: Mesh) -> str:
    """Returns the mesh axes over which groups of positions exchange; "?" where they are no axes of it."""
    if not groups:
        return "?"
    shape = tuple(mesh.shape.values())
    spans = [0] * len(shape)
    for group in groups:
        places = np.unravel_index(np.array(group), shape)
        spans = [max(span, len(set(along.tolist()))) for span, along in zip(spans, places, strict=True)]
    if np.prod(spans) != max(map(len, groups)):
        return "?"
    names = [
        axis if span == size else f"{span} of {axis}"
        for (axis, size), span in zip(mesh.shape.items(), spans, strict=True)
        if span > 1
    ]
    return " x ".join(names) or "none"


class Expected:
    """Knows what a step may send: weights and gradients, and small statistics; no clips, no activations."""

    def __init__(
        self,
        leaves: Sequence[tuple[int, ...]],
        *,
        layers: Collection[int],
        fsdp: int,
        times: Sequence[int],
        pairs: tuple[int, int] | None = None,
    ) -> None:
        """Learns the shapes.

        Args:
            leaves: shapes of the state's arrays.
            layers: of each encoder; an array that stacks so many is also sent layer by layer.
            fsdp: devices that share a parameter: gradients of the shares are added up over the others.
            times: lengths that only clips have: samples, frames, tokens.
            pairs: of a contrastive loss, how many, and the size of a vector: each is compared with all.
        """
        self._times = tuple(times)
        self._pairs = pairs
        self._shapes: set[tuple[int, ...]] = set()
        self._sizes: set[int] = set()
        self._shares: set[int] = set()
        for leaf in leaves:
            whole = [leaf, leaf[1:]] if leaf and leaf[0] in layers else [leaf]
            for shape in whole:
                self._shapes.add(_squeezed(shape))
                self._sizes.add(math.prod(shape))
                self._shares.add(math.prod(shape) // fsdp)
                for axis, size in enumerate(shape):
                    if size % fsdp == 0:
                        self._shapes.add(_squeezed((*shape[:axis], size // fsdp, *shape[axis + 1 :])))

    def kind(self, array: Array, *, between_slices: bool = False) -> str:
        """Returns "weights", "vectors", "statistics" or "activations"; the last is what should not be sent.

        Between slices go the shares that fsdp makes, in any shape.
        """
        shape = _squeezed(array.dims)
        if shape in self._shapes:
            return "weights"
        if self._pairs and shape == _squeezed(self._pairs):
            return "vectors"
        if any(size % time == 0 for size in shape for time in self._times):
            return "activations"
        # Reshaped: a kernel of 3 x 3 taps, say.
        sizes = self._sizes | self._shares if between_slices else self._sizes
        if array.size in sizes and array.size > MAX_STATISTIC:
            return "weights"
        small = array.size <= (MAX_PACKED if between_slices else MAX_STATISTIC)
        return "statistics" if small else "activations"


def _started(module: Module) -> set[str]:
    """Returns the channels of collectives that a fusion starts; their other fusions may turn in a loop."""
    return {
        channel
        for computation in module.computations.values()
        if _starts(computation)
        for instruction in computation.instructions.values()
        for channel in re.findall(r"channel_id=(\d+)", instruction.attributes)
    }


def _starts(computation: Computation) -> bool:
    return any("AsyncCollectiveStart" in i.attributes for i in computation.instructions.values())


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(size for size in shape if size != 1))


def _with_inner(module: Module, computation: Computation) -> Iterator[tuple[Computation, Instruction]]:
    for instruction in computation.instructions.values():
        yield computation, instruction
        for inner in module.inner(instruction):
            yield from ((inner, member) for member in inner.instructions.values())


def _payload(op: str, instruction: Instruction, computation: Computation, size: int) -> tuple[Array, ...]:
    count = len(instruction.operands)
    leaves = instruction.arrays
    # The start of an asynchronous one gives its operands, its results, and counters.
    results = leaves[count : 2 * count] if len(leaves) >= 2 * count else leaves[:count]
    operands = tuple(computation.arrays_of(instruction.operands))
    if op == "all-gather":
        return results
    return operands if len(operands) == count else results


def _is_sliced(computation: Computation, reduced: Instruction) -> bool:
    """Whether an all-reduce inside a fusion is followed by a slice for each device alone."""
    sources = {reduced.name}
    for instruction in computation.instructions.values():
        if not sources & set(instruction.operands):
            continue
        if instruction.opcode in ("get-tuple-element", "bitcast", "reshape"):
            sources.add(instruction.name)
        elif instruction.opcode == "dynamic-slice":
            return any(i.opcode == "partition-id" for i in computation.instructions.values())
    return False


def _fusion_source(module: Module, caller: str, callee: str) -> str:
    for instruction in module.computations[caller].instructions.values():
        if callee in instruction.called("calls"):
            return instruction.source
    return ""


def _groups(attributes: str, num_devices: int) -> Groups:
    """Returns the groups that an instruction's attributes name; () where they are written in no known way.

    XLA writes them as `{{0,1},{2,3}}`, as `[2,2]<=[4]` or `[2,2]<=[2,2]T(1,0)`, or as the axes of a mesh,
    `mesh['a'=2,'b'=2] {'b'}`, with `, device_ids=([2,2]T(1,0))` where its devices are in another order; a
    permutation as pairs.
    """
    pairs = re.search(r"source_target_pairs=\{(\{[\d,{} ]*\})\}", attributes)
    if pairs:
        return tuple(_numbers(pair) for pair in re.findall(r"\{([\d, ]+)\}", pairs.group(1)))
    found = _GROUPS.search(attributes)
    text = found.group(1) if found else ""
    if text == "{}":
        return (tuple(range(num_devices)),)
    if text.startswith("{"):
        return tuple(_numbers(group) for group in re.findall(r"\{([\d, ]+)\}", text))
    if text.startswith("["):
        shape, _, order = text.partition("<=")
        return _rows(_iota(order).reshape(_numbers(shape.strip("[]"))))
    return _mesh_groups(text, num_devices) if text else ()


def _mesh_groups(text: str, num_devices: int) -> Groups:
    mesh, _, chosen = text.rpartition(" ")
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    order = re.search(r"device_ids=\((\[.*\](?:T\([\d,]+\))?)\)", mesh)
    axes = re.findall(r"'(\w+)'", chosen)
    # A part of an axis is written with a colon.
    if ":" in chosen or ("device_ids" in mesh and not order) or math.prod(sizes.values()) != num_devices:
        return ()
    devices = _iota(order.group(1) if order else f"[{num_devices}]").reshape(list(sizes.values()))
    devices = np.moveaxis(devices, [list(sizes).index(axis) for axis in axes], range(-len(axes), 0))
    return _rows(devices.reshape(-1, math.prod(sizes[axis] for axis in axes)))


def _iota(text: str) -> np.ndarray:
    """Returns 0, 1, 2, ... in the shape and order that `[2,4]T(1,0)` tells."""
    shape, _, order = text.partition("T")
    sizes = _numbers(shape.strip("[]"))
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    return devices.transpose(_numbers(order.strip("()"))) if order else devices


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _rows(groups: np.ndarray) -> Groups:
    return tuple(tuple(int(device) for device in group) for group in groups)
