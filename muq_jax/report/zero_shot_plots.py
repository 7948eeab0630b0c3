"""Plots of a zero-shot evaluation: texts against tracks, a map of tracks, labels one by one."""

import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from muq_jax.probe.zero_shot import View
from muq_jax.report.marble_plots import shortened
from muq_jax.report.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, Picture, canvas

_MOST = 40  # rows and columns of the matrix
_MOST_LABELS = 60
_NEIGHBOURS = 5
_COLORS = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#8C564B", "#B8A200")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def similarity_matrix(view: View) -> Picture:
    """Calibrated scores of at most 40 texts and 40 tracks, in the order of the tracks' texts."""
    tracks, texts = examples(view)
    found = view.scores[np.ix_(tracks, texts)]
    right = view.right[np.ix_(tracks, texts)]
    names = [textwrap.shorten(view.texts[t], 34, placeholder="…") for t in texts]
    longest = max(map(len, names))
    with canvas(height=1.0 + 0.062 * longest + 0.155 * len(tracks)) as c:
        ax = c.axes
        limit = max(1e-6, float(np.quantile(np.abs(found), 0.98)))
        image = ax.imshow(
            found, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
        )
        for y, x in np.argwhere(right):
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.1))
        ax.set_xticks(range(len(texts)), names, rotation=90, fontsize=6.8)
        ax.set_yticks(range(len(tracks)), [shortened(view.names[t], 30) for t in tracks], fontsize=6.8)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        bar = c.figure.colorbar(image, ax=ax, shrink=0.6, aspect=28, pad=0.02)
        bar.set_label("deviations", fontsize=8.5)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
        left = (len(view.names) - len(tracks), len(view.texts) - len(texts))
        caption = "Red is nearer than usual, blue farther; framed cells are right."
        if any(left):
            caption += (
                f" {len(tracks)} of {len(view.names):,} tracks and {len(texts)} of {len(view.texts):,} texts."
            )
        return c.picture(
            f"Heat map of {len(tracks)} tracks (rows) and {len(texts)} texts (columns).", caption
        )


def examples(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Returns tracks and texts for a matrix: texts evenly spaced, and for each as many tracks as have room.

    Tracks are in the order of the texts that they were taken for, so that what is right lies on the diagonal.
    """
    asked = np.flatnonzero(view.right.any(axis=0))
    texts = asked[np.linspace(0, len(asked) - 1, min(_MOST, len(asked))).round().astype(int)]
    share = max(1, _MOST // len(texts))
    tracks: list[int] = []
    for text in texts:
        mine = [int(t) for t in np.flatnonzero(view.right[:, text]) if t not in tracks]
        tracks += mine[:share]
    return np.array(tracks), texts


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns coordinates [N, 2] along the directions of the largest variance, and its shares [2].

    Args:
        vectors: [N, E]; each counts by its direction, not its length.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.asarray(vectors, np.float64) / np.maximum(lengths, 1e-12)
    unit -= unit.mean(axis=0)
    values, axes = np.linalg.eigh(unit.T @ unit)
    total = max(float(values.sum()), 1e-12)
    return unit @ axes[:, :-3:-1], np.maximum(values[:-3:-1], 0) / total


def track_map(view: View, query: int) -> Picture:
    """All tracks in two dimensions, coloured by their labels; the nearest ones of a text are numbered.

    Args:
        view: the tracks.
        query: the text, by its number.
    """
    places, shares = principal_axes(view.vectors)
    counts = Counter(group for groups in view.groups for group in groups)
    shown = [name for name, _ in counts.most_common(len(_COLORS))]
    # Of several, the rarest says most.
    group = [
        min((g for g in groups if g in shown), key=counts.__getitem__, default=None) for groups in view.groups
    ]
    shown = [name for name in shown if name in group]
    size = float(np.clip(3000 / len(places), 6, 42))
    with canvas(height=5.4) as c:
        ax = c.axes
        for name, color, marker in [(None, "#C4C4C4", "o"), *zip(shown, _COLORS, _MARKERS, strict=False)]:
            rows = [n for n, own in enumerate(group) if own == name]
            if rows:
                label = shortened(name, 24) if name else ("other" if shown else "tracks")
                ax.scatter(*places[rows].T, s=size, c=color, marker=marker, label=label, alpha=0.8, lw=0)
        best = np.argsort(-view.similarities[:, query], kind="stable")[:_NEIGHBOURS]
        for rank, track in enumerate(best, start=1):
            is_right = bool(view.right[track, query])
            ax.scatter(
                *places[track], s=size + 90, facecolors="none", edgecolors=INK, linewidths=1.6,
                linestyles="-" if is_right else (0, (2, 1.5)), zorder=5,
            )  # fmt: skip
            ax.annotate(
                str(rank),
                places[track],
                xytext=(7, 6),
                textcoords="offset points",
                fontsize=9.5,
                fontweight="bold",
            )
        ax.set(xlabel=f"{100 * shares[0]:.0f} % of the variance", ylabel=f"{100 * shares[1]:.0f} %")
        ax.set(xticklabels=[], yticklabels=[])
        if len(ax.get_legend_handles_labels()[0]) > 1:
            c.figure.legend(loc="outside right upper", fontsize=9)
        asked = textwrap.shorten(view.texts[query], 120, placeholder=" …")
        caption = (
            f"Rings: the {len(best)} tracks that the model finds for \N{LEFT DOUBLE QUOTATION MARK}{asked}"
            "\N{RIGHT DOUBLE QUOTATION MARK}, by rank; a whole ring is right, a dashed one is not."
        )
        if len(counts) > len(shown):
            caption += (
                f" Of {len(counts):,} labels frequent ones have colours, and of a track's the rarest counts."
            )
        return c.picture(f"Map of {len(places):,} tracks in two dimensions.", caption)


def label_scores(content: Mapping[str, Any]) -> Picture:
    """ROC-AUC and average precision of each label, the best heard first; of many, the frequent ones."""
    own, counts = content["by_label"], content["label_counts"]
    frequent = sorted(own, key=counts.__getitem__, reverse=True)[:_MOST_LABELS]
    order = sorted(frequent, key=lambda label: own[label]["roc_auc"])
    with canvas(height=0.9 + 0.17 * len(order)) as c:
        ax = c.axes
        y = np.arange(len(order))
        for metric, name, color, marker in (
            ("average_precision", "average precision", ORANGE, "s"),
            ("roc_auc", "ROC-AUC", BLUE, "o"),
        ):
            ax.plot([100 * own[label][metric] for label in order], y, marker, color=color, ms=4.5, label=name)
        chance = [100 * own[label]["average_precision_chance"] for label in order]
        ax.plot(chance, y, "|", color=GREY, ms=7, label="average precision of a guess")
        ax.axvline(50, color=BLUE, lw=1, ls=":")
        ax.set_yticks(y, [f"{shortened(label)} ({counts[label]:,})" for label in order], fontsize=7.5)
        ax.set(xlim=(0, 101), ylim=(-0.8, len(order) - 0.2), xlabel="percent points")
        c.figure.legend(loc="outside upper left", ncols=3, fontsize=9)
        which = (
            f"The {len(order)} most frequent of {len(own):,} labels, with"
            if len(order) < len(own)
            else "With"
        )
        caption = f"{which} the number of tracks of each. The dotted line is the ROC-AUC of a guess."
        return c.picture(f"Scores of {len(order)} labels.", caption)
