"""From a problem to trained heads: which are tried, which one the validation split chooses, what it is
worth."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from muq_jax.errors import UserError
from muq_jax.probe import heads, ridge
from muq_jax.probe.heads import Heads, Schedule
from muq_jax.probe.metrics import METRICS
from muq_jax.probe.problems import FAILED, ClipProblem, Outcome, Problem, Rows
from muq_jax.probe.task import V2, Task

PROTOCOLS = ("auto", "v1", "v2", "ridge")
V1_LEARNING_RATES = (1e-3, 5e-3, 5e-4, 1e-2, 1e-4, 5e-5)
ALL_LAYERS: Literal["all"] = "all"

Layer = int | Literal["all"]

# Frames are many and alike: MARBLE's batches of 64 clips hold as many of them, and an epoch of all is
# minutes.
_FRAME_BATCH, _FRAMES_PER_EPOCH = 512, 8192
_BYTES_AT_ONCE = 4 << 30  # of the training rows of the layers that are learned together
_CLIPS_AT_ONCE = 256  # of the test split, whose frames may be more than memory holds
_ROWS_MEASURED = 20_000  # evenly spread; of more frames, mean and deviation are the same


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How heads are trained and chosen.

    Attributes:
        name: "v1", MARBLE's first: an MLP for every layer, and one for their weighted sum, at six learning
            rates; "v2", its second: one MLP on all layers side by side, or on one, as the task says; "ridge":
            a linear classifier in closed form for every layer; "auto": v1 where MARBLE has the task in it,
            else v2.
        seeds: of initialisation and order; the first one sweeps, all give the score.
        learning_rates, layers: of the sweep, in place of the protocol's own; None keeps those.
        shots: train on so many clips of every class, drawn anew for each seed; None takes all.
    """

    name: str = "auto"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    learning_rates: tuple[float, ...] | None = None
    layers: tuple[Layer, ...] | None = None
    shots: int | None = None

    def of(self, task: Task) -> "Protocol":
        """The protocol by which a task is run: "auto" is decided."""
        if self.name != "auto":
            return self
        return dataclasses.replace(self, name="v2" if task.v1 is None else "v1")

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise UserError(f"no protocol {self.name!r}; expected one of {', '.join(PROTOCOLS)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds are {list(self.seeds)}; expected at least one, each once")
        if self.learning_rates is not None and not all(0 < rate < 10 for rate in self.learning_rates):
            raise UserError(f"learning rates are {list(self.learning_rates)}; expected numbers above 0")
        for layer in self.layers or ():
            if layer != ALL_LAYERS and (isinstance(layer, bool) or not isinstance(layer, int) or layer < 0):
                raise UserError(f"layers hold {layer!r}; expected numbers from 0 on, and all")
        if self.layers is not None and not self.layers:
            raise UserError("layers are none; expected numbers from 0 on, and all")
        if self.shots is not None and self.shots < 1:
            raise UserError(f"shots is {self.shots}; expected at least 1 clip of every class")


class Candidate(NamedTuple):
    """A head of the sweep."""

    layer: Layer
    learning_rate: float | None
    validation: float
    loss: float


class Learned(NamedTuple):
    """What a sweep came to.

    Attributes:
        chosen: the candidate that the validation split prefers: the best score, of equal ones the lower loss.
        candidates: all.
        outcomes: on the test split, one a seed.
        num_train: items trained on.
    """

    chosen: Candidate
    candidates: list[Candidate]
    outcomes: list[Outcome]
    num_train: int


def learn(problem: Problem, task: Task, protocol: Protocol, standardise: bool) -> Learned:
    """Trains the protocol's heads on a problem and scores the chosen one.

    Args:
        problem: features and labels.
        task: its settings.
        protocol: how.
        standardise: features get mean 0 and deviation 1 over the training rows.

    Raises:
        UserError: the task has no such protocol.
    """
    reason = why_not(task, protocol)
    if reason is not None:
        raise UserError(reason)
    try:
        return _learn(problem, task, protocol, standardise)
    except ValueError as error:  # of a metric that these labels do not allow
        raise UserError(f"{task.name}: {error}") from None


def _learn(problem: Problem, task: Task, protocol: Protocol, standardise: bool) -> Learned:
    if isinstance(problem, ClipProblem) and protocol.name == "ridge":
        return _learn_ridge(problem, task, protocol)
    settings = task.v1 if protocol.name == "v1" else task.v2
    assert settings is not None
    schedule = Schedule(epochs=settings.epochs, plateau=settings.plateau, patience=settings.patience)
    if task.kind in ("frames", "beats"):
        schedule = dataclasses.replace(schedule, batch_size=_FRAME_BATCH, rows_per_epoch=_FRAMES_PER_EPOCH)
    elif task.v2 is not None and protocol.name == "v2":
        schedule = dataclasses.replace(schedule, batch_size=task.v2.batch_size)
    if isinstance(settings, V2):
        schedule = dataclasses.replace(schedule, factor=settings.factor)
    trainer = _Trainer(problem, schedule, protocol, standardise)
    num_layers = trainer.num_layers
    if protocol.name == "v2":
        assert task.v2 is not None
        rates = protocol.learning_rates or (task.v2.learning_rate,)
        # The published settings count the layers of encoders that have twelve.
        one: Layer = (
            ALL_LAYERS if task.v2.layer == ALL_LAYERS else round(task.v2.layer * (num_layers - 1) / 12)
        )
        tried = _layers_tried(protocol, num_layers, (one,))
        candidates = trainer.sweep(tried, rates, "reduce")
    else:
        rates = protocol.learning_rates or V1_LEARNING_RATES
        own: tuple[Layer, ...] = tuple(range(num_layers))
        tried = _layers_tried(protocol, num_layers, (*own, ALL_LAYERS) if num_layers > 1 else own)
        candidates = trainer.sweep(tried, rates, "sum")
    chosen = max(candidates, key=lambda c: (c.validation, -c.loss))
    if chosen.validation <= FAILED:
        raise UserError(
            f"{task.name}: no head could be trained, their losses all diverged; give a lower rate"
        )
    outcomes = trainer.test(chosen, "reduce" if protocol.name == "v2" else "sum")
    num_train = (
        problem.counts["train"]
        if protocol.shots is None
        else len(problem.draw(protocol.shots, protocol.seeds[0]))
    )
    return Learned(chosen, candidates, outcomes, num_train)


def why_not(task: Task, protocol: Protocol) -> str | None:
    """Returns why a task cannot be run by a protocol; None if it can."""
    if protocol.name == "ridge":
        if task.metrics[0] not in METRICS:
            return f"{task.name}: the ridge is a classifier of clips; this is a task of kind {task.kind}"
        if any(choice is not None for choice in (protocol.shots, protocol.layers, protocol.learning_rates)):
            return "the ridge has no learning rates, layers or shots to choose; use --protocol v1"
    for name, settings in (("v1", task.v1), ("v2", task.v2)):
        if protocol.name == name and settings is None:
            other = "v2" if name == "v1" else "v1"
            return f"{task.name} is not a task of MARBLE {name}; give --protocol {other}"
    return None


class _Trainer:
    """Trains heads on one problem."""

    def __init__(self, problem: Problem, schedule: Schedule, protocol: Protocol, standardise: bool) -> None:
        self._problem, self._schedule, self._protocol = problem, schedule, protocol
        self._standardise = standardise
        self.num_layers, self._layer_bytes = problem.num_layers, problem.layer_bytes
        # Where each layer's heads of the sweep are: parameters, place in them, and what scaled their
        # features.
        self._swept: dict[Layer, tuple[heads.Params, int, _Scale]] = {}
        self._rates: Sequence[float] = ()

    def sweep(self, layers: Sequence[Layer], rates: Sequence[float], whole: heads.Kind) -> list[Candidate]:
        """Trains the first seed's heads of these layers and learning rates."""
        single = [layer for layer in layers if layer != ALL_LAYERS]
        # Of large data sets a few layers at a time: all of NSynth's are 15 GB.
        at_once = max(1, _BYTES_AT_ONCE // max(1, self._layer_bytes))
        parts: list[tuple[heads.Kind, Sequence[Layer]]] = [
            ("layer", single[i : i + at_once]) for i in range(0, len(single), at_once)
        ]
        if ALL_LAYERS in layers:
            parts.append((whole, [ALL_LAYERS]))
        self._rates, candidates = tuple(rates), []
        for kind, group in parts:
            found, scale = self._train(kind, group, rates, [self._protocol.seeds[0]])
            self._swept |= {layer: (found.params, g, scale) for g, layer in enumerate(group)}
            for g, layer in enumerate(group):
                for r, rate in enumerate(rates):
                    score, loss = float(found.validation[g, 0, r]), float(found.loss[g, 0, r])
                    candidates.append(Candidate(layer, rate, score, loss))
        return candidates

    def test(self, chosen: Candidate, whole: heads.Kind) -> list[Outcome]:
        """Trains the chosen head with every seed and scores each on the test split."""
        kind: heads.Kind = whole if chosen.layer == ALL_LAYERS else "layer"
        assert chosen.learning_rate is not None
        others = self._protocol.seeds[1:]
        # The first seed's head was trained in the sweep.
        params, group, first_scale = self._swept[chosen.layer]
        head = heads.pick(params, group, self._rates.index(chosen.learning_rate))
        trained = [(head, first_scale.picked(group) if kind == "layer" else first_scale)]
        # In few-shot learning every seed has training rows of its own.
        together = [[seed] for seed in others] if self._protocol.shots else [others] if others else []
        for seeds in together:
            found, scale = self._train(kind, [chosen.layer], [chosen.learning_rate], seeds)
            trained.append((found.params, scale))
        outputs: list[list[np.ndarray]] = [[] for _ in trained]
        count = self._problem.counts["test"]
        for start in range(0, count, _CLIPS_AT_ONCE):
            picks = range(start, min(start + _CLIPS_AT_ONCE, count))
            rows = self._problem.rows("test", _numbers([chosen.layer]), picks).inputs
            for parts, (params, scale) in zip(outputs, trained, strict=True):
                parts.append(heads.predict(kind, params, scale.of(rows))[0][0, :, 0])
        by_seed = [seed for parts in outputs for seed in np.concatenate(parts, axis=1)]
        return [self._problem.test(seed) for seed in by_seed]

    def _train(
        self, kind: heads.Kind, layers: Sequence[Layer], rates: Sequence[float], seeds: Sequence[int]
    ) -> tuple[Heads, "_Scale"]:
        train, scale = self._train_rows(layers, seeds[0])
        val = self._problem.rows("val", _numbers(layers))
        found = heads.train_heads(
            kind,
            (scale.of(train.inputs), train.targets),
            (scale.of(val.inputs), val.targets),
            self._problem.validate,
            objective=self._problem.objective,
            num_outputs=self._problem.num_outputs,
            learning_rates=rates,
            seeds=seeds,
            schedule=self._schedule,
        )
        return found, scale

    def _train_rows(self, layers: Sequence[Layer], seed: int) -> tuple[Rows, "_Scale"]:
        shots = self._protocol.shots
        picks = None if shots is None else self._problem.draw(shots, seed)
        train = self._problem.rows("train", _numbers(layers), picks)
        return train, _Scale.fitted(train.inputs) if self._standardise else _Scale(None, None)


def _numbers(layers: Sequence[Layer]) -> list[int] | None:
    """Layers by their numbers; None is all of them, for a head that sees all."""
    return None if ALL_LAYERS in layers else [layer for layer in layers if layer != ALL_LAYERS]


class _Scale(NamedTuple):
    """Mean and deviation of the training rows, [L, 1, D]; None leaves features as they are."""

    mean: np.ndarray | None
    deviation: np.ndarray | None

    @classmethod
    def fitted(cls, inputs: np.ndarray) -> "_Scale":
        some = inputs[:, :: max(1, inputs.shape[1] // _ROWS_MEASURED)]
        mean = some.mean(axis=1, keepdims=True, dtype=np.float64)
        deviation = some.std(axis=1, keepdims=True, dtype=np.float64)
        # A dimension that never changes while training says nothing when it does.
        return cls(mean.astype(np.float32), np.where(deviation > 1e-8, deviation, np.inf).astype(np.float32))

    def picked(self, layer: int) -> "_Scale":
        """Of one of the layers alone."""
        if self.mean is None or self.deviation is None:
            return self
        return _Scale(self.mean[layer : layer + 1], self.deviation[layer : layer + 1])

    def of(self, inputs: np.ndarray) -> np.ndarray:
        """The features scaled, or as they are."""
        if self.mean is None or self.deviation is None:
            return inputs
        scaled = np.subtract(inputs, self.mean, dtype=np.float32)
        scaled /= self.deviation  # frames are gigabytes: no further copy
        return scaled


def _layers_tried(protocol: Protocol, num_layers: int, own: tuple[Layer, ...]) -> tuple[Layer, ...]:
    if protocol.layers is None:
        return own
    for layer in protocol.layers:
        if layer != ALL_LAYERS and not 0 <= layer < num_layers:
            raise UserError(f"no layer {layer}; this encoder's are numbered 0 to {num_layers - 1}")
    return protocol.layers


def _learn_ridge(problem: ClipProblem, task: Task, protocol: Protocol) -> Learned:
    rows = {split: problem.clips(split) for split in ("train", "val", "test")}
    names = problem.class_names
    splits = {split: ridge.Split(r.inputs, names[r.targets]) for split, r in rows.items()}
    found = ridge.fit_head(
        splits["train"], splits["val"], rows["test"].inputs, METRICS[task.metrics[0]], protocol.seeds
    )
    candidates = [Candidate(layer, None, float(v), 0.0) for layer, v in enumerate(found.validation)]
    outcomes = [problem.score_clips((names == labels[:, None]).astype(float)) for labels in found.predicted]
    return Learned(candidates[found.layer], candidates, outcomes, problem.counts["train"])
