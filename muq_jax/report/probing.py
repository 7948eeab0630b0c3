"""What a probe found, as blocks of a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from muq_jax.probe.encoders import LOG_MEL
from muq_jax.probe.table import MEAN, MINUS_UNTRAINED, MOST_FREQUENT, UNTRAINED, spoken
from muq_jax.report.page import Block, Card, Table
from muq_jax.report.probes import probe_scores, scores_by_layer

Rows = Sequence[Mapping[str, Any]]


def probe_blocks(rows: Rows, layers: Rows, encoder: str) -> list[Block]:
    """The table and the plots of a probe, and what it says of `encoder` against an untrained one.

    Args:
        rows, layers: of `probe.table`.
        encoder: the one that the page is about.
    """
    with_layers = [name for name in (encoder, UNTRAINED) if any(row["encoder"] == name for row in layers)]
    return [
        "The encoder is frozen; a ridge classifier on the mean of its features over time learns each task "
        "from labelled clips. The validation split chooses layer and regularisation; the scores are of the "
        "test split.",
        verdict(rows, encoder),
        probe_table(rows),
        probe_scores(rows),
        scores_by_layer(layers, with_layers),
    ]


def verdict(rows: Rows, encoder: str) -> str:
    """One plain sentence: is `encoder` better than an untrained one, and is that more than chance?"""
    differences = [
        row for row in rows if row["encoder"] == encoder and row["metric"].endswith(MINUS_UNTRAINED)
    ]
    row = next((row for row in differences if row["task"] == MEAN), differences[0])
    what = "over the tasks" if row["task"] == MEAN else f"on {row['task']}"
    interval = f"{row['value']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
    if row["low"] > 0:
        judgement = "training has helped"
    elif row["high"] < 0:
        judgement = "training has made the features worse for these tasks"
    else:
        judgement = "with so few test clips and so little training that is no clear difference"
    return (
        f"Against an encoder of the same size with random weights, the difference {what} is {interval}: "
        f"{judgement}."
    )


def probe_cards(rows: Rows, encoder: str) -> list[Card]:
    """The mean over the tasks, or the one task's first metric: of the encoder and of the others."""
    scores = [row for row in rows if not row["metric"].endswith(MINUS_UNTRAINED)]
    shown = [row for row in scores if row["task"] == MEAN]
    what = "mean probe accuracy"
    if not shown:
        task, metric = scores[0]["task"], scores[0]["metric"]
        shown = [row for row in scores if row["metric"] == metric]
        what = f"probe {spoken(metric)}, {task}"
    values = {row["encoder"]: row["value"] for row in shown}
    others = ", ".join(f"{name} {value:.2f}" for name, value in values.items() if name != encoder)
    return [Card(f"{values[encoder]:.2f}", f"{what}; {others}")]


def probe_table(rows: Rows) -> Table:
    """Scores with intervals and layers, an encoder a column."""
    shown = [row for row in rows if not row["metric"].endswith(MINUS_UNTRAINED)]
    encoders = list(dict.fromkeys(row["encoder"] for row in shown))
    by_place = {(row["task"], row["metric"], row["encoder"]): row for row in shown}
    table = []
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in shown):
        found = [by_place.get((task, metric, encoder)) for encoder in encoders]
        name = (
            "mean of the tasks"
            if task == MEAN
            else f"{task}\n{spoken(metric)}, {found[0]['num_test'] if found[0] else 0} test clips"
        )
        table.append([name, *map(_cell, found)])
    return Table(("", *encoders), table)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    layer = (
        ""
        if row["layer"] is None or row["encoder"] in (MOST_FREQUENT, LOG_MEL)
        else f", layer {row['layer']}"
    )
    return f"{row['value']:.2f}\n{row['low']:.2f} to {row['high']:.2f}{layer}"
