"""Fine-tuning: a head on the weighted sum of all layers, and the encoder under it, trained together.

The head is that of `heads.py`, kind "sum". The encoder learns by a rate of its own, warmed up; its BatchNorm
keeps the statistics of pretraining, which small batches would spoil, and there is no dropout in it.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.audio.framing import MIN_SAMPLES
from muq_jax.errors import UserError
from muq_jax.probe import heads
from muq_jax.probe.cache import MemoryStore
from muq_jax.probe.encoders import MuQEncoder
from muq_jax.probe.extract import Cut, Features, features_of, load_wave, windows
from muq_jax.probe.problems import Outcome, Problem, make_problem
from muq_jax.probe.task import FRAME_KINDS, Dataset, Task

_WORKERS = 2  # threads that decode


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """How an encoder is trained further.

    Attributes:
        encoder_lr, head_lr: Adam's two learning rates, reached after the first epoch.
        batch_size: windows; an epoch takes one window of every training clip, drawn anew.
        epochs: at most.
        patience: epochs without a better validation score after which it ends.
    """

    encoder_lr: float = 1e-4
    head_lr: float = 1e-3
    batch_size: int = 8
    epochs: int = 20
    patience: int = 5


class FineTuned(NamedTuple):
    """What one seed's training came to: its score on validation, and what it is worth on test."""

    validation: float
    outcome: Outcome


class _Weights(NamedTuple):
    """What is trained."""

    encoder: Any
    head: heads.Params


def finetune(
    task: Task, dataset: Dataset, encoder: MuQEncoder, cut: Cut, settings: FineTuning, seeds: Sequence[int]
) -> tuple[list[FineTuned], Problem, Features]:
    """Trains an encoder and a head on a task, once a seed.

    Args:
        task, dataset: what is learned.
        encoder: a MuQ or MusicFM; its own weights stay as they are.
        cut: how clips become windows.
        settings: how it is trained.
        seeds: of the head's initialisation, dropout, windows and their order.

    Returns:
        (what each seed came to, the problem, the items)

    Raises:
        UserError: a loss that is not finite, or no clip can be heard.
    """
    frames = task.kind in FRAME_KINDS
    # How many windows and frames there are, and which labels they have, does not hang on the weights.
    features = features_of(dataset.items, _Silent(encoder), cut, None, frames=frames)
    problem = make_problem(task.kind, task.metrics, dataset.classes, features)
    training = _Training(task, dataset, encoder, cut, settings, features, problem)
    try:
        return [training.run(seed) for seed in seeds], problem, features
    except ValueError as error:  # of a metric that these labels do not allow
        raise UserError(f"{task.name}: {error}") from None


class _Training:
    """One task's training; `run` is one seed's."""

    def __init__(
        self,
        task: Task,
        dataset: Dataset,
        encoder: MuQEncoder,
        cut: Cut,
        settings: FineTuning,
        features: Features,
        problem: Problem,
    ) -> None:
        self._task, self._classes, self._encoder, self._cut = task, dataset.classes, encoder, cut
        self._settings, self._features, self._problem = settings, features, problem
        self._frames = task.kind in FRAME_KINDS
        self._items = [item for item in features.items if item.split == "train"]
        self._network = _Network(encoder, self._frames)
        self._num_steps = max(1, len(self._items) // settings.batch_size)

        def rate(peak: float) -> optax.Schedule:
            return optax.linear_schedule(peak / self._num_steps, peak, self._num_steps)

        self._optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.multi_transform(
                {
                    "encoder": optax.adam(rate(settings.encoder_lr)),
                    "head": optax.adam(rate(settings.head_lr)),
                },
                _Weights("encoder", "head"),  # type: ignore[arg-type]
            ),
        )
        self._step = jax.jit(self._one_step)

    def run(self, seed: int) -> FineTuned:
        config, key = self._encoder.muq.config.conformer, jax.random.key(seed)
        head = heads.init_head("sum", config.num_layers + 1, config.width, self._problem.num_outputs, key)
        weights = _Weights(self._encoder.muq.params, head)
        optimizer_state = self._optimizer.init(weights)  # type: ignore[arg-type]
        best, best_score, since = weights, -np.inf, 0
        for epoch in range(self._settings.epochs):
            epoch_key = jax.random.fold_in(key, epoch)
            batches = self._batches(np.random.default_rng([seed, epoch]))
            name = f"fine-tuning {self._encoder.name}, epoch {epoch + 1}"
            for number, batch in enumerate(tqdm(batches, name, self._num_steps, leave=False, disable=None)):
                step_key = jax.random.fold_in(epoch_key, number)
                weights, optimizer_state, loss = self._step(weights, optimizer_state, *batch, step_key)
                if not np.isfinite(float(loss)):
                    raise UserError(
                        f"fine-tuning {self._encoder.name} on {self._task.name}: the loss is {float(loss)} "
                        f"in epoch {epoch + 1}; give a smaller --learning_rates"
                    )
            problem = self._with_outputs(weights, "val")
            score = float(problem.validate(problem.rows("val").inputs)[0])
            if score > best_score:
                best, best_score, since = weights, score, 0
            else:
                since += 1
            if since == self._settings.patience:
                break
        problem = self._with_outputs(best, "test")
        return FineTuned(best_score, problem.test(problem.rows("test").inputs[0]))

    def _one_step(
        self, weights: _Weights, state: Any, waves: Any, lengths: Any, targets: Any, counts: Any, key: Any
    ) -> Any:
        def loss(weights: _Weights) -> jax.Array:
            outputs, _ = self._network.outputs(weights, waves, lengths, key)
            each = heads.row_losses(self._problem.objective, outputs, targets)
            return (each * counts).sum() / jnp.maximum(counts.sum(), 1)

        value, gradients = jax.value_and_grad(loss)(weights)
        updates, state = self._optimizer.update(gradients, state, weights)  # type: ignore[arg-type]
        return optax.apply_updates(weights, updates), state, value  # type: ignore[arg-type]

    def _with_outputs(self, weights: _Weights, split: str) -> Problem:
        """The problem with the head's outputs in place of the features of a split."""
        self._network.weights = weights
        items = [item for item in self._features.items if item.split == split]
        heard = features_of(items, self._network, self._cut, None, frames=self._frames)
        store = MemoryStore()
        for part in (self._features, heard):
            store.add(part.frame_keys, part.pooled)
            if self._frames:
                for i, key in enumerate(part.frame_keys):
                    store.add_frames(key, part.frames(i))
        pooled = [store.pooled(key) for key in self._features.frame_keys]
        whole = dataclasses.replace(self._features, pooled=pooled, source=store)
        return make_problem(self._task.kind, self._task.metrics, self._classes, whole)

    def _batches(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, ...]]:
        """Batches (waves, lengths, targets, whether they count); the next one is decoded meanwhile."""
        size = min(self._settings.batch_size, len(self._items))
        order = rng.permutation(len(self._items))[: self._num_steps * size].reshape(self._num_steps, size)
        draws = rng.random(order.shape)
        with ThreadPoolExecutor(_WORKERS) as pool:

            def submit(number: int) -> list[Any]:
                pairs = zip(order[number], draws[number], strict=True)
                return [pool.submit(self._row, int(i), float(u)) for i, u in pairs]

            waiting = submit(0)
            for number in range(self._num_steps):
                rows, waiting = waiting, submit(number + 1) if number + 1 < self._num_steps else []
                waves, lengths, targets, counts = zip(*(row.result() for row in rows), strict=True)
                yield np.stack(waves), np.array(lengths, np.int32), np.stack(targets), np.stack(counts)

    def _row(self, index: int, draw: float) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """A window of a clip, padded, with its targets [T, ...] and which of them count, [T]."""
        cuts = windows(load_wave(self._items[index]), self._cut)
        number = int(draw * len(cuts))
        size = round(self._cut.window_seconds * SAMPLE_RATE_HZ)
        wave = np.zeros(max(size, MIN_SAMPLES), np.float32)
        wave[: len(cuts[number])] = cuts[number]
        length = max(len(cuts[number]), MIN_SAMPLES)
        labels = self._problem.item_targets("train", index)
        if not self._frames:
            return wave, length, labels[None], np.ones(1, np.float32)
        num_tokens = self._encoder.muq.num_tokens
        total, first = num_tokens(len(wave)), number * num_tokens(size)
        here = labels[first : first + num_tokens(length)]
        targets = np.zeros((total, *labels.shape[1:]), labels.dtype)
        targets[: len(here)] = here
        counts = np.zeros(total, np.float32)
        # Of classes, those that are ignored are negative.
        counts[: len(here)] = here >= 0 if here.ndim == 1 else 1
        return wave, length, np.maximum(targets, 0), counts


class _Network:
    """Encoder and head, as an encoder whose only layer is the head's outputs."""

    standardise, pools_frames = False, True

    def __init__(self, base: MuQEncoder, frames: bool) -> None:
        self.name, self.digest, self.batch_size = base.name, base.digest, base.batch_size
        self.frame_rate_hz: float | None = base.frame_rate_hz
        self._muq, self._frames = base.muq, frames
        self.weights: _Weights | None = None
        self._jitted = jax.jit(self.outputs)

    def outputs(
        self, weights: _Weights, waves: jax.Array, num_samples: jax.Array, key: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        """Outputs [B, T, C], of clips [B, 1, C], and the number of valid frames, [B]."""
        variables = {**self._muq.variables, "params": weights.encoder}
        out = self._muq.apply(variables, waves, num_samples)
        states, num_valid = out.hidden_states.astype(jnp.float32), out.num_valid  # [L + 1, B, T, D]
        if not self._frames:  # the states are zero at padded tokens
            states = states.sum(axis=2, keepdims=True) / num_valid[:, None, None]
            num_valid = jnp.ones_like(num_valid)
        rows = states[1:].reshape(len(states) - 1, -1, states.shape[-1])
        return heads.forward("sum", weights.head, rows, key).reshape(*states.shape[1:3], -1), num_valid

    def pooled(self, waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        return np.asarray(self._jitted(self.weights, waves, num_samples)[0])[:, :1]

    def frames(self, waves: np.ndarray, num_samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs, num_valid = self._jitted(self.weights, waves, num_samples)
        return np.asarray(outputs)[:, None], np.asarray(num_valid)


class _Silent:
    """As many zeros as the encoder would give vectors."""

    standardise, pools_frames = False, True

    def __init__(self, base: MuQEncoder) -> None:
        self.name, self.digest, self.batch_size = base.name, base.digest, 1
        self.frame_rate_hz: float | None = base.frame_rate_hz
        self._num_tokens = base.muq.num_tokens

    def pooled(self, waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        return np.zeros((len(waves), 1, 1), np.float32)

    def frames(self, waves: np.ndarray, num_samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        num_valid = np.array([self._num_tokens(int(n)) for n in num_samples], np.int32)
        return np.zeros((len(waves), 1, int(num_valid.max()), 1), np.float32), num_valid
