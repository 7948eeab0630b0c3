"""Results as rows with intervals: for JSON, for Markdown, for a page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.probe.metrics import bootstrap_interval
from muq_jax.probe.run import MOST_FREQUENT, UNTRAINED, Result

MEAN = "mean"
MINUS_UNTRAINED = f" minus {UNTRAINED}"

Row = dict[str, Any]


def table_rows(results: Sequence[Result]) -> list[Row]:
    """Each result with a 95 % interval, its paired difference to the untrained encoder, and means over tasks.

    Returns:
        rows of `task encoder layer metric value low high num_train num_val num_test seeds`; a difference's
        metric is `METRIC minus untrained`; the mean over tasks, by first metrics, has the task "mean".
    """
    by_name = {(r.task, r.encoder): r for r in results}
    rows = []
    for r in results:
        reference = by_name.get((r.task, UNTRAINED))
        for metric, scores in r.item_scores.items():
            rows.append(_row([r], r.task, metric, [scores]))
            if reference and r.encoder not in (UNTRAINED, MOST_FREQUENT):
                difference = scores - reference.item_scores[metric]
                rows.append(_row([r], r.task, metric + MINUS_UNTRAINED, [difference]))
    tasks = list(dict.fromkeys(r.task for r in results))
    if len(tasks) > 1:
        for encoder in dict.fromkeys(r.encoder for r in results):
            mine = [by_name[task, encoder] for task in tasks]
            scores_of_tasks = [r.main_scores for r in mine]
            rows.append(_row(mine, MEAN, "mean of tasks", scores_of_tasks))
            if (tasks[0], UNTRAINED) in by_name and encoder not in (UNTRAINED, MOST_FREQUENT):
                differences = [r.main_scores - by_name[r.task, UNTRAINED].main_scores for r in mine]
                rows.append(_row(mine, MEAN, "mean of tasks" + MINUS_UNTRAINED, differences))
    return rows


def layer_rows(results: Sequence[Result]) -> list[Row]:
    """The validation score of every layer: rows of `task encoder layer metric validation`."""
    return [
        {
            "task": r.task,
            "encoder": r.encoder,
            "layer": layer,
            "metric": next(iter(r.item_scores)),
            "validation": v,
        }
        for r in results
        for layer, v in enumerate(r.validation)
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
        lines.append(f"| {task} | {metric} | {num_items} | {' | '.join(cells)} |")
    return "\n".join(lines)


def save_results(path: Path, results: Sequence[Result], **facts: Any) -> None:
    """Writes these facts, `rows` and `layers` as JSON."""
    content = {**facts, "rows": table_rows(results), "layers": layer_rows(results)}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _row(results: Sequence[Result], task: str, metric: str, scores: Sequence[np.ndarray]) -> Row:
    """The row of one encoder's scores on one task or, together, on several."""
    value, low, high = bootstrap_interval(scores)
    num_train, num_val, num_test = np.sum([r.counts for r in results], axis=0).tolist()
    return {
        "task": task,
        "encoder": results[0].encoder,
        "layer": results[0].layer if len(results) == 1 else None,
        "metric": metric,
        "value": round(value, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "num_train": num_train,
        "num_val": num_val,
        "num_test": num_test,
        "seeds": results[0].num_seeds,
    }


def _cell(row: Mapping[str, Any]) -> str:
    layer = "" if row["layer"] is None else f", layer {row['layer']}"
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f}{layer})"
