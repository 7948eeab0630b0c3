"""The optimizer and the learning rate's schedule."""

import dataclasses
from collections.abc import Mapping
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
        frozen: names of the parameters' groups (of a MuQ: "subsample", "conformer", "head") that stay as
            they were initialised. Their gradients are neither computed nor part of any norm.
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
    stages.append(optax.scale_by_learning_rate(lambda count: learning_rate(config, count)))
    if not config.frozen:
        return optax.chain(*stages)
    return optax.masked(optax.chain(*stages), lambda params: _is_trained(params, config.frozen))


def without_gradient(params: Mapping[str, Any], frozen: tuple[str, ...]) -> dict[str, Any]:
    """Returns the parameters with the groups named in `frozen` constant to `jax.grad`, which gives them 0.

    Raises:
        UserError: there is no group of a name.
    """
    trained = _is_trained(params, frozen)
    return {name: group if trained[name] else jax.lax.stop_gradient(group) for name, group in params.items()}


def _is_trained(params: Mapping[str, Any], frozen: tuple[str, ...]) -> dict[str, bool]:
    for name in frozen:
        if name not in params:
            raise UserError(f"optim.frozen names {name!r}; there are {', '.join(sorted(params))}.")
    return {name: name not in frozen for name in params}
