"""A user's own task: any manifest, one of its columns as the label."""

import dataclasses
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from muq_jax.data.manifest import Clip, read_manifest
from muq_jax.data.paths import is_remote
from muq_jax.errors import UserError
from muq_jax.probe.labels import CLASSES_OF_RULES, RULES
from muq_jax.probe.task import FRAME_KINDS, KINDS, SPLITS, V1, V2, Beats, Dataset, Item, Kind, Task

GROUP = "group"
SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
_METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy",),
    "multilabel": ("roc_auc", "average_precision"),
    "regression": ("r2", "mean_absolute_error"),
    "frames": ("frame_accuracy",),
    "beats": ("beat_f", "downbeat_f"),
}
METRICS = (
    "accuracy",
    "balanced_accuracy",
    "weighted_key_score",
    "roc_auc",
    "average_precision",
    "r2",
    "mean_absolute_error",
    "frame_accuracy",
    "chord_majmin",
    "beat_f",
    "downbeat_f",
)


def custom_task(
    manifest: str | os.PathLike[str],
    label: str,
    kind: str,
    *,
    name: str = "custom",
    where: Mapping[str, str] | None = None,
    rule: str | None = None,
    classes: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    group: str | None = None,
    window_seconds: float | None = None,
) -> Task:
    """Returns the task of learning a column of a manifest.

    Args:
        manifest: JSON Lines as `data.manifest` reads; its rows' `split` is train, val or test.
        label: the column. For classification a text or a number; multilabel a list of texts; regression a
            number or a list of them; frames [[start, end, label], ...] in seconds; beats a list of seconds
            (and the column `downbeats`, if there is one). Rows where it is null, or not there, are left out.
        kind: of `task.KINDS`.
        name: of the task.
        where: only rows whose columns have these values.
        rule: of `labels.RULES`, applied to the column's value.
        classes: the vocabulary; the classes that occur by default.
        metrics: the first chooses on validation.
        group: the column whose values are not to be in two splits: `group` by default, if there is one.
        window_seconds: what an encoder hears at a time: 30 by default.

    Raises:
        UserError: an unknown kind, rule or metric.
    """
    for field, value in (("label", label), ("kind", kind), ("rule", rule), ("group", group)):
        if not isinstance(value, str | None):
            raise UserError(f"{name}: {field} is {value!r:.80}; expected a text")
    for field, values in (("classes", classes), ("metrics", metrics)):
        if not isinstance(values, list | tuple | None):
            raise UserError(f"{name}: {field} is {values!r:.80}; expected a list of texts")
    if not isinstance(where, Mapping | None):
        raise UserError(f"{name}: where is {where!r:.80}; expected columns with their values")
    if kind not in KINDS:
        raise UserError(f"{name}: no kind {kind!r}; expected one of {', '.join(KINDS)}")
    if rule is not None and rule not in RULES:
        raise UserError(f"{name}: no rule {rule!r}; expected one of {', '.join(RULES)}")
    found = tuple(metrics or _METRICS[kind])
    known = [metric for metric in METRICS if _fits(metric, kind)]
    for metric in found:
        if metric not in known:
            raise UserError(f"{name}: {metric!r} is no metric of {kind}; expected some of {', '.join(known)}")
    if window_seconds is not None and (
        not isinstance(window_seconds, int | float) or not 0.1 <= window_seconds <= 3600
    ):
        raise UserError(f"{name}: window_seconds is {window_seconds!r:.80}; expected 0.1 to 3600")
    conditions = {column: _text(value) for column, value in (where or {}).items()}
    vocabulary = None if classes is None else tuple(map(_text, classes))

    def read(data: str) -> Dataset:
        return _read(data, label, kind, conditions, rule, vocabulary, group, name)

    v1, v2 = V1(window_seconds=window_seconds), V2(window_seconds=window_seconds)
    if kind in FRAME_KINDS:  # frames are thousands: few epochs see as much as many of clips
        v1 = dataclasses.replace(v1, epochs=20, plateau=2, patience=4)
    return Task(
        name=name,
        title=name,
        kind=kind,
        metrics=found,
        read=read,
        standardise=True,
        v1=v1,
        v2=v2,
        source=f"{manifest}: JSON Lines with `path`, `split` and {label!r} in each row",
    )


def _read(
    manifest: str,
    label: str,
    kind: Kind,
    where: Mapping[str, str],
    rule: str | None,
    classes: Sequence[str] | None,
    group: str | None,
    name: str,
) -> Dataset:
    clips = read_manifest(manifest)
    columns = {column for clip in clips for column in clip.labels}
    for column in (label, *([group] if group else [])):
        if column not in columns and column not in ("id", "split"):
            raise UserError(f"{manifest}: no row has a column {column!r}; found {', '.join(sorted(columns))}")
    kept = rows_where(clips, where, manifest)
    left_out: Counter[str] = Counter()
    items = []
    for clip in kept:
        value = _field(clip, label)
        if value is None:
            left_out["no label"] += 1
            continue
        encoded = _encode(clip, value, kind, rule, f"{manifest}: clip {clip.id!r}")
        if encoded is None:
            left_out["no label"] += 1
        elif clip.split is None:
            left_out["no split"] += 1
        elif clip.split not in SPLIT_NAMES:
            raise UserError(
                f"{manifest}: clip {clip.id!r} has split {clip.split!r}; expected {', '.join(SPLITS)}"
            )
        elif is_remote(clip.path):
            raise UserError(
                f"{manifest}: clip {clip.id!r} is {clip.path}, in an object store; probes read local files. "
                "Copy the recordings here, and give their paths relative to the manifest"
            )
        else:
            owner = _field(clip, group or GROUP)
            owner = None if owner is None else _text(owner)
            items.append(Item(clip.id, SPLIT_NAMES[clip.split], encoded, clip.path, owner))
    return Dataset(items, _vocabulary(items, kind, rule, classes, label, name), dict(left_out))


def rows_where(clips: Sequence[Clip], where: Mapping[str, str], manifest: str) -> list[Clip]:
    """Returns the clips whose columns have these values, as texts.

    Raises:
        UserError: no row has such a column, or no row these values.
    """
    columns = {"id", "split"}.union(*(clip.labels for clip in clips))
    for column in where:
        if column not in columns:
            raise UserError(f"{manifest}: no row has a column {column!r}; found {', '.join(sorted(columns))}")
    kept = [clip for clip in clips if all(_text(_field(clip, c)) == v for c, v in where.items())]
    if not kept:
        raise UserError(f"{manifest}: no row has {', '.join(f'{c}={v}' for c, v in where.items())}")
    return kept


def _encode(clip: Clip, value: Any, kind: Kind, rule: str | None, where: str) -> Any:
    """The label of a row, as `task.Item` has it; None where the rule finds none."""
    if rule is not None:
        try:
            value = RULES[rule](value)
        except (UserError, ValueError, TypeError, IndexError) as error:
            raise UserError(f"{where}: the rule {rule} cannot read {value!r:.80}: {error}") from None
        if value is None:
            return None
    match kind:
        case "classification":
            if not _is_name(value):
                raise UserError(
                    f"{where}: the label is {value!r:.80}; classification takes one text or number. Use "
                    "--kind multilabel, or the rule first"
                )
            if not _text(value).strip():
                raise UserError(f"{where}: the label is empty; name it, or have null for a row without one")
            return _text(value)
        case "multilabel":
            if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
                raise UserError(f"{where}: the label is {value!r:.80}; multilabel takes a list of texts")
            if not all(tag.strip() for tag in value):
                raise UserError(f"{where}: one of the labels {value!r:.80} is empty; leave it out")
            return tuple(dict.fromkeys(value))
        case "regression":
            numbers = value if isinstance(value, list) else [value]
            if not numbers or any(isinstance(v, bool) or not isinstance(v, int | float) for v in numbers):
                raise UserError(
                    f"{where}: the label is {value!r:.80}; regression takes a number, or a list of them"
                )
            try:
                return tuple(map(float, numbers))
            except OverflowError:
                raise UserError(f"{where}: the label is {value!r:.80}, too large a number") from None
        case "frames":
            if not isinstance(value, list) or any(
                not isinstance(s, list | tuple) or len(s) != 3 or not _is_name(s[2]) for s in value
            ):
                raise UserError(
                    f"{where}: the label is {value!r:.80}; frames take [[start, end, label], ...]"
                )
            return tuple((start, end, _text(name)) for start, end, name in value) or None
        case "beats":
            downbeats = clip.labels.get("downbeats") or []
            if not isinstance(value, list) or not isinstance(downbeats, list):
                found = value if isinstance(downbeats, list) else downbeats
                raise UserError(f"{where}: the label is {found!r:.80}; beats take a list of seconds")
            return Beats(tuple(value), tuple(downbeats)) if value else None


def _vocabulary(
    items: Sequence[Item], kind: Kind, rule: str | None, classes: Sequence[str] | None, label: str, name: str
) -> tuple[str, ...]:
    if kind == "beats":
        return ()
    if kind == "regression":
        width = len(items[0].label) if items else 1
        return (label,) if width == 1 else tuple(f"{label}_{i}" for i in range(width))
    if classes is None:
        found = {c for item in items for c in _names(item, kind)}
        return CLASSES_OF_RULES.get(rule or "") or tuple(sorted(found, key=_natural))
    train = {c for item in items if item.split == "train" for c in _names(item, kind)}
    empty = [c for c in classes if c not in train]
    if empty:
        raise UserError(
            f"{name}: no training clip has the class {', '.join(map(repr, empty[:8]))}; a class without "
            "clips cannot be learned. Leave it out of the classes, or add clips"
        )
    return tuple(classes)


def _names(item: Item, kind: Kind) -> Sequence[str]:
    """The classes of an item's label."""
    if kind == "classification":
        return (item.label,)
    return item.label if kind == "multilabel" else [span[2] for span in item.label]


def _field(clip: Clip, column: str) -> Any:
    return {"id": clip.id, "split": clip.split}.get(column, clip.labels.get(column))


def _fits(metric: str, kind: Kind) -> bool:
    more: dict[Kind, tuple[str, ...]] = {
        "classification": ("balanced_accuracy", "weighted_key_score"),
        "frames": ("chord_majmin",),
    }
    return metric in (*_METRICS[kind], *more.get(kind, ()))


def _is_name(value: Any) -> bool:
    """Whether a value can be a class: a text, a finite number, true or false."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _text(value: Any) -> str:
    """A value as JSON has it, but 2.0 as 2, and texts as they are."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by their size, before names."""
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    return (1, 0.0, name) if math.isnan(number) else (0, number, name)
