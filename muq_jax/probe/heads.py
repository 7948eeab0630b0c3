"""Heads on frozen features: an MLP each for every layer, learning rate and seed, all trained at once.

MARBLE trains one head after the other. Here a head is a slice of arrays [layers, seeds, rates, ...], and a
step of all of them is one step of `vmap`: the rows of a batch are gathered once, and the matrix products are
large.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Kind = Literal["layer", "sum", "reduce"]
"""What a head sees: one layer; the layers' sum with learned weights; all side by side, reduced linearly."""
Objective = Literal["cross_entropy", "binary", "squared"]

Params = dict[str, jax.Array]

HIDDEN = 512
DROPOUT = 0.2
_ROWS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How heads are trained; the defaults are MARBLE v1's.

    Attributes:
        batch_size: rows; all rows where there are fewer.
        epochs: at most.
        plateau: epochs without a better validation score, after which the learning rate falls.
        factor: that it falls by.
        patience: epochs without a better one after which a head is done.
        rows_per_epoch: of tasks with more rows, as many are drawn anew for each epoch.
    """

    batch_size: int = 64
    epochs: int = 100
    plateau: int = 5
    factor: float = 0.5
    patience: int = 20
    rows_per_epoch: int = 1 << 62


class Heads(NamedTuple):
    """Trained heads, each at the epoch of its best validation score.

    Attributes:
        params: a leaf is [G, S, R, ...]: layers (1 for heads that see all), seeds, learning rates.
        validation: [G, S, R], the best score.
        loss: [G, S, R], the validation loss at that epoch: of equal scores, the lower is better.
        epochs: how many were trained.
    """

    params: Params
    validation: np.ndarray
    loss: np.ndarray
    epochs: int


def train_heads(
    kind: Kind,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    validate: Callable[[np.ndarray], np.ndarray],
    *,
    objective: Objective,
    num_outputs: int,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    schedule: Schedule,
) -> Heads:
    """Trains a head for every layer (kind "layer"), seed and learning rate.

    Args:
        kind: what a head sees.
        train: inputs [L, N, D], and targets: int [N] (cross_entropy) or float [N, C].
        val: likewise.
        validate: scores, higher is better, [H] of outputs [H, N_val, C].
        objective: the loss.
        num_outputs: C.
        learning_rates: of Adam.
        seeds: of initialisation, order of rows and dropout.
        schedule: when to stop.
    """
    inputs, targets = jnp.asarray(train[0]), jnp.asarray(train[1])
    val_inputs, val_targets = jnp.asarray(val[0]), jnp.asarray(val[1])
    num_layers, num_rows, width = inputs.shape
    groups = num_layers if kind == "layer" else 1
    shape = (groups, len(seeds), len(learning_rates))
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    params = _init(kind, num_layers, width, num_outputs, groups, len(learning_rates), seeds)
    moments = (jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))
    batch_size = min(schedule.batch_size, num_rows)
    num_steps = max(1, min(num_rows, schedule.rows_per_epoch) // batch_size)

    best, best_score, best_loss = params, np.full(shape, -np.inf), np.full(shape, np.inf)
    since_best, since_drop = np.zeros(shape, int), np.zeros(shape, int)
    rates = np.broadcast_to(np.asarray(learning_rates, np.float32), shape).copy()
    epoch = 0
    while epoch < schedule.epochs and (since_best < schedule.patience).any():
        order = random_order(keys, epoch, num_rows)[:, : num_steps * batch_size]
        batches = order.reshape(len(seeds), num_steps, batch_size).swapaxes(0, 1)
        params, moments = _epoch(
            params, moments, jnp.asarray(rates), inputs, targets, batches, keys, epoch, kind, objective
        )
        outputs, loss = predict(kind, params, val_inputs, val_targets, objective)
        score = validate(outputs.reshape(-1, *outputs.shape[3:])).reshape(shape)
        # A head that is done stays as it is, so that what it gives does not hang on those beside it.
        alive = since_best < schedule.patience
        better = alive & ((score > best_score) | ((score == best_score) & (loss < best_loss)))
        best = _where(jnp.asarray(better), params, best)
        improved = alive & (score > best_score)
        best_score, best_loss = np.where(better, score, best_score), np.where(better, loss, best_loss)
        since_best = np.where(improved, 0, since_best + 1)
        since_drop = np.where(improved, 0, since_drop + 1)
        drops = since_drop > schedule.plateau
        rates, since_drop = np.where(drops, rates * schedule.factor, rates), np.where(drops, 0, since_drop)
        epoch += 1
    return Heads(best, best_score, best_loss, epoch)


def predict(
    kind: Kind, params: Params, inputs: Any, targets: Any = None, objective: Objective | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the heads' outputs [G, S, R, N, C] for rows [L, N, D], and, given targets, their loss [G, S,
    R]."""
    num_rows = inputs.shape[1]
    # Few different sizes, since every one is compiled anew.
    chunk = min(_ROWS_AT_ONCE, 1 << max(0, num_rows - 1).bit_length())
    outputs = []
    for start in range(0, num_rows, chunk):
        rows = inputs[:, start : start + chunk]
        short = chunk - rows.shape[1]  # the last rows keep the compiled shape
        if short:
            rows = jnp.pad(jnp.asarray(rows), ((0, 0), (0, short), (0, 0)))
        found = np.asarray(_outputs(kind, params, rows))
        outputs.append(found[..., : found.shape[-2] - short, :])
    whole = np.concatenate(outputs, axis=-2)
    if objective is None:
        return whole, np.zeros(whole.shape[:3])
    return whole, np.asarray(_loss_of(whole, jnp.asarray(targets), objective))


def pick(params: Params, layer: int, rate: int) -> Params:
    """Returns the heads of one layer and learning rate, as [1, S, 1, ...]."""
    return {name: leaf[layer : layer + 1, :, rate : rate + 1] for name, leaf in params.items()}


def init_head(kind: Kind, num_layers: int, width: int, num_outputs: int, key: jax.Array) -> Params:
    """Returns the parameters of one head, uniform within 1 / sqrt(inputs), as PyTorch's Linear."""

    def linear(key: jax.Array, rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
        weights, bias = jax.random.split(key)
        bound = rows**-0.5
        return (
            jax.random.uniform(weights, (rows, columns), minval=-bound, maxval=bound),
            jax.random.uniform(bias, (columns,), minval=-bound, maxval=bound),
        )

    a, b, c = jax.random.split(key, 3)
    params: Params = {}
    if kind == "sum":
        params["mix"] = jnp.zeros(max(1, num_layers - 1))
    if kind == "reduce":
        params["reduce"], params["reduce_bias"] = linear(c, num_layers * width, width)
    params["hidden"], params["hidden_bias"] = linear(a, width, HIDDEN)
    params["out"], params["out_bias"] = linear(b, HIDDEN, num_outputs)
    return params


def _init(
    kind: Kind,
    num_layers: int,
    width: int,
    num_outputs: int,
    groups: int,
    num_rates: int,
    seeds: Sequence[int],
) -> Params:
    """All heads of a seed begin alike."""
    # Not in one jit: that would be compiled anew for every sweep, and takes longer than all the rest of it.
    of_seeds = [init_head(kind, num_layers, width, num_outputs, jax.random.key(seed)) for seed in seeds]

    def stacked(*leaves: jax.Array) -> jax.Array:
        whole = jnp.stack(leaves)[None, :, None]
        return jnp.broadcast_to(whole, (groups, len(leaves), num_rates, *leaves[0].shape))

    return jax.tree.map(stacked, *of_seeds)


def _seen(kind: Kind, rows: jax.Array) -> jax.Array:
    """What heads see of rows [L, ..., D], a layer a group: [G, ..., D], or all layers for the only group.

    The encoder's input, layer 0, is not in the sum, as in MARBLE, unless it is all there is.
    """
    if kind == "layer":
        return rows
    return (rows[1:] if kind == "sum" and len(rows) > 1 else rows)[None]


def forward(kind: Kind, params: Params, seen: jax.Array, key: jax.Array | None) -> jax.Array:
    """Returns outputs [B, C] of one head.

    Args:
        kind: what it sees.
        params: of `init_head`.
        seen: [B, D] of its layer, or [L, B, D]; of kind "sum" without the encoder's input.
        key: for dropout; None is without.
    """
    x = seen.astype(jnp.float32)
    if kind == "sum":
        x = jnp.tensordot(jax.nn.softmax(params["mix"]), x, axes=1)
    if kind == "reduce":
        x = jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1) @ params["reduce"] + params["reduce_bias"]
    hidden = jax.nn.relu(x @ params["hidden"] + params["hidden_bias"])
    if key is not None:
        kept = jax.random.bernoulli(key, 1 - DROPOUT, hidden.shape)
        hidden = jnp.where(kept, hidden / (1 - DROPOUT), 0)
    return hidden @ params["out"] + params["out_bias"]


@functools.partial(jax.jit, static_argnums=(0,))
def _outputs(kind: Kind, params: Params, rows: jax.Array) -> jax.Array:
    one = functools.partial(forward, kind, key=None)
    by_rate = jax.vmap(lambda p, x: one(p, x), (0, None))
    by_seed = jax.vmap(by_rate, (0, None))
    return jax.vmap(by_seed)(params, _seen(kind, rows))


def random_order(keys: jax.Array, epoch: int, num_rows: int) -> np.ndarray:
    """Returns int32 [S, N], an order of the rows for each seed's key and this epoch.

    It is that of `jax.random.permutation`, sorted on the host: of 100,000 rows, XLA's sort takes longer on a
    CPU than the rest of an epoch.
    """
    # Rows with equal bits would keep their order; further rounds, of new bits, mend that.
    num_rounds = math.ceil(3 * math.log(num_rows) / math.log(2**32 - 1))
    places = np.arange(num_rows, dtype=np.uint64)
    orders = np.tile(np.arange(num_rows, dtype=np.int32), (len(keys), 1))
    for drawn in np.asarray(_random_bits(keys, epoch, num_rows, num_rounds)):
        ranked = np.sort(drawn.astype(np.uint64) << 32 | places, axis=1) & 0xFFFFFFFF
        orders = np.take_along_axis(orders, ranked.astype(np.int64), axis=1)
    return orders


@functools.partial(jax.jit, static_argnums=(2, 3))
def _random_bits(keys: jax.Array, epoch: jax.Array, num_rows: int, num_rounds: int) -> jax.Array:
    """uint32 [rounds, S, N]."""

    def of_seed(key: jax.Array) -> jax.Array:
        key, rounds = jax.random.fold_in(key, epoch), []
        for _ in range(num_rounds):
            key, now = jax.random.split(key)
            rounds.append(jax.random.bits(now, (num_rows,), jnp.uint32))
        return jnp.stack(rounds) if rounds else jnp.zeros((0, num_rows), jnp.uint32)

    return jax.vmap(of_seed, out_axes=1)(keys)


@functools.partial(jax.jit, static_argnums=(8, 9), donate_argnums=(1,))
def _epoch(
    params: Params,
    moments: Any,
    rates: jax.Array,
    inputs: jax.Array,
    targets: jax.Array,
    batches: jax.Array,
    keys: jax.Array,
    epoch: jax.Array,
    kind: Kind,
    objective: Objective,
) -> tuple[Params, Any]:
    """One pass over the rows, in batches [steps, S, B] of each seed's own order."""
    num_steps = len(batches)
    adam = optax.scale_by_adam()

    def loss(p: Params, seen: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
        return row_losses(objective, forward(kind, p, seen, key), target).mean()

    by_rate = jax.vmap(jax.grad(loss), (0, None, None, None))
    by_seed = jax.vmap(by_rate, (0, 0, 0, 0))
    gradients = jax.vmap(by_seed, (0, 0, None, None))
    epoch_keys = jax.vmap(lambda key: jax.random.fold_in(key, epoch))(keys)

    def step(carry: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        params, mu, nu = carry
        number, rows = batch  # rows [S, B]
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(epoch_keys)
        seen = jnp.moveaxis(_seen(kind, inputs[:, rows]), -3, 1)  # [G, S, (L,) B, D]
        grads = gradients(params, seen, targets[rows], step_keys)
        count = jnp.asarray(epoch * num_steps + number, jnp.int32)
        updates, after = adam.update(grads, optax.ScaleByAdamState(count, mu, nu))
        assert isinstance(after, optax.ScaleByAdamState)
        new = jax.tree.map(
            lambda p, u: p - rates.reshape(*rates.shape, *[1] * (p.ndim - 3)) * u, params, updates
        )
        return (new, after.mu, after.nu), None

    (params, *moments), _ = jax.lax.scan(step, (params, *moments), (jnp.arange(num_steps), batches))
    return params, tuple(moments)


def row_losses(objective: Objective, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the loss [...] of every row's outputs [..., C]."""
    if objective == "cross_entropy":
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    if objective == "binary":
        return optax.sigmoid_binary_cross_entropy(outputs, targets).mean(axis=-1)
    return jnp.square(outputs - targets).mean(axis=-1)


@functools.partial(jax.jit, static_argnums=(2,))
def _loss_of(outputs: jax.Array, targets: jax.Array, objective: Objective) -> jax.Array:
    """[G, S, R] of outputs [G, S, R, N, C]."""

    def one(found: jax.Array) -> jax.Array:
        return row_losses(objective, found, targets).mean()

    return jax.vmap(jax.vmap(jax.vmap(one)))(outputs)


@jax.jit
def _where(better: jax.Array, new: Params, old: Params) -> Params:
    return jax.tree.map(
        lambda n, o: jnp.where(better.reshape(*better.shape, *[1] * (n.ndim - 3)), n, o), new, old
    )
