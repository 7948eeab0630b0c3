"""The page of MARBLE's probes: what encoders know of music, task by task, beside what papers report."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from muq_jax.probe.published import Place, Score
from muq_jax.report.marble_plots import (
    confusions,
    layer_curves,
    radar,
    score_intervals,
    shortened,
    sweeps,
)
from muq_jax.report.marble_tasks import task_blocks
from muq_jax.report.page import Block, Card, Folded, Note, Section, Table, facts_table, write_page
from muq_jax.report.probe_tables import (
    AVERAGE,
    Board,
    Result,
    Row,
    boards,
    csv_table,
    latex_table,
    metric_name,
    percent,
    protocol_name,
)

_MOST_SEEN = 12  # columns that fit the page
_NONE = "\N{EN DASH}"
_HOW = {
    "v1": (
        "MARBLE's first protocol, the one of the MERT and MuQ papers. The encoder turns every clip into "
        "features, one vector a clip (tasks with times, such as beats, keep every frame). A small network "
        "with one hidden layer learns the task from them. The validation split decides which layer of the "
        "encoder (one, or a weighted sum of all) and which learning rate are used; the test split is scored "
        "with that choice alone."
    ),
    "v2": (
        "MARBLE's second protocol (2025): layer, learning rate and head of every task are fixed beforehand, "
        "with no sweep. Splits and heads differ from the first protocol's, so the scores of the two cannot "
        "be compared."
    ),
    "ridge": (
        "Our own quick probe, not MARBLE's: a ridge classifier on the mean of the features over time. The "
        "validation split chooses the layer."
    ),
}


def report_probes(
    path: Path, results: Sequence[Mapping[str, Any]], *, title: str, facts: Mapping[str, Any]
) -> None:
    """Writes a page about these results: tables, plots and, folded, everything needed to repeat them.

    Args:
        path: of the HTML file.
        results: one or more `result.json`, of any tasks, encoders and protocols; the first encoder is the
            one that the page is about. Of two about the same the later one counts.
        title: the page's.
        facts: names and values for the section on how it was made.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError("a page needs at least one result")
    results = _latest(results)
    tables = boards(results)
    sections = []
    for board in tables:
        mine = [r for r in results if r["protocol"] == board.protocol]
        prefix = f"{protocol_name(board.protocol)}: " if len(tables) > 1 else ""
        sections += _sections(board, mine, prefix)
    sections.append(Section("Task by task", task_blocks(results)))
    tables_as_text = [
        Folded("The tables as LaTeX (booktabs)", latex_table(results)),
        Folded("All scores as CSV", csv_table(results)),
    ]
    sections.append(Section("How this was made", [facts_table(facts), *tables_as_text]))
    write_page(
        path, title=title, lead=_lead(tables, results), cards=_cards(tables[0], results), sections=sections
    )


def score_table(board: Board) -> Table:
    """A row a model, a column a metric of a task, in percent points; published rows are below and grey."""
    header = ["", *(_heading(board, place) for place in board.places)]
    rows = [[_name(row, board), *(_cell(row, place) for place in board.places)] for row in board.rows]
    bold = {(r, 1 + board.places.index(place)) for r, place in board.best}
    quoted = [r for r, row in enumerate(board.rows) if row.source]
    return Table(header, rows, bold=bold, quoted=quoted, dense=True)


def _sections(board: Board, results: Sequence[Result], prefix: str) -> list[Section]:
    """Scores, strengths, layers, confusions and sweep of one protocol."""
    num_tasks = len({task for task, _ in board.averaged})
    is_wide = num_tasks >= 3
    scores: list[Block] = [_HOW.get(board.protocol, ""), _what_was_trained(results), score_table(board)]
    scores.append(_reading(board, results))
    scores += [Note(note, warns="published score beside it" in note) for note in board.notes]
    picture = score_intervals(board, results, bars=not is_wide)
    sections = [Section(f"{prefix}scores", scores)]
    strengths: list[Block] = [radar(board)] if is_wide else []
    strengths += [picture] if picture else []
    if strengths:
        heading = "strengths, and how sure they are" if is_wide else "how sure the scores are"
        sections.append(Section(f"{prefix}{heading}", strengths))
    layers = layer_curves(results)
    if layers:
        text = (
            "Low layers often hold sound (pitch, instrument), higher ones meaning (genre, mood). The scores "
        )
        text += "are of the validation split"
        text += ", with the best learning rate of each layer." if board.protocol == "v1" else "."
        sections.append(Section(f"{prefix}which layer knows what", [text, layers]))
    matrices = confusions(results)
    if matrices:
        text = "Of the encoder that is best at a task: where every true class (row) ends up, seeds together."
        sections.append(Section(f"{prefix}what is mistaken for what", [text, *matrices]))
    sweep = sweeps(results, results[0]["encoder"])
    if sweep:
        text = (
            f"{results[0]['encoder']}: every learning rate with every layer, scored on the validation split."
        )
        sections.append(Section(f"{prefix}the search for layer and learning rate", [text, sweep]))
    return [Section(s.title[0].upper() + s.title[1:], s.blocks) for s in sections]


def _what_was_trained(results: Sequence[Result]) -> str:
    modes = {result["mode"] for result in results}
    if modes == {"frozen"}:
        return (
            "The encoder is frozen: only what sits on top of it learns, so a score says what it knew before."
        )
    if "frozen" not in modes:
        return "The encoder is fine-tuned: its own weights learn the task too."
    return "The encoder is frozen, but for rows marked fine-tuned: there its own weights learn the task too."


def _reading(board: Board, results: Sequence[Result]) -> str:
    text = ["Percent points."]
    if board.best:
        text.append("Bold is the best of ours.")
    counts = {len(result["seeds"]) for result in results}
    if max(counts) > 1:
        what = str(counts.pop()) if len(counts) == 1 else "several"
        text.append(
            f"± is the standard deviation over {what} trainings from different seeds; how far other test "
            "items would move a score, the intervals below say."
        )
    if board.averaged:
        ours = len([place for place in board.places if place != AVERAGE])
        what = "all columns" if ours == len(board.averaged) else "the columns that every row of ours has"
        text.append(f"The average is over {what}, {len(board.averaged)} of them.")
        if any(row.source and AVERAGE not in row.scores for row in board.rows):
            text.append("A published row that lacks one of them has none.")
    if board.sources:
        sources = "; ".join(f"[{number}] {source}" for number, source in enumerate(board.sources, 1))
        text.append(f"Grey rows are what papers report under this protocol, with frozen encoders: {sources}.")
    if len(board.places) > _MOST_SEEN:
        text.append("The table is wider than the page: it scrolls sideways.")
    return " ".join(text)


def _lead(tables: Sequence[Board], results: Sequence[Result]) -> str:
    encoders = list(dict.fromkeys(result["encoder"] for result in results))
    tasks = list(dict.fromkeys(result["title"] for result in results))
    who = encoders[0] if len(encoders) == 1 else f"{len(encoders)} encoders"
    what = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    protocols = ", ".join(protocol_name(board.protocol) for board in tables)
    board = tables[0]
    scores = ", ".join(f"{name} {score}" for name, score in _headline(board)[:6] if score is not None)
    of = "on average" if board.averaged else metric_name(board.places[0][1])
    where = f" under {protocol_name(board.protocol)}" if len(tables) > 1 else ""
    verb = "knows" if len(encoders) == 1 else "know"
    return f"What {who} {verb} of music, on {what} ({protocols}). {of[0].upper()}{of[1:]}{where}: {scores}."


def _headline(board: Board) -> list[tuple[str, str | None]]:
    """Each of our rows with its average, or with its score in the first column."""
    place = AVERAGE if board.averaged else board.places[0]
    return [
        (_short_name(row), percent(row.scores[place], place[1]) if place in row.scores else None)
        for row in board.rows
        if not row.source
    ]


def _cards(board: Board, results: Sequence[Result]) -> list[Card]:
    (name, score), *others = _headline(board)
    ours = [row for row in board.rows if not row.source]
    place = AVERAGE if board.averaged else board.places[0]
    what = (
        f"{name}, mean of {len(board.averaged)} scores"
        if place == AVERAGE
        else f"{name}, {board.titles[place[0]]} {metric_name(place[1])}"
    )
    named = [f"{other} {value}" for other, value in others[:3] if value is not None]
    cards = [Card(score or _NONE, what + (f"; {', '.join(named)}" if named else ""))]
    contested = {p for _, p in board.best} - {AVERAGE}
    if contested:
        wins = sum((0, p) in board.best for p in contested)
        cards.append(
            Card(f"{wins} of {len(contested)}", f"scores in which {name} is best of the {len(ours)} shown")
        )
    elif results[0]["task"] == place[0]:
        interval = results[0]["interval"].get(place[1])
        if interval:
            low, high = (percent(Score(end), place[1]) for end in interval)
            cards.append(Card(f"{low} to {high}", "95 % interval over the test items"))
    tested = {result["task"]: result["num_test"] for result in results}
    cards.append(
        Card(f"{sum(tested.values()):,}", f"test items in {len(tested)} task{'s' * (len(tested) > 1)}")
    )
    troubled = {result["title"] for result in results if result["problems"]}
    if troubled:
        what = "task has" if len(troubled) == 1 else "tasks have"
        cards.append(Card(str(len(troubled)), f"{what} a caveat; the notes say which"))
    return cards


def _short_name(row: Row) -> str:
    return shortened(row.name) + (f" ({row.detail})" if row.detail else "")


def _name(row: Row, board: Board) -> str:
    if not row.source:
        return f"{row.name}\n{row.detail}" if row.detail else row.name
    words = ["published", row.detail] if row.detail else ["published"]
    return f"{row.name}\n{', '.join(words)} [{board.sources.index(row.source) + 1}]"


def _heading(board: Board, place: Place) -> str:
    if place == AVERAGE:
        return "Average"
    # A long word such as MagnaTagATune may break where its parts meet.
    title = re.sub(r"(?<=[a-z])(?=[A-Z])", "\u200b", board.titles[place[0]])
    return f"{title}\n{metric_name(place[1])}"


def _cell(row: Row, place: Place) -> str:
    score = row.scores.get(place)
    if score is None:
        return _NONE
    text = percent(score, place[1])
    return text if score.spread is None else f"{text}\n± {percent(Score(score.spread), place[1])}"


def _latest(results: Sequence[Result]) -> list[Result]:
    """Of results about the same thing the later one, in the place of the first."""
    kept: dict[Any, Result] = {}
    for result in results:
        names = ("task", "encoder", "weights_sha256", "protocol", "mode", "shots")
        kept[tuple(result.get(name) for name in names)] = result
    return list(kept.values())
