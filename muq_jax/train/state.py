"""The training state: arrays only, created where they are to live."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from muq_jax import parallel
from muq_jax.objectives.objective import Objective

# What is small, and whole on every device; a frozen teacher is as large as what it teaches, and cut like it.
# With the frozen quantizer cut along its inputs, the TPU's compiler cuts the mel that it multiplies in the
# same way; with the depthwise kernel cut by channels it convolves by channels. It moves whole batches for
# both: 10 GB a step of `large`.
RULES = (
    (r"^model_state/(?!.*teacher)", PartitionSpec()),
    (r"/depthwise/kernel$", PartitionSpec()),
)


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes; no functions, whose presence would make two builds differ as pytrees.

    Attributes:
        step: int32 scalar, steps taken, skipped ones included.
        params: what the optimizer trains.
        opt_state: the optimizer's.
        model_state: collections that are not trained by gradient (running statistics, code counts, a frozen
            quantizer).
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    model_state: Any

    def to_items(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps by item; the step is the checkpoint's own number."""
        return {"params": self.params, "opt": self.opt_state, "model_state": self.model_state}

    @classmethod
    def from_items(cls, step: int, items: Mapping[str, Any], abstract: "TrainState") -> "TrainState":
        """Returns the state that `to_items` gave at `step`, placed as in `abstract`."""
        placed = jax.device_put(np.int32(step), abstract.step.sharding)
        return cls(placed, items["params"], items["opt"], items["model_state"])


def _make_init(
    objective: Objective, optimizer: optax.GradientTransformation
) -> Callable[[jax.Array], TrainState]:
    def init(key: jax.Array) -> TrainState:
        params, model_state = objective.init(key)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), model_state)

    return init


def abstract_state(objective: Objective, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns the state's shapes, dtypes and shardings on `mesh`; nothing is computed."""
    init = _make_init(objective, optimizer)
    # The key is made inside: under a mesh that can only be compiled for, nothing can be computed.
    abstract = jax.eval_shape(lambda: init(jax.random.key(0)))
    return parallel.with_shardings(abstract, parallel.state_shardings(abstract, mesh, rules=RULES))


def init_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    key: jax.Array,
    given: Mapping[str, Any] | None = None,
) -> TrainState:
    """Returns the state at step 0. Arrays are created sharded: no device ever holds a large one whole.

    Args:
        objective, optimizer, mesh, key: what is trained, where, and what it is drawn from.
        given: by path, what is not drawn but has these values: collections of the model state, such as
            "teacher", or parts of them or of the parameters, such as "params/audio/muq".

    Raises:
        ValueError: it is of another make than what would be drawn there.
    """
    shardings = jax.tree.map(lambda a: a.sharding, abstract_state(objective, optimizer, mesh))
    state = jax.jit(_make_init(objective, optimizer), out_shardings=shardings)(key)
    # Placed afterwards: inside of the jitted function a teacher would be a constant of the program.
    trees = {**state.model_state, "params": state.params}
    places = {**shardings.model_state, "params": shardings.params}
    for path, tree in (given or {}).items():
        names = path.split("/")
        placed = parallel.place(tree, reduce(getitem, names, places))
        trees = _replaced(trees, names, placed)
    params = trees.pop("params")
    return state.replace(params=params, model_state=trees)


def _replaced(tree: Mapping[str, Any], names: Sequence[str], part: Any) -> dict[str, Any]:
    name, *rest = names
    return {**tree, name: _replaced(tree[name], rest, part) if rest else part}
