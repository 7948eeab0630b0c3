"""One language for both directions between PyTorch's names and layouts and ours.

A table says, for every tensor of a PyTorch state dict, either where it lives in our variables (`Rule`) or why
nobody reads it (`Unused`). Reading and writing use the same rows, so they cannot disagree, and whatever a
table does not name is an error that names it: the PyTorch original loads with strict=False and never reports
a missing tensor.
"""

import hashlib
import mmap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.errors import UserError

Tensors = dict[str, np.ndarray]
Tree = dict[str, Any]

LINEAR = "oi->io"
POINTWISE = "oi1->io"  # a convolution with a kernel of one, which is a linear map
DEPTHWISE = "c1k->kc"

_BEGIN_AT_ZERO = ("bias", "mean", "stale_counter")  # and may still be there

_SHOWN = 8  # names listed in one message


@dataclass(frozen=True)
class Rule:
    """Where a PyTorch tensor lives in our variables.

    Attributes:
        torch: its PyTorch name. With `stack`, a name holding `{n}` for n = 0 ... stack - 1.
        path: our path, `collection/module/.../leaf`.
        layout: the axes there and here, one letter an axis and `1` an axis of size one that only one side
            has, as in `oi1->io`. Empty where both sides hold the same array.
        stack: number of tensors that become one array with a leading axis (the layers of a scan); 0 means one
            tensor.
        zero_because: why a matrix may hold zeros alone, which otherwise is taken for a damaged file.
    """

    torch: str
    path: str
    layout: str = ""
    stack: int = 0
    zero_because: str = ""

    def names(self) -> list[str]:
        """The PyTorch names that this rule reads and writes."""
        return [self.torch.format(n=n) for n in range(self.stack)] if self.stack else [self.torch]

    def to_ours(self, tensors: list[np.ndarray]) -> np.ndarray:
        """Our array from the tensors of `names()`."""
        arrays = [_relayout(tensor, *self._sides()) for tensor in tensors]
        return np.stack(arrays) if self.stack else arrays[0]

    def to_torch(self, array: np.ndarray) -> list[np.ndarray]:
        """The tensors of `names()` from our array."""
        return [_relayout(a, *reversed(self._sides())) for a in (array if self.stack else [array])]

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that every tensor of `names()` has where our array has `shape`."""
        ours = shape[1:] if self.stack else shape
        theirs, mine = self._sides()
        sizes = dict(zip(mine, ours, strict=True)) if mine else {}
        return tuple(1 if axis == "1" else sizes[axis] for axis in theirs) if theirs else ours

    def _sides(self) -> list[str]:
        return self.layout.split("->") if self.layout else ["", ""]


@dataclass(frozen=True)
class Unused:
    """A tensor that upstream stores and never reads, or that can be computed: not read, written on export.

    Attributes:
        torch: its PyTorch name; ending in `.*`, every name that begins like this.
        shape: its shape; None for such a group, which is left out in reading and never written.
        reason: why nothing of ours holds it.
        value: what it must be, within what half precision holds, and what export writes where the source had
            none; None where the original never reads it: zeros.
        dtype: the stored type. A file may hold another one (BatchNorm counters have been seen as float32).
    """

    torch: str
    shape: tuple[int, ...] | None
    reason: str
    value: np.ndarray | None = None
    dtype: str = "float32"

    def covers(self, name: str) -> bool:
        """Whether a tensor of this canonical name is meant, or what weight norm's pair was folded to."""
        if self.shape is None:
            return name.startswith(self.torch.removesuffix("*"))
        return canonical_name(self.torch) in (name, f"{name}_v")


@dataclass(frozen=True)
class Table:
    """Every tensor of one model's state dict, used or not."""

    rules: tuple[Rule, ...]
    unused: tuple[Unused, ...] = ()


def linear(there: str, here: str, layout: str = LINEAR, stack: int = 0) -> list[Rule]:
    """The rules of a linear map or a convolution of this layout: `weight` and `bias`, `kernel` and `bias`."""
    return [
        Rule(f"{there}.weight", f"params/{here}/kernel", layout, stack),
        Rule(f"{there}.bias", f"params/{here}/bias", stack=stack),
    ]


def norm(there: str, here: str, stack: int = 0) -> list[Rule]:
    """The rules of a normalisation's gain and shift: `weight` and `bias`, `scale` and `bias`."""
    return [
        Rule(f"{there}.weight", f"params/{here}/scale", stack=stack),
        Rule(f"{there}.bias", f"params/{here}/bias", stack=stack),
    ]


def checked(
    tensors: Mapping[str, np.ndarray], table: Table, template: Tree, source: str = "the weights"
) -> Tensors:
    """The tensors in use of a PyTorch state dict, by the names of the table's rules; nothing is copied.

    Args:
        tensors: name to array, of any float type, with weight norm in any of its spellings and what a trainer
            puts before names.
        table: the model's table.
        template: variables of the model as arrays or shapes (`jax.eval_shape`); decides shapes.
        source: what to call the tensors in an error.

    Raises:
        UserError: names every tensor that is missing, not in the table, of another shape, not finite, a
            matrix of zeros, or a constant that the configuration says otherwise.
    """
    wanted = _expected_shapes(table, template)
    found = _canonical(tensors, wanted)
    problems = [f"missing {name} {shape}" for name, shape in wanted.items() if name not in found]
    for name, array in found.items():
        expected = [wanted[name]] if name in wanted else [u.shape for u in table.unused if u.covers(name)]
        if not expected:
            problems.append(f"unknown {name} {array.shape}")
        elif expected[0] not in (None, array.shape):
            problems.append(f"{name} has shape {array.shape} where {expected[0]} is expected")
    _refuse(
        problems,
        f"{source}: the tensors do not fit the configuration: ",
        "Check that config.json belongs to these weights.",
    )
    names = [(rule, name) for rule in table.rules for name in rule.names()]
    used = {name: found[canonical_name(name)] for _, name in names}
    _refuse(
        [problem for rule, name in names if (problem := _impossible(name, used[name], rule))],
        f"{source}: ",
        "The file is damaged or was never trained: download or save it again.",
    )
    _refuse(
        [
            f"{entry.torch} is not what this configuration computes"
            for entry in table.unused
            if entry.value is not None
            and canonical_name(entry.torch) in found
            # Files in half precision hold three digits.
            and not np.allclose(found[canonical_name(entry.torch)], entry.value, rtol=1e-2, atol=1e-3)
        ],
        f"{source}: ",
        "The original uses it, ours computes its own. Check that config.json belongs to these weights.",
    )
    return used


def from_torch(
    tensors: Mapping[str, np.ndarray], table: Table, template: Tree, source: str = "the weights"
) -> Tree:
    """Our variables from a PyTorch state dict: nested dictionaries with the template's structure and types.

    Args and errors are those of `checked`.
    """
    return arranged(checked(tensors, table, template, source), table, template)


def arranged(used: Tensors, table: Table, template: Tree) -> Tree:
    """Our variables from tensors that are `checked`; those of some rules alone, if the table has no others.

    Beside the variables it holds one of them at a time, also where the tensors lie in a mapped file.
    """
    leaves = dict(flatten(template))
    tree: Tree = {}
    for rule in table.rules:
        arrays = [used[name] for name in rule.names()]
        array = np.asarray(rule.to_ours(arrays), leaves[rule.path].dtype, order="C")
        # Copied: a mapped file may be written to, or end, under a model that is in use.
        _put(tree, rule.path, jnp.array(array).block_until_ready())
        for mapped in arrays:
            _let_go(mapped)
    return tree


def to_torch(variables: Tree, table: Table) -> Tensors:
    """The tensors in use of our variables, float32, under their PyTorch names.

    Raises:
        UserError: names every variable that is lacking.
    """
    leaves = dict(flatten(variables))
    _refuse(
        [f"no {rule.path}" for rule in table.rules if rule.path not in leaves],
        "the variables do not fit the configuration: ",
        "Keep every collection of the model that they were taken from.",
    )
    tensors: Tensors = {}
    for rule in table.rules:
        # Views of our arrays, which whoever writes or hashes them copies one at a time.
        arrays = rule.to_torch(np.asarray(leaves[rule.path], np.float32))
        tensors.update(zip(rule.names(), arrays, strict=True))
    return tensors


def unused_of(tensors: Mapping[str, np.ndarray], table: Table) -> Tensors:
    """The tensors of a state dict that the table leaves unread; an export of the same model keeps them."""
    used = {canonical_name(name) for rule in table.rules for name in rule.names()}
    spelled = {canonical_name(name): np.asarray(array) for name, array in tensors.items()}
    found = {name: spelled[theirs] for name, theirs in _without_prefix(spelled, used).items()}
    return {
        u.torch: np.array(found[name]) for u in table.unused if (name := canonical_name(u.torch)) in found
    }


def complete(tensors: Tensors, table: Table, unused: Mapping[str, np.ndarray] | None = None) -> Tensors:
    """The whole state dict, which PyTorch loads with strict=True: `tensors` and the unread ones beside them.

    Args:
        tensors: the tensors in use, from `to_torch`.
        table: the model's table.
        unused: values of unread tensors to keep, from `unused_of`; the others are written as the table says.
    """
    whole = dict(tensors)
    for entry in table.unused:
        if entry.shape is None:
            continue
        value = (unused or {}).get(entry.torch, entry.value)
        whole[entry.torch] = (
            np.zeros(entry.shape, entry.dtype) if value is None else value.astype(entry.dtype)
        )
    return whole


def state_dict_shapes(table: Table, template: Tree) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict that `complete` gives, for a model of the template's shapes."""
    leaves = dict(flatten(template))
    shapes = {name: r.torch_shape(leaves[r.path].shape) for r in table.rules for name in r.names()}
    return shapes | {entry.torch: entry.shape for entry in table.unused if entry.shape is not None}


def params_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """A digest of the tensors in use: sorted PyTorch names, shapes and float32 bytes.

    The same weights give the same digest wherever they are kept: in a work directory, its exported folder, or
    here.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name], "<f4", order="C")
        digest.update(f"{name} {list(array.shape)}\n".encode())
        digest.update(array.ravel().data)
    return digest.hexdigest()


def canonical_name(name: str) -> str:
    """The one spelling of weight norm that we compare names in; torch renamed its two halves in 2.0."""
    name = name.replace(".parametrizations.weight.original0", ".weight_g")
    return name.replace(".parametrizations.weight.original1", ".weight_v")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested dictionaries with its path `a/b/c`."""
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else key
        if isinstance(value, Mapping):
            yield from flatten(value, path)
        else:
            yield path, value


def _canonical(tensors: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Tensors under canonical names; a folded weight becomes the pair that weight norm would keep of it."""
    spelled = {canonical_name(name): np.asarray(tensor) for name, tensor in tensors.items()}
    found = {name: spelled[theirs] for name, theirs in _without_prefix(spelled, wanted).items()}
    for name in wanted:
        folded = name.removesuffix("_v")
        if name.endswith(".weight_v") and name not in found and folded in found:
            weight = found.pop(folded).astype(np.float32)
            axes = tuple(range(1, weight.ndim))
            found[name] = weight
            found[f"{folded}_g"] = np.sqrt(np.sum(weight**2, axis=axes, keepdims=True))
    return found


def _impossible(name: str, array: np.ndarray, rule: Rule) -> str:
    """What no training can have left in a tensor in use; empty if there is no such thing."""
    if array.dtype.kind in "biu":
        return f"{name} holds {array.dtype}, not floating-point numbers"
    with np.errstate(over="ignore"):
        values = array.astype(np.float32) if array.dtype == np.float64 else array
    if not np.isfinite(values).all():
        return f"{name} holds NaN or infinity"
    leaf = rule.path.rpartition("/")[2]
    may_be_zero = rule.zero_because or leaf in _BEGIN_AT_ZERO or not array.ndim
    if array.size and not may_be_zero and not array.any():
        return f"{name} is all zeros"
    if leaf == "var" and (array < 0).any():
        return f"{name} holds a negative variance"
    return ""


def _refuse(problems: list[str], before: str, what_to_do: str) -> None:
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(f"{before}{'; '.join(problems[:_SHOWN])}{more}. {what_to_do}")


def _without_prefix(names: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """The names that a table knows, each with the name that the file gives it.

    Trainers put the attribute that holds the model before every name (`module.` of DistributedDataParallel,
    `model.` of Lightning); a model's inner module is saved without its own.
    """
    if any(name in wanted for name in names):
        return {name: name for name in names}
    for name in names:
        parts = name.split(".")
        for depth in (1, 2):
            prefix = ".".join(parts[:depth]) + "."
            if name.removeprefix(prefix) in wanted:
                return {n.removeprefix(prefix): n for n in names}
    lacking = "model." if any(f"model.{name}" in wanted for name in names) else ""
    return {lacking + name: name for name in names}


def _expected_shapes(table: Table, template: Tree) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in use, by canonical name; every leaf of the template must have one rule."""
    leaves = dict(flatten(template))
    paths = [rule.path for rule in table.rules]
    if sorted(paths) != sorted(leaves):
        odd = sorted(set(paths) ^ set(leaves)) or sorted({path for path in paths if paths.count(path) > 1})
        raise ValueError(f"the rule table and the model's variables differ: {odd}")
    wanted: dict[str, tuple[int, ...]] = {}
    for rule in table.rules:
        shape = rule.torch_shape(tuple(leaves[rule.path].shape))
        wanted.update((canonical_name(name), shape) for name in rule.names())
    return wanted


def _relayout(array: np.ndarray, source: str, target: str) -> np.ndarray:
    if source == target:
        return array
    letters = source.replace("1", "")
    array = array.reshape([size for axis, size in zip(source, array.shape, strict=True) if axis != "1"])
    array = array.transpose([letters.index(axis) for axis in target if axis != "1"])
    sizes = iter(array.shape)
    return array.reshape([1 if axis == "1" else next(sizes) for axis in target])


def _let_go(array: np.ndarray) -> None:
    """Gives back the memory of the mapped file that an array lies in; what is read again comes again."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # Windows has no such advice
        owner.madvise(mmap.MADV_DONTNEED)


def _put(tree: Tree, path: str, array: jax.Array) -> None:
    *parents, leaf = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = array
