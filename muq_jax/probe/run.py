"""One task, one encoder: features, heads, and a result that says how it came about."""

import dataclasses
import datetime
import hashlib
import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import muq_jax
from muq_jax.errors import UserError
from muq_jax.probe.checks import check_dataset
from muq_jax.probe.encoders import Encoder, MuQEncoder
from muq_jax.probe.extract import Cut, Features, features_of
from muq_jax.probe.finetune import FineTuning, finetune
from muq_jax.probe.metrics import bootstrap_interval
from muq_jax.probe.problems import FAILED, Outcome, Problem, baseline, make_problem
from muq_jax.probe.ready import ReadyFeatures
from muq_jax.probe.sweep import ALL_LAYERS, Learned, Protocol, learn
from muq_jax.probe.task import FRAME_KINDS, SPLITS, V1, Dataset, Item, Task

WINDOW_SECONDS = 30.0
"""Of a task that does not say one: what MuQ was trained on."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What one encoder reached on one task.

    Attributes:
        content: what `result.json` holds.
        item_scores: [N_test] by metric, the mean over seeds, of metrics that are means over items; for paired
            comparisons of encoders on the same items.
        baseline_items: the same of a head that hears nothing, such as the most frequent class.
    """

    content: dict[str, Any]
    item_scores: dict[str, np.ndarray]
    baseline_items: dict[str, np.ndarray]


def run_task(
    task: Task,
    dataset: Dataset,
    encoder: Encoder | ReadyFeatures,
    protocol: Protocol,
    cache: Path,
    *,
    command: str = "",
    own: bool | None = None,
) -> Result:
    """Probes an encoder.

    Args:
        task: its settings.
        dataset: its items.
        encoder: what is probed.
        protocol: how heads are trained and chosen.
        cache: the folder of all features.
        command: recorded in the result.
        own: the task is a user's, not a published one; by default, one without published counts is.

    Raises:
        UserError: of `check_dataset`, `features_of` and `learn`.
    """
    protocol = protocol.of(task)
    own = task.counts is None if own is None else own
    problems = [*dataset.problems, *check_dataset(dataset, task.kind, task.name, own=own)]
    cut = cut_of(task, protocol)
    began = time.monotonic()
    features = features_of(dataset.items, encoder, cut, cache, frames=task.kind in FRAME_KINDS)
    heard = time.monotonic()
    problems += _unheard(features, task.name)
    problem = make_problem(task.kind, task.metrics, dataset.classes, features)
    standardise = task.standardise or encoder.standardise
    learned = learn(problem, task, protocol, standardise)
    problems += getattr(problem, "notes", [])
    content = {
        **_about(task, dataset, encoder, protocol, problem, features, problems),
        "layer": learned.chosen.layer,
        "learning_rate": learned.chosen.learning_rate,
        "standardised": standardise or protocol.name == "ridge",
        "num_train": learned.num_train,
        **scores_of(learned.outcomes, dataset.classes),
        **_sweep(learned, task),
        "command": command,
        "seconds": {"features": round(heard - began, 1), "heads": round(time.monotonic() - heard, 1)},
    }
    return _result(content, learned.outcomes, problem)


def finetune_task(
    task: Task,
    dataset: Dataset,
    encoder: Encoder | ReadyFeatures,
    protocol: Protocol,
    settings: FineTuning,
    *,
    command: str = "",
    own: bool | None = None,
) -> Result:
    """Trains the encoder too, once for each of the protocol's seeds; the first learning rate is the
    encoder's.

    Arguments and errors are those of `run_task`.
    """
    protocol = protocol.of(task)
    if not isinstance(encoder, MuQEncoder):
        raise UserError(
            f"{encoder.name}: only a MuQ or a MusicFM can be trained further; leave out --finetune"
        )
    if protocol.name != "v1" or protocol.shots is not None or protocol.layers is not None:
        raise UserError(
            "fine-tuning trains on all clips and layers, with v1's windows: no other protocol, no shots "
            "and no layers"
        )
    if protocol.learning_rates is not None:
        settings = dataclasses.replace(settings, encoder_lr=protocol.learning_rates[0])
    own = task.counts is None if own is None else own
    problems = [*dataset.problems, *check_dataset(dataset, task.kind, task.name, own=own)]
    began = time.monotonic()
    found, problem, features = finetune(
        task, dataset, encoder, cut_of(task, protocol), settings, protocol.seeds
    )
    outcomes = [seed.outcome for seed in found]
    content = {
        **_about(
            task, dataset, encoder, protocol, problem, features, problems + _unheard(features, task.name)
        ),
        "mode": "finetune",
        "layer": ALL_LAYERS,
        "learning_rate": settings.encoder_lr,
        "head_learning_rate": settings.head_lr,
        "standardised": False,
        **scores_of(outcomes, dataset.classes),
        "validation": {
            _validation_metric(task): _sign(task) * float(np.mean([seed.validation for seed in found]))
        },
        "validation_by_layer": {},
        "sweep": [],
        "command": command,
        "seconds": {"training": round(time.monotonic() - began, 1)},
    }
    return _result(content, outcomes, problem)


def _result(content: dict[str, Any], outcomes: Sequence[Outcome], problem: Problem) -> Result:
    nothing = baseline(problem)
    values = {} if nothing is None else {m: score.value for m, score in nothing.scores.items()}
    items = {} if nothing is None else item_scores([nothing])
    return Result({**content, "baseline": values}, item_scores(outcomes), items)


def _about(
    task: Task,
    dataset: Dataset,
    encoder: Encoder | ReadyFeatures,
    protocol: Protocol,
    problem: Problem,
    features: Features,
    problems: list[str],
) -> dict[str, Any]:
    """What a result says whatever was trained."""
    left_out = dict(dataset.left_out)
    if features.failures:
        left_out["could not be heard"] = len(features.failures)
    return {
        "task": task.name,
        "title": task.title,
        "kind": task.kind,
        "encoder": encoder.name,
        "weights_sha256": getattr(encoder, "weights_sha256", encoder.digest),
        "features_sha256": encoder.digest,
        "mode": "frozen",
        **asked(task, protocol),
        "pool": "none" if task.kind in FRAME_KINDS else "mean",
        **{f"num_{split}": problem.counts[split] for split in SPLITS},
        "left_out": left_out,
        "failures": features.failures,
        "problems": problems,
        "published_counts": None if task.counts is None else list(task.counts),
        "classes": list(dataset.classes),
        "split_sha256": split_sha256(features.items),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }


def cut_of(task: Task, protocol: Protocol) -> Cut:
    """Returns how a task's clips become windows under a protocol."""
    settings = task.v2 if protocol.name == "v2" else task.v1
    seconds = None if settings is None else settings.window_seconds
    crop = settings.crop_seconds if isinstance(settings, V1) else None
    return Cut(seconds or WINDOW_SECONDS, task.drop_short, task.trim_silence, crop)


def scores_of(outcomes: Sequence[Outcome], classes: Sequence[str]) -> dict[str, Any]:
    """Returns what the seeds' outcomes say: mean, spread, and an interval over the test items."""
    metrics = list(outcomes[0].scores)
    by_seed = {m: [float(outcome.scores[m].value) for outcome in outcomes] for m in metrics}
    intervals = {m: bootstrap_interval([items])[1:] for m, items in item_scores(outcomes).items()}
    confusion = None
    if outcomes[0].confusion is not None:
        tables = [outcome.confusion for outcome in outcomes if outcome.confusion is not None]
        confusion = np.sum(np.stack(tables), axis=0).tolist()
    lacking = {m: [classes[i] for i in outcomes[0].scores[m].left_out] for m in metrics}
    return {
        "test": {m: float(np.mean(values)) for m, values in by_seed.items()},
        # Of a sample: the n - 1 of few seeds matters.
        "spread": {m: float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for m, v in by_seed.items()},
        "test_per_seed": by_seed,
        "interval": {m: list(interval) for m, interval in intervals.items()},
        "confusion": confusion,
        "without_positives": {m: names for m, names in lacking.items() if names},
    }


def item_scores(outcomes: Sequence[Outcome]) -> dict[str, np.ndarray]:
    """Returns [N_test] of every metric that is a mean over items, the mean over seeds."""
    found = {}
    for metric in outcomes[0].scores:
        items = [score.items for o in outcomes if (score := o.scores[metric]).items is not None]
        # The F of the counts of all files together is not the mean of the files' F.
        if items and metric not in ("beat_f", "downbeat_f"):
            found[metric] = np.mean(np.stack(items), axis=0)
    return found


def split_sha256(items: Sequence[Item]) -> str:
    """Returns the digest of which item is in which split with which label."""
    lines = sorted(json.dumps([item.id, item.split, item.label], default=list) for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Returns the versions of what a score can hang on."""
    found = {"muq_jax": muq_jax.__version__, "python": platform.python_version()}
    for package in ("jax", "jaxlib", "numpy", "optax", "scikit-learn", "mir_eval", "librosa", "soxr"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _sweep(learned: Learned, task: Task) -> dict[str, Any]:
    sign = _sign(task)
    by_layer: dict[str, float] = {}
    for c in learned.candidates:
        by_layer[str(c.layer)] = max(c.validation, by_layer.get(str(c.layer), -np.inf))

    def shown(score: float) -> float | None:
        return None if score <= FAILED else sign * score

    sweep = [
        {"layer": c.layer, "learning_rate": c.learning_rate, "validation": shown(c.validation)}
        for c in learned.candidates
    ]
    return {
        "validation": {_validation_metric(task): sign * learned.chosen.validation},
        "validation_by_layer": {layer: shown(score) for layer, score in by_layer.items()},
        "sweep": sweep,
    }


def _sign(task: Task) -> int:
    """An error is negated where the highest score is chosen."""
    return -1 if task.metrics[0] == "mean_absolute_error" else 1


def _validation_metric(task: Task) -> str:
    return {"frames": "frame_accuracy", "beats": "average_precision"}.get(task.kind, task.metrics[0])


def asked(task: Task, protocol: Protocol) -> dict[str, Any]:
    """Returns what was asked for: a result of anything else is another result."""
    return {
        "protocol": protocol.name,
        "shots": protocol.shots,
        "seeds": list(protocol.seeds),
        "metrics": list(task.metrics),
        "window_seconds": cut_of(task, protocol).window_seconds,
        "swept_learning_rates": None if protocol.learning_rates is None else list(protocol.learning_rates),
        "swept_layers": None if protocol.layers is None else list(protocol.layers),
    }


def _unheard(features: Features, name: str) -> list[str]:
    """Says how many clips could not be heard, if the rest still has every split."""
    if not features.failures:
        return []
    counts = {split: sum(item.split == split for item in features.items) for split in SPLITS}
    first = next(iter(features.failures.values()))
    if min(counts.values()) == 0:
        raise UserError(f"{name}: no clip of some split could be heard; the first: {first}")
    return [f"{len(features.failures)} clips could not be heard and are left out; the first: {first}."]
