"""Plots of MARBLE's probes: scores, layers, confusions and the sweep."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from muq_jax.probe.published import Place
from muq_jax.report.probe_tables import AVERAGE, Board, Result, metric_name, row_names
from muq_jax.report.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, Canvas, Picture, canvas

_COLORS = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", INK, GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_MOST_LINES = 6  # of a radar chart: more cannot be told apart
_LEAST_SPAN = 0.05  # of a radar's axis: without it noise would fill the chart
_INNER = 0.2  # the radius at which an axis begins, for lines that all end in one point say nothing
_MOST_NUMBERS, _MOST_SMALL = 12, 30  # classes of a matrix with numbers in its cells; of one at half width


def labels_of(results: Sequence[Result]) -> list[str]:
    """The name of each result's encoder in a plot: short, and with what tells its row apart."""
    return [shortened(name) + (f" ({detail})" if detail else "") for name, detail in row_names(results)]


def shortened(name: str, length: int = 28) -> str:
    """A name that is too long loses its middle: both ends tell models apart."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


def radar(board: Board) -> Picture:
    """Our encoders on the columns that all of them have, an axis a column, stretched between these scores.

    Args:
        board: with an average over at least three columns.
    """
    rows = [row for row in board.rows if not row.source][:_MOST_LINES]
    places = board.averaged
    values = np.array([[row.scores[place].value for place in places] for row in rows])  # [rows, places]
    high = values.max(axis=0) if len(rows) > 1 else np.ones(len(places))
    low = np.minimum(values.min(axis=0), high - _LEAST_SPAN) if len(rows) > 1 else np.zeros(len(places))
    radii = _INNER + (1 - _INNER) * np.clip((values - low) / (high - low), 0, 1)
    angles = np.linspace(0, 2 * np.pi, len(places), endpoint=False)
    names = [_place_name(board, place, width=20) for place in places]
    ends = [f"{100 * a:.1f} to {100 * b:.1f}" for a, b in zip(low, high, strict=True)]
    if len(rows) == 1:  # its axes are all alike
        ends = [f"{100 * value:.1f}" for value in values[0]]
    with canvas(height=6.4, subplot_kw={"projection": "polar"}) as c:
        ax = c.axes
        ax.set_theta_zero_location("N")
        ax.set_theta_direction(-1)
        for r, row in enumerate(rows):
            style: Any = {
                "color": _COLORS[r],
                "marker": _MARKERS[r],
                "ms": 5.5,
                "zorder": 9 - r,
                "clip_on": False,
            }
            closed = np.append(np.arange(len(places)), 0)
            ax.plot(angles[closed], radii[r][closed], label=_row_label(row.name, row.detail), **style)
        ax.fill(angles, radii[0], color=_COLORS[0], alpha=0.08)
        ax.set(ylim=(0, 1.0), yticks=np.linspace(_INNER, 1, 5), yticklabels=[])
        ax.set_xticks(angles, ["\n".join(pair) for pair in zip(names, ends, strict=True)], fontsize=9)
        ax.tick_params(axis="x", pad=4, labelcolor=INK)
        for tick, angle in zip(ax.get_xticklabels(), angles, strict=True):
            side = np.sin(angle)
            tick.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
            height = np.cos(angle)
            vertical = "bottom" if height > 0.9 else "top" if height < -0.9 else "center"
            tick.set_verticalalignment(vertical)
        ax.spines["polar"].set_color("#BBBBBB")
        _legend(c)
        scale = "On every axis the inner ring is 0 or less and the rim 100."
        if len(rows) > 1:
            scale = (
                "Each axis is stretched on its own: the inner ring is the lowest score shown, the rim the "
                "highest, as written at its end, and no axis is narrower than 5 points. So the shape says "
                "who is better at what; by how much, the numbers say."
            )
        if sum(not row.source for row in board.rows) > _MOST_LINES:
            scale += f" The first {_MOST_LINES} encoders are shown."
        return c.picture(f"Radar chart of {len(rows)} encoders over {len(places)} scores.", scale)


def score_intervals(board: Board, results: Sequence[Result], bars: bool) -> Picture | None:
    """Test scores with their 95 % intervals, as bars or as points; None where no score is a share of 1.

    Args:
        results: those of the board's protocol.
        bars: from 0, with the numbers beside them; for few scores.
    """
    places = [p for p in board.places if p != AVERAGE and p[1] != "mean_absolute_error"]
    labels = list(dict.fromkeys(labels_of(results)))
    if not places:
        return None
    step = 0.8 / len(labels)
    with canvas(height=1.0 + len(places) * max(0.5, (0.3 if bars else 0.2) * len(labels))) as c:
        ax = c.axes
        lowest = 0.0
        for result, label in zip(results, labels_of(results), strict=True):
            e = labels.index(label)
            color, marker = _COLORS[e % len(_COLORS)], _MARKERS[e % len(_MARKERS)]
            for metric, value in result["test"].items():
                if (result["task"], metric) not in places or value is None or not np.isfinite(value):
                    continue
                y = -places.index((result["task"], metric)) + 0.4 - step * (e + 0.5)
                low, high = result["interval"].get(metric, (value, value))
                lowest = min(lowest, low)
                if bars:
                    ax.barh(y, 100 * value, height=0.8 * step, color=color, alpha=0.85, zorder=2)
                    ax.text(100 * max(value, high) + 1, y, f"{100 * value:.1f}", va="center", fontsize=9.5)
                error = 100 * np.abs([[value - low], [high - value]])
                style: Any = {"fmt": "" if bars else marker, "color": INK if bars else color}
                ax.errorbar(100 * value, y, xerr=error, ls="none", ms=5, lw=1.5, zorder=3, **style)
        marked = _mark_baselines(ax, results, places)
        names = [_place_name(board, place, width=26) for place in places]
        ax.set_yticks(-np.arange(len(places)), names, fontsize=9.5)
        ax.set(xlabel="percent points", ylim=(-len(places) + 0.45, 0.55))
        if bars or lowest < 0:
            ax.set_xlim(100 * lowest, 108 if bars else 101)
        ax.grid(visible=False, axis="y")
        for line in range(len(places) - 1):
            ax.axhline(-line - 0.5, color="#E7E7E7", linewidth=0.8)
        handles = [
            ax.plot(
                [], [], color=_COLORS[e % 8], marker="s" if bars else _MARKERS[e % 8], ls="", label=label
            )[0]
            for e, label in enumerate(labels)
        ]
        _legend(c, handles)
        caption = (
            "Lines are 95 % intervals: how far the score would move with other test items of the same kind."
        )
        caption += (
            " The dotted tick is what an answer reaches that hears nothing: the most frequent class, or "
            "the mean, of the training split."
            if marked
            else ""
        )
        return c.picture("Test scores with intervals; the table has the numbers.", caption)


def layer_curves(results: Sequence[Result]) -> Picture | None:
    """The validation score of every layer, a panel a task; None where no encoder has two to compare."""
    labels = list(dict.fromkeys(labels_of(results)))
    tasks = [
        task
        for task in dict.fromkeys(r["task"] for r in results)
        if any(r["task"] == task and len(r["validation_by_layer"]) > 1 for r in results)
    ]
    if not tasks:
        return None
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    has_all = False
    with canvas(height=0.9 + 2.15 * rows, nrows=rows, ncols=columns, squeeze=False) as c:
        for ax in c.axes.flat[len(tasks) :]:
            ax.set_visible(False)
        for ax, task in zip(c.axes.flat, tasks, strict=False):
            for result, label in zip(results, labels_of(results), strict=True):
                if result["task"] != task:
                    continue
                e = labels.index(label)
                color, marker = _COLORS[e % len(_COLORS)], _MARKERS[e % len(_MARKERS)]
                scores = {k: 100 * v for k, v in result["validation_by_layer"].items() if v is not None}
                layers = sorted(int(layer) for layer in scores if layer != "all")
                heights = [scores[str(layer)] for layer in layers]
                ax.plot(layers, heights, color=color, marker=marker, ms=3.2, lw=1.5)
                if "all" in scores:
                    has_all = True
                    ax.axhline(scores["all"], color=color, linestyle=(0, (4, 3)), linewidth=1.2)
                if str(result["layer"]) in scores and result["layer"] != "all" and len(scores) > 1:
                    chosen = (int(result["layer"]), scores[str(result["layer"])])
                    ax.plot(*chosen, marker="o", ms=9, mfc="none", mec=color, mew=1.4)
                title = textwrap.fill(result["title"], 26)
                ax.set_title(f"{title}\n", fontsize=10)
                ax.set_title(
                    metric_name(next(iter(result["validation"]))),
                    fontsize=8.5,
                    loc="right",
                    y=1.0,
                    pad=3,
                    fontweight="normal",
                    color=GREY,
                )
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
            ax.tick_params(labelsize=9)
        for ax in c.axes[:, 0]:
            ax.set_ylabel("validation", fontsize=9.5)
        for ax in c.axes[-1]:
            ax.set_xlabel("layer", fontsize=9.5)
        handles = [
            c.axes.flat[0].plot([], [], color=_COLORS[e % 8], marker=_MARKERS[e % 8], ms=5, label=label)[0]
            for e, label in enumerate(labels)
        ]
        _legend(c, handles)
        dashed = " A dashed line is all layers together." if has_all else ""
        caption = f"Layer 0 is the encoder's input; the ring marks the layer that validation chose.{dashed}"
        return c.picture(f"Validation score of every layer on {len(tasks)} tasks.", caption)


def confusions(results: Sequence[Result]) -> list[Picture]:
    """The confusion matrix of every task that has one, of its best encoder; small ones in pairs."""
    best: dict[str, tuple[Result, str]] = {}
    for result, label in zip(results, labels_of(results), strict=True):
        task = result["task"]
        if result.get("confusion") and (task not in best or _main(result) > _main(best[task][0])):
            best[task] = (result, label)
    small = [pair for pair in best.values() if len(pair[0]["classes"]) <= _MOST_SMALL]
    large = [pair for pair in best.values() if len(pair[0]["classes"]) > _MOST_SMALL]
    groups = [small[i : i + 2] for i in range(0, len(small), 2)] + [[pair] for pair in large]
    return [_matrices(group) for group in groups]


def sweeps(results: Sequence[Result], encoder: str) -> Picture | None:
    """An encoder's validation scores over learning rates and layers, a panel a task; None without."""
    swept = [
        (result, detail)
        for result, (name, detail) in zip(results, row_names(results), strict=True)
        if name == encoder
        and result["protocol"] != "ridge"  # which has no rates
        and sum(s["validation"] is not None for s in result["sweep"]) > 1
    ]
    if not swept:
        return None
    columns = min(2, len(swept))
    rows = -(-len(swept) // columns)
    with canvas(height=0.3 + 2.05 * rows, nrows=rows, ncols=columns, squeeze=False) as c:
        for ax in c.axes.flat[len(swept) :]:
            ax.set_visible(False)
        for ax, (result, detail) in zip(c.axes.flat, swept, strict=False):
            _sweep(ax, result, detail)
        return c.picture(
            f"Validation scores of {encoder} over learning rates and layers on {len(swept)} tasks.",
            "Bright is better (the lowest fifth of the cells is equally dark); the box marks what validation "
            "chose. A lone bright cell, or a choice at the highest or lowest learning rate, asks for a "
            "second look.",
        )


def _sweep(ax: Any, result: Result, detail: str) -> None:
    layers = sorted({str(s["layer"]) for s in result["sweep"]}, key=lambda n: (n == "all", n.rjust(4)))
    rates = sorted({s["learning_rate"] for s in result["sweep"]}, reverse=True)
    grid = np.full((len(rates), len(layers)), np.nan)
    for s in result["sweep"]:
        if s["validation"] is not None:
            grid[rates.index(s["learning_rate"]), layers.index(str(s["layer"]))] = 100 * s["validation"]
    # A rate at which training fell apart would take all the colours for itself.
    floor = np.nanquantile(grid, 0.2)
    ax.imshow(
        grid, cmap="viridis", aspect="auto", vmin=min(floor, np.nanmax(grid) - 1), interpolation="nearest"
    )
    ax.set_facecolor("#F0F0F0")
    chosen = (str(result["layer"]), result["learning_rate"])
    if chosen[0] in layers and chosen[1] in rates:
        corner = (layers.index(chosen[0]) - 0.5, rates.index(chosen[1]) - 0.5)
        ax.add_patch(
            Rectangle(corner, 1, 1, fill=False, edgecolor=ORANGE, linewidth=2.2, clip_on=False, zorder=5)
        )
    every = -(-len(layers) // 16)
    shown = [
        i for i, layer in enumerate(layers) if i % every == 0 and (layer == "all" or i < len(layers) - every)
    ]
    shown = sorted({*shown, len(layers) - 1})
    ax.set_xticks(shown, [layers[i] for i in shown], fontsize=8)
    ax.set_yticks(range(len(rates)), [f"{rate:.0e}".replace("e-0", "e-") for rate in rates], fontsize=8)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    metric = metric_name(next(iter(result["test"])))
    low, high = np.nanmin(grid), np.nanmax(grid)
    title = result["title"] + (f" ({detail})" if detail else "")
    ax.set_title(textwrap.shorten(title, 40, placeholder="…"), fontsize=10)
    ax.set_xlabel(f"layer      ({metric} {low:.1f} to {high:.1f})", fontsize=8.5)
    ax.set_ylabel("learning rate", fontsize=8.5)


def _matrices(group: Sequence[tuple[Result, str]]) -> Picture:
    large = len(group[0][0]["classes"]) > _MOST_SMALL
    width, height = (6.6, 6.4) if large else (7.6, 4.0) if len(group) > 1 else (4.6, 4.0)
    with canvas(width=width, height=height, ncols=len(group), squeeze=False) as c:
        for ax, (result, label) in zip(c.axes.flat, group, strict=True):
            image = _matrix(ax, result, label)
        bar = c.figure.colorbar(
            image, ax=c.axes, shrink=0.6, aspect=28, pad=0.02, ticks=[0, 0.1, 0.25, 0.5, 1]
        )
        bar.ax.set_yticklabels(["0", "10", "25", "50", "100 %"], fontsize=8)
        bar.outline.set_visible(False)
        names = " and ".join(result["title"] for result, _ in group)
        return c.picture(f"Confusion matrix of {names}: a row a true class, a column an answer.")


def _matrix(ax: Any, result: Result, label: str) -> Any:
    counts = np.array(result["confusion"], float)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    image = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.6, 0, 1), interpolation="nearest")
    ax.set_facecolor("#F0F0F0")  # a class without test items
    num = len(counts)
    if num <= _MOST_NUMBERS:
        for (y, x), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = "white" if share > 0.4 else INK
                ax.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=7.5, color=color)
    every = -(-num // (_MOST_SMALL if num <= _MOST_SMALL else 32))
    names = [textwrap.shorten(str(name).replace("_", " "), 16, placeholder="…") for name in result["classes"]]
    size = 8 if num <= _MOST_NUMBERS or num > _MOST_SMALL else 6.8
    ax.set_xticks(range(0, num, every), names[::every], rotation=90, fontsize=size)
    ax.set_yticks(range(0, num, every), names[::every], fontsize=size)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{result['title']}\n", fontsize=10.5)
    ax.set_title(label, fontsize=8.5, fontweight="normal", color=GREY, pad=4, loc="right")
    ax.set_xlabel("answered", fontsize=8.5)
    ax.set_ylabel("true", fontsize=8.5)
    return image


def _mark_baselines(ax: Any, results: Sequence[Result], places: Sequence[Place]) -> bool:
    marked = False
    for result in {result["task"]: result for result in results}.values():
        for metric, value in result["baseline"].items():
            if (result["task"], metric) in places and value >= 0:
                y = -places.index((result["task"], metric))
                ax.plot([100 * value] * 2, [y - 0.42, y + 0.42], color=INK, ls=":", lw=1.4, zorder=4)
                marked = True
    return marked


def _place_name(board: Board, place: Place, width: int) -> str:
    title = textwrap.fill(board.titles[place[0]], width)
    return f"{title}\n{metric_name(place[1])}"


def _row_label(name: str, detail: str) -> str:
    return shortened(name) + (f" ({detail})" if detail else "")


def _main(result: Result) -> float:
    value = next(iter(result["test"].values()))
    return -np.inf if value is None or not np.isfinite(value) else value


def _legend(c: Canvas, handles: Sequence[Any] | None = None) -> None:
    """Names above the plot, as many in a line as have room."""
    handles = handles or c.axes.get_legend_handles_labels()[0]
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = int(np.clip(84 // (longest + 6), 1, min(4, len(handles))))
    c.figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, fontsize=9.5)
