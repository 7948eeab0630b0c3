"""The optimizer and the learning rate's schedule."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from muq_jax.errors import UserError

SCHEDULES = ("warmup_linear", "constant")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Adam with decoupled weight decay; the defaults are the paper's recipe for MuQ.

    Attributes:
        peak_lr: the highest learning rate.
        schedule: "warmup_linear" (up to the peak, then in a straight line to 0) or "constant".
        warmup_steps: updates until the peak is reached; 0 starts there.
        total_steps: updates after which "warmup_linear" is 0.
        beta1, beta2, eps: Adam's.
        weight_decay: decoupled; each update also takes `learning rate * weight_decay` of the parameter away.
            As upstream's optimizer has one parameter group, biases and norm scales decay too.
        clip_norm: gradients are scaled down to this global norm; None or inf leaves them.
        frozen: paths of the parameters' groups (of a MuQ: "subsample", "conformer", "head"; of a MuQ-MuLan
            also "audio/muq/subsample") that stay as they are. Their gradients are neither computed nor part
            of any norm.
        lr_factors: (path, factor): what lies at or below a path learns at so many times the rate; of several
            that fit, the first counts. Of a group of stacked layers [L, ...] the factor may be one a layer.
    """

    peak_lr: float = 5e-4
    schedule: str = "warmup_linear"
    warmup_steps: int = 32_000
    total_steps: int = 400_000
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float | None = 10.0
    frozen: tuple[str, ...] = ()
    lr_factors: tuple[tuple[str, float | tuple[float, ...]], ...] = ()

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UserError(f"optim.schedule={self.schedule!r} is not one of {', '.join(SCHEDULES)}.")
        if self.schedule == "warmup_linear" and self.total_steps <= self.warmup_steps:
            raise UserError(
                f"optim.warmup_steps={self.warmup_steps} leaves none of the {self.total_steps} steps to "
                "train in: make it smaller or train.num_steps larger."
            )


def learning_rate(config: OptimConfig, count: Any, xp: Any = jnp) -> Any:
    """Returns the learning rate of the update after `count` updates.

    Update `warmup_steps` (counting from 1) has the peak and the first one already learns, as in fairseq's
    polynomial decay of power 1.

    Args:
        count: updates done so far; a number or an array.
        xp: the array module, `numpy` where the caller is not inside a jitted function.
    """
    if config.schedule == "constant":
        return config.peak_lr + 0.0 * count
    rising = (count + 1) / max(config.warmup_steps, 1)
    falling = (config.total_steps - count) / (config.total_steps - config.warmup_steps)
    return config.peak_lr * xp.clip(xp.minimum(rising, falling), 0.0, 1.0)


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """Returns the optax chain of what is not frozen: clip, Adam, decoupled decay, learning rate."""
    stages = []
    if config.clip_norm is not None:
        stages.append(optax.clip_by_global_norm(config.clip_norm))
    stages.append(optax.scale_by_adam(config.beta1, config.beta2, config.eps))
    if config.weight_decay:
        stages.append(optax.add_decayed_weights(config.weight_decay))
    if config.lr_factors:
        stages.append(optax.stateless(partial(_times_factors, factors=config.lr_factors)))
    stages.append(optax.scale_by_learning_rate(lambda count: learning_rate(config, count)))
    if not config.frozen:
        return optax.chain(*stages)
    return optax.masked(optax.chain(*stages), lambda params: _is_trained(params, config.frozen))


def without_gradient(params: Mapping[str, Any], frozen: tuple[str, ...]) -> dict[str, Any]:
    """Returns the parameters with the groups named in `frozen` constant to `jax.grad`, which gives them 0.

    Raises:
        UserError: there is no group of a name.
    """
    if not frozen:
        return dict(params)
    trained = _is_trained(params, frozen)
    # The tree of what is trained is a prefix of that of the parameters: a group may be named whole.
    return jax.tree.map(
        lambda keep, group: group if keep else jax.lax.stop_gradient(group), trained, dict(params)
    )


def _is_trained(params: Mapping[str, Any], frozen: Sequence[str], where: str = "") -> dict[str, Any]:
    """Returns whether each group is trained, in nested dicts that go as deep as the paths of `frozen`."""
    below: dict[str, list[str]] = {}
    for path in frozen:
        name, _, rest = path.partition("/")
        if name not in params or (rest and not isinstance(params[name], Mapping)):
            there = ", ".join(f"{where}{group}" for group in sorted(params))
            raise UserError(f"optim.frozen names {where + path!r}; there are {there}.")
        below.setdefault(name, []).append(rest)
    return {
        name: name not in below
        or ("" not in below[name] and _is_trained(group, below[name], f"{where}{name}/"))
        for name, group in params.items()
    }


def _times_factors(
    updates: Any, params: Any, *, factors: Sequence[tuple[str, float | tuple[float, ...]]]
) -> Any:
    """Returns the updates, each times the factor of the first path that it lies at or below."""

    def times(path: jax.tree_util.KeyPath, update: jax.Array) -> jax.Array:
        name = f"{jax.tree_util.keystr(path, simple=True, separator='/')}/"
        factor = next((factor for place, factor in factors if name.startswith(f"{place}/")), 1.0)
        if not isinstance(factor, tuple):
            return update * factor
        return update * jnp.reshape(jnp.array(factor), (-1, *[1] * (update.ndim - 1)))

    return jax.tree_util.tree_map_with_path(times, updates)
