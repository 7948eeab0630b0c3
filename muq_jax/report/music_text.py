"""What the metrics of a run of MuQ-MuLan say: do texts find their clips, and how much better than chance?"""

from collections.abc import Sequence

import numpy as np

from muq_jax.report.curves import Curve, loss_curves
from muq_jax.report.page import Block, Card, Table
from muq_jax.report.style import BLUE, GREY, ORANGE, Picture, canvas
from muq_jax.train.metrics import Row

_WAYS = {"text_to_music": "text to music", "music_to_text": "music to text"}
_MEASURES = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "map_at_10": "mAP@10",
    "median_rank": "median rank",
}


def music_text_cards(rows: Sequence[Row]) -> list[Card]:
    """The numbers to take away, of validation where there is one."""
    valid = _valid(rows)
    if not valid:
        last = [row for row in rows if row["split"] == "train" and row["loss"] is not None][-1]
        chance = last["accuracy_chance"]
        return [Card(f"{last['accuracy']:.1%}", f"nearest in its training batch; chance is {chance:.1%}")]
    last = valid[-1]
    return [
        Card(
            f"{last[f'{way}_recall_at_10']:.1%}",
            f"R@10, {name}, on validation; chance is {last[f'{way}_recall_at_10_chance']:.1%}",
        )
        for way, name in _WAYS.items()
    ]


def music_text_blocks(rows: Sequence[Row]) -> list[Block]:
    """Loss, retrieval beside its chance, and how similar pairs are beside all others."""
    train = [row for row in rows if row["split"] == "train" and row["loss"] is not None]
    valid = _valid(rows)
    blocks: list[Block] = [
        "Each clip is to be nearer to its own text than to the others of the step, and each text to its own "
        "clip. The loss of a step depends on how many pairs it has.",
        loss_curves("Contrastive loss", _curve(train, "loss"), _curve(valid, "loss"), {}, "loss"),
        loss_curves(
            "Nearest in the step's batch",
            _curve(train, "accuracy"),
            _curve(valid, "accuracy"),
            {"chance": train[-1]["accuracy_chance"]},
            "share",
        ),
    ]
    if not valid:
        return blocks
    last = valid[-1]
    return [
        *blocks,
        f"Over {last['num_ranked']:,.0f} validation clips: how often what is looked for is among the first "
        "ten. Clips with the same text are all right answers.",
        _recall_curves(valid),
        _table(last),
        "Similarities of clips with their own texts and with all others: the less they overlap, the better.",
        similarity_histogram(last["similarity_own"], last["similarity_other"]),
    ]


def similarity_histogram(own: Sequence[float], other: Sequence[float]) -> Picture:
    """Shares of the pairs by similarity, in bins of one width from -1 to 1."""
    edges = np.linspace(-1, 1, len(own) + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    means = [float(np.dot(centres, shares)) for shares in (own, other)]
    with canvas(height=3.3) as c:
        for shares, color, name in ((own, BLUE, "own text"), (other, ORANGE, "other texts")):
            c.axes.stairs(np.asarray(shares) * 100, edges, color=color, label=name, fill=True, alpha=0.45)
        c.axes.set(title="Similarity (validation)", xlabel="cosine", ylabel="share of the pairs (%)")
        c.axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return c.picture(
            f"Similarities: {means[0]:.2f} on average with the own text, {means[1]:.2f} with others."
        )


def _recall_curves(valid: Sequence[Row]) -> Picture:
    with canvas(height=3.5) as c:
        said = []
        for (way, name), color in zip(_WAYS.items(), (BLUE, ORANGE), strict=True):
            steps, found = _curve(valid, f"{way}_recall_at_10")
            c.axes.plot(steps, found * 100, color=color, marker="o", markersize=5, label=name)
            said.append(f"{name} {found[-1]:.1%}")
        chance = valid[-1]["text_to_music_recall_at_10_chance"]
        c.axes.axhline(
            chance * 100, color=GREY, linestyle="--", linewidth=1.4, label=f"chance ({chance:.1%})"
        )
        c.axes.set(title="R@10 on validation", xlabel="step", ylabel="%", ylim=(0, None))
        c.axes.locator_params(axis="x", integer=True)
        c.axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return c.picture(f"R@10 at the end: {', '.join(said)}; chance is {chance:.1%}.")


def _table(row: Row) -> Table:
    def shown(name: str, value: float) -> str:
        return f"{value:.0f}" if name == "median_rank" else f"{value:.1%}"

    head = ["", *_MEASURES.values()]
    lines = []
    for way, title in _WAYS.items():
        for kind, end in (("", ""), (", chance", "_chance")):
            values = [shown(name, row[f"{way}_{name}{end}"]) for name in _MEASURES]
            lines.append([f"{title}{kind}", *values])
    return Table(head, lines)


def _valid(rows: Sequence[Row]) -> list[Row]:
    return [
        row for row in rows if row["split"] == "valid" and row.get("text_to_music_recall_at_10") is not None
    ]


def _curve(rows: Sequence[Row], name: str) -> Curve:
    return np.array([row["step"] for row in rows]), np.array([row[name] for row in rows], float)
