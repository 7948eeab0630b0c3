"""Plots of probe results."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from muq_jax.probe.table import MEAN, MINUS_UNTRAINED, spoken
from muq_jax.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, Picture, canvas

_COLORS = (GREY, ORANGE, PURPLE, BLUE, GREEN)
_MARKERS = ("v", "s", "D", "o", "^")


def probe_scores(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Every encoder's test score on every task with its 95 % interval."""
    shown = [row for row in rows if not row["metric"].endswith(MINUS_UNTRAINED)]
    places = list(dict.fromkeys((row["task"], row["metric"]) for row in shown))
    encoders = list(dict.fromkeys(row["encoder"] for row in shown))
    offsets = np.linspace(0.26, -0.26, len(encoders))
    with canvas(height=1.5 + 0.62 * len(places)) as c:
        ax = c.axes
        for e, encoder in enumerate(encoders):
            mine = [row for row in shown if row["encoder"] == encoder]
            y = np.array([-places.index((row["task"], row["metric"])) for row in mine]) + offsets[e]
            value, low, high = (np.array([row[k] for row in mine]) for k in ("value", "low", "high"))
            ax.errorbar(
                value,
                y,
                xerr=np.abs([value - low, high - value]),
                fmt=_MARKERS[e % len(_MARKERS)],
                color=_COLORS[e % len(_COLORS)],
                markersize=7,
                linewidth=1.6,
                label=encoder,
            )
        names = [task if metric == "accuracy" else f"{task}\n{spoken(metric)}" for task, metric in places]
        names = [
            "mean of the tasks" if task == MEAN else name
            for name, (task, _) in zip(names, places, strict=True)
        ]
        ax.set_yticks(-np.arange(len(places)), names)
        ax.set(title="Test scores with 95 % intervals", xlabel="accuracy, or the score named", xlim=(0, 1))
        ax.grid(visible=False, axis="y")
        for line in range(len(places) - 1):
            ax.axhline(-line - 0.5, color="#E7E7E7", linewidth=0.8)
        ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.09), ncols=len(encoders), columnspacing=1.2)
        return c.picture(
            "Test scores of " + ", ".join(encoders) + f" on {len(places)} tasks; the table has the numbers."
        )


def scores_by_layer(layers: Sequence[Mapping[str, Any]], encoders: Sequence[str]) -> Picture:
    """The validation score of every layer, a panel a task."""
    tasks = list(dict.fromkeys(row["task"] for row in layers))
    with canvas(height=2.9, ncols=len(tasks), sharey=True, squeeze=False) as c:
        for ax, task in zip(c.axes[0], tasks, strict=True):
            for encoder, color, marker in zip(encoders, (BLUE, ORANGE), ("o", "s"), strict=False):
                mine = [row for row in layers if (row["task"], row["encoder"]) == (task, encoder)]
                xs = [row["layer"] for row in mine]
                ax.plot(
                    xs, [row["validation"] for row in mine], color=color, marker=marker, ms=4.5, label=encoder
                )
            ax.set(title=task, xlabel="layer", ylim=(0, 1.02))
            ax.xaxis.get_major_locator().set_params(integer=True)
        c.axes[0][0].set_ylabel("validation score")
        c.axes[0][-1].legend(loc="best", fontsize=9)
        return c.picture(
            f"Validation score of every layer, 0 being the encoder's input, on {', '.join(tasks)}."
        )
