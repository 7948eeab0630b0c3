"""Results as rows with intervals: for JSON, for Markdown, for a page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from muq_jax.probe.metrics import bootstrap_interval
from muq_jax.probe.run import Result
from muq_jax.probe.sweep import ALL_LAYERS, Layer

MOST_FREQUENT = "most frequent class"
UNTRAINED = "untrained"
"""The encoder of this name is what others are compared with."""

MEAN = "mean"
MEAN_METRIC = "mean of tasks"
MINUS_UNTRAINED = f" minus {UNTRAINED}"

Row = dict[str, Any]


def table_rows(results: Sequence[Result]) -> list[Row]:
    """Each result with a 95 % interval, its paired difference to the untrained encoder, and means over tasks.

    Args:
        results: of any tasks and encoders, one of each pair. Metrics that are no mean over items have no
            interval of this kind and get no row.

    Returns:
        rows of `task encoder layer metric value low high num_train num_val num_test seeds`, of each task
        first the most frequent class's where it is a classification; a difference's metric is `METRIC minus
        untrained`; the mean over the classifications, by first metrics, has the task "mean".
    """
    scored = _scored(results)
    by_name = {(s.task, s.encoder): s for s in scored}
    rows = []
    for s in scored:
        reference = by_name.get((s.task, UNTRAINED))
        for metric, items in s.items.items():
            rows.append(_row([s], s.task, metric, [items]))
            if reference is not None and _comparable(s, reference):
                rows.append(_row([s], s.task, metric + MINUS_UNTRAINED, [items - reference.items[metric]]))
    tasks = list(dict.fromkeys(s.task for s in scored if s.main))
    for encoder in dict.fromkeys(s.encoder for s in scored) if len(tasks) > 1 else ():
        mine = [by_name[task, encoder] for task in tasks if (task, encoder) in by_name]
        if len(mine) < len(tasks):
            continue  # a mean over fewer tasks is another number
        rows.append(_row(mine, MEAN, MEAN_METRIC, [s.items[s.main] for s in mine]))
        references = [r for s in mine if (r := by_name.get((s.task, UNTRAINED))) and _comparable(s, r)]
        if len(references) == len(mine):
            pairs = zip(mine, references, strict=True)
            differences = [s.items[s.main] - r.items[s.main] for s, r in pairs]
            rows.append(_row(mine, MEAN, MEAN_METRIC + MINUS_UNTRAINED, differences))
    return rows


def layer_rows(results: Sequence[Result]) -> list[Row]:
    """Returns the validation score of every single layer: rows of `task encoder layer metric validation`."""
    return [
        {
            "task": content["task"],
            "encoder": content["encoder"],
            "layer": int(layer),
            "metric": next(iter(content["validation"])),
            "validation": score,
        }
        for content in (result.content for result in results)
        for layer, score in content["validation_by_layer"].items()
        if layer != ALL_LAYERS
    ]


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table, an encoder a column; differences are left to the JSON."""
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    lines = [f"| task | metric | test items | {' | '.join(encoders)} |", "|" + "---|" * (3 + len(encoders))]
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in rows):
        if metric.endswith(MINUS_UNTRAINED):
            continue
        found = {row["encoder"]: row for row in rows if (row["task"], row["metric"]) == (task, metric)}
        num_items = next(iter(found.values()))["num_test"]
        cells = [_cell(found[encoder]) if encoder in found else "" for encoder in encoders]
        lines.append(f"| {task} | {spoken(metric)} | {num_items} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spoken(metric: str) -> str:
    """Returns a metric's name as a person reads it."""
    return metric.replace("_", " ")


class _Scored(NamedTuple):
    """The test items' scores of one encoder, or of the most frequent class, on one task.

    Attributes:
        items: [N_test] by metric.
        main: the metric that is averaged over tasks; "" where the task is no classification.
        split: digest of the items; of other items, scores cannot be paired.
    """

    task: str
    encoder: str
    layer: Layer | None
    items: Mapping[str, np.ndarray]
    main: str
    counts: tuple[int, int, int]
    num_seeds: int
    split: str


def _scored(results: Sequence[Result]) -> list[_Scored]:
    """Task by task, the most frequent class first."""
    found = []
    for task in dict.fromkeys(result.content["task"] for result in results):
        mine = [result for result in results if result.content["task"] == task]
        for result in mine:
            content = result.content
            first = next(iter(content["test"]))
            is_classification = content["kind"] == "classification"
            counts = (content["num_train"], content["num_val"], content["num_test"])
            one = _Scored(
                task=task,
                encoder=content["encoder"],
                layer=content["layer"],
                items=result.item_scores,
                main=first if is_classification and first in result.item_scores else "",
                counts=counts,
                num_seeds=len(content["seeds"]),
                split=content["split_sha256"],
            )
            if result is mine[0] and is_classification:
                items = result.baseline_items
                found.append(one._replace(encoder=MOST_FREQUENT, layer=None, items=items, num_seeds=1))
            found.append(one)
    return found


def _comparable(scored: _Scored, reference: _Scored) -> bool:
    return scored.encoder not in (UNTRAINED, MOST_FREQUENT) and scored.split == reference.split


def _row(scored: Sequence[_Scored], task: str, metric: str, items: Sequence[np.ndarray]) -> Row:
    """The row of one encoder's scores on one task or, together, on several."""
    value, low, high = bootstrap_interval(items)
    num_train, num_val, num_test = np.sum([s.counts for s in scored], axis=0).tolist()
    return {
        "task": task,
        "encoder": scored[0].encoder,
        "layer": scored[0].layer if len(scored) == 1 else None,
        "metric": metric,
        "value": round(value, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "num_train": num_train,
        "num_val": num_val,
        "num_test": num_test,
        "seeds": scored[0].num_seeds,
    }


def _cell(row: Mapping[str, Any]) -> str:
    layer = "" if row["layer"] is None else f", layer {row['layer']}"
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f}{layer})"
