"""Probe results in the layout of the papers' tables, beside published rows; as LaTeX and as CSV."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from muq_jax.probe.published import PLACES, Place, Score, published_metrics, published_rows

Result = Mapping[str, Any]
"""One task and one encoder, as a probe's `result.json` has it."""

AVERAGE: Place = ("", "average")
_PROTOCOLS = {"v1": "MARBLE v1", "v2": "MARBLE v2", "ridge": "ridge probe"}
_ERROR = "mean_absolute_error"
_METRICS = {
    "roc_auc": "ROC-AUC",
    "average_precision": "AP",
    "weighted_key_score": "key score",
    "frame_accuracy": "frames right",
    "chord_majmin": "maj/min chords",
    "beat_f": "beat F",
    "downbeat_f": "downbeat F",
    "r2": "R²",
    _ERROR: "mean absolute error",
}
_CSV_HEADER = (
    *("task", "metric", "encoder", "protocol", "mode", "shots", "layer", "mean", "spread", "low", "high"),
    *("seeds", "num_train", "num_val", "num_test", "source"),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """An encoder's scores by place.

    Attributes:
        name: the encoder's.
        detail: how it was probed, if not frozen with all examples; "unverified" of a published row.
        scores: by place.
        source: the paper of a published row; empty for ours.
    """

    name: str
    detail: str
    scores: Mapping[Place, Score]
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Board:
    """One protocol's table.

    Attributes:
        protocol: "v1", "v2" or "ridge".
        titles: of the tasks, by name.
        places: the columns; `AVERAGE` is the last where there is an average.
        averaged: the columns that every row of ours has, over which the average is.
        rows: ours, then the published ones.
        best: row and place of the best of ours, where there are several.
        notes: why no published score stands beside some of ours, and what to know of those that do.
    """

    protocol: str
    titles: Mapping[str, str]
    places: tuple[Place, ...]
    averaged: tuple[Place, ...]
    rows: tuple[Row, ...]
    best: frozenset[tuple[int, Place]]
    notes: tuple[str, ...]

    @property
    def sources(self) -> list[str]:
        """The papers of the published rows, in the order in which tables number them from 1."""
        return list(dict.fromkeys(row.source for row in self.rows if row.source))


def boards(results: Sequence[Result], published: bool = True) -> list[Board]:
    """Returns a table for every protocol: v1 and v2 never share one.

    Args:
        results: where two are of the same task and encoder and were probed alike, the later one counts.
        published: with the rows of papers, where a comparison is fair.
    """
    found = dict.fromkeys(result["protocol"] for result in results)
    return [_board(name, [r for r in results if r["protocol"] == name], published) for name in found]


def protocol_name(protocol: str) -> str:
    """A protocol as pages print it."""
    return _PROTOCOLS.get(protocol, protocol)


def metric_name(metric: str) -> str:
    """A metric as tables print it."""
    if metric.startswith("r2_"):
        return f"R² {metric.removeprefix('r2_').replace('_', ' ')}"
    return _METRICS.get(metric, metric.replace("_", " "))


def shown_metrics(result: Result) -> list[str]:
    """The metrics that get a column: those that papers report, or all that say much."""
    test = list(result["test"])
    known = [metric for metric in published_metrics(result["task"]) if metric in test]
    if known:
        return known
    targets = [metric for metric in test if metric.startswith("r2_")]
    dropped = {_ERROR, *(("r2",) if 0 < len(targets) < 4 else targets)}
    return [metric for metric in test if metric not in dropped] or test[:1]


def is_comparable(result: Result) -> bool:
    """Whether a published score of the task may stand beside this one."""
    was_probed_alike = result["mode"] == "frozen" and not result["shots"]
    was_probed_alike &= not result.get("swept_layers") and not result.get("swept_learning_rates")
    return was_probed_alike and result["protocol"] in ("v1", "v2") and not result["problems"]


def row_names(results: Sequence[Result]) -> list[tuple[str, str]]:
    """The name and the detail of every result's row; the detail tells fine-tuned and few-shot ones apart."""
    weights: dict[str, set[Any]] = {}
    for result in results:
        weights.setdefault(result["encoder"], set()).add(result.get("weights_sha256"))
    names = []
    for result in results:
        details = [] if result["mode"] == "frozen" else ["fine-tuned"]
        details += [f"{result['shots']} examples a class"] if result["shots"] else []
        if len(weights[result["encoder"]]) > 1:  # two models under one name are two rows
            details.append(f"weights {str(result.get('weights_sha256'))[:6]}")
        names.append((result["encoder"], ", ".join(details)))
    return names


def percent(score: Score, metric: str) -> str:
    """A score as tables print it: percent points with one decimal; an error in its own unit."""
    return f"{score.value:.3g}" if metric == _ERROR else f"{100 * score.value:.1f}"


def latex_table(results: Sequence[Result], *, published: bool = True) -> str:
    """Returns a `tabular` for every protocol; the document needs the package booktabs.

    Args:
        results: as of `boards`.
        published: with the papers' rows below ours, where a comparison is fair.
    """
    return "\n".join(_latex(board) for board in boards(results, published))


def csv_table(results: Sequence[Result]) -> str:
    """Returns every metric of every result as a row of its own, shares of 1; then the published rows.

    The column `source` tells "this run" from a paper.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV_HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    for result in results:
        for metric, mean in result["test"].items():
            low, high = result["interval"].get(metric, ("", ""))
            own = {name: result[name] for name in _CSV_HEADER if name in result}
            spread = result["spread"].get(metric, "")
            own |= {"metric": metric, "mean": mean, "spread": spread, "low": low, "high": high}
            writer.writerow({**own, "seeds": len(result["seeds"]), "source": "this run"})
    for board in boards(results):
        for row in board.rows:
            for (task, metric), score in row.scores.items() if row.source else ():
                if (task, metric) != AVERAGE:
                    line: dict[str, Any] = {
                        "task": task,
                        "metric": metric,
                        "encoder": row.name,
                        "mode": "frozen",
                    }
                    line |= {"protocol": board.protocol, "mean": score.value, "spread": score.spread}
                    source = row.source + (f" ({row.detail})" if row.detail else "")
                    writer.writerow({**line, "source": source})
    return out.getvalue()


def _board(protocol: str, results: Sequence[Result], published: bool) -> Board:
    scores: dict[tuple[str, str], dict[Place, Score]] = {}
    for name, result in zip(row_names(results), results, strict=True):
        for metric in shown_metrics(result):
            # The spread of a single seed is no spread.
            spread = result["spread"].get(metric) if len(result["seeds"]) > 1 else None
            value = result["test"][metric]
            own = scores.setdefault(name, {})
            if value is not None and np.isfinite(value):  # R² of a constant target is no number
                own[result["task"], metric] = Score(value, spread)
    found = dict.fromkeys(place for row in scores.values() for place in row)
    places = [place for place in PLACES if place in found] + [place for place in found if place not in PLACES]
    shared = [p for p in places if p[1] != _ERROR and all(p in row for row in scores.values())]
    averaged = tuple(shared) if len(shared) > 1 else ()
    rows = [Row(*name, _with_average(own, averaged)) for name, own in scores.items()]
    theirs_notes: list[str] = []
    if published:
        fair = _fair_places(results, places)
        for row in published_rows(protocol, fair):
            theirs = {place: row.scores[place] for place in fair if place in row.scores}
            detail = "" if row.verified else "unverified"
            rows.append(Row(row.model, detail, _with_average(theirs, averaged), row.source))
            theirs_notes += [f"{row.model} of {row.source}: {row.note}"] if row.note else []
            if not row.verified:
                theirs_notes.append("Unverified rows were written down from memory, not read off the paper.")
    if averaged:
        places.append(AVERAGE)
    titles = {result["task"]: result["title"] for result in results}
    notes = tuple(dict.fromkeys([*_notes(results), *theirs_notes])) if published else ()
    return Board(protocol, titles, tuple(places), averaged, tuple(rows), _best(rows, places), notes)


def _with_average(scores: Mapping[Place, Score], averaged: Sequence[Place]) -> dict[Place, Score]:
    if not averaged or any(place not in scores for place in averaged):
        return dict(scores)
    mean = float(np.mean([scores[place].value for place in averaged]))
    return {**scores, AVERAGE: Score(mean)}


def _best(rows: Sequence[Row], places: Sequence[Place]) -> frozenset[tuple[int, Place]]:
    best = set()
    for place in places:
        sign = -1 if place[1] == _ERROR else 1
        # Equal as printed is equal: a reader sees no more.
        printed = {
            r: sign * float(percent(row.scores[place], place[1]))
            for r, row in enumerate(rows)
            if place in row.scores and not row.source
        }
        if len(printed) > 1:
            best |= {(r, place) for r, value in printed.items() if value == max(printed.values())}
    return frozenset(best)


def _fair_places(results: Sequence[Result], places: Sequence[Place]) -> list[Place]:
    """Where papers may stand beside us: no result has a problem, and at least one was probed as theirs."""
    fair = []
    for place in places:
        mine = [result for result in results if result["task"] == place[0]]
        if not any(result["problems"] for result in mine) and any(map(is_comparable, mine)):
            fair.append(place)
    return fair


def _notes(results: Sequence[Result]) -> list[str]:
    notes, unpublished = [], []
    for result in results:
        title = result["title"]
        if result["protocol"] not in ("v1", "v2"):
            notes.append("The ridge probe is not MARBLE's, so no published score stands beside ours.")
        elif not published_metrics(result["task"]):
            unpublished.append(title)
        elif result["problems"]:
            # The problems are sentences, of which some end in a full stop.
            problems = " ".join(f"{problem.rstrip('.')}." for problem in result["problems"])
            notes.append(f"{title} has no published score beside it: {problems}")
    if unpublished:
        titles = ", ".join(dict.fromkeys(unpublished))
        notes.append(f"In no published table, and so without a published score: {titles}.")
    if any(result["mode"] != "frozen" or result["shots"] for result in results):
        notes.append(
            "Rows marked fine-tuned or with few examples a class were probed in another way than the "
            "published ones, whose encoders are frozen and whose heads saw the whole training split."
        )
    return notes


def _latex(board: Board) -> str:
    tasks = list(dict.fromkeys(task for task, _ in board.places))
    heads, rules, column = [], [], 2
    for task in tasks:
        width = sum(name == task for name, _ in board.places)
        heads.append(f"\\multicolumn{{{width}}}{{c}}{{{_escaped(board.titles.get(task, 'Average'))}}}")
        rules.append(f"\\cmidrule(lr){{{column}-{column + width - 1}}}")
        column += width
    metrics = ["" if place == AVERAGE else _escaped(metric_name(place[1])) for place in board.places]
    lines = [
        f"% {protocol_name(board.protocol)}; percent points; needs the package booktabs",
        f"\\begin{{tabular}}{{l{'r' * len(board.places)}}}",
        "\\toprule",
        " & ".join(["", *heads]) + r" \\",
        "".join(rules),
        " & ".join(["Encoder", *metrics]) + r" \\",
        "\\midrule",
    ]
    for r, row in enumerate(board.rows):
        name = _escaped(row.name) + (f" ({_escaped(row.detail)})" if row.detail else "")
        if row.source:
            name += f"\\textsuperscript{{{board.sources.index(row.source) + 1}}}"
            if not board.rows[r - 1].source:
                lines.append("\\midrule")
        cells = [_latex_cell(row, place, (r, place) in board.best) for place in board.places]
        lines.append(" & ".join([name, *cells]) + r" \\")
    lines.append("\\bottomrule")
    for number, source in enumerate(board.sources, 1):
        text = f"\\footnotesize\\textsuperscript{{{number}}} Published: {_escaped(source)}"
        lines.append(f"\\multicolumn{{{1 + len(board.places)}}}{{l}}{{{text}}} \\\\")
    return "\n".join([*lines, "\\end{tabular}", ""])


def _latex_cell(row: Row, place: Place, is_best: bool) -> str:
    score = row.scores.get(place)
    if score is None:
        return "--"
    value = percent(score, place[1])
    text = f"\\textbf{{{value}}}" if is_best else value
    spread = "" if score.spread is None else percent(Score(score.spread), place[1])
    return f"{text} {{\\scriptsize $\\pm$ {spread}}}" if spread else text


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"²": r"\textsuperscript{2}"}
    return "".join(special.get(sign, sign) for sign in text)
