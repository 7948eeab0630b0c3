"""The page of a zero-shot evaluation: what music and words have to do with each other, for a model."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.probe.zero_shot import RETRIEVAL, View
from muq_jax.probe.zero_shot_scores import RAW, WEIGHTED
from muq_jax.report.marble_plots import confusions, shortened
from muq_jax.report.page import Block, Card, Folded, Note, Section, Table, facts_table, write_page
from muq_jax.report.probe_tables import metric_name
from muq_jax.report.zero_shot_plots import label_scores, similarity_matrix, track_map

_METRICS = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "map_at_10": "mAP@10",
    "median_rank": "median rank",
}
_RANK = "median_rank"
_EXAMPLES, _FOUND = 6, 5  # and how many answers of each
_LONGEST = 140  # letters of a text in a table
_CALIBRATION = (
    "Raw scores are the dot products of the model's vectors. Calibrated ones are first taken as deviations "
    "from background prompts (a song, a recording, noise, ...) with the same track, and then, for each text, "
    "as deviations from its mean over the tracks of the split; that looks at other tracks, never at labels."
)

_WEIGHTING = (
    "Weighted scores are the raw ones, times the model's temperature, plus the logarithm of the label's "
    "share of the training split: a contrastive loss learns how much more likely a text is with a track than "
    "by itself, so that a rare label is named as readily as a frequent one."
)

Content = Mapping[str, Any]


def report_zero_shot(path: Path, content: Content, view: View, *, facts: Mapping[str, Any]) -> None:
    """Writes a page about one result: scores beside chance, a matrix, a map, and examples to read.

    Args:
        path: of the HTML file.
        content: of `result.json`.
        view: the tracks and texts of the result.
        facts: names and values for the section on how it was made, beside what the result says.
    """
    texts = spread(np.flatnonzero(view.right.any(axis=0)), _EXAMPLES)
    tracks = spread(np.arange(len(view.names)), _EXAMPLES)
    sections = [
        Section("Scores", _scores(content)),
        Section("Which text fits which track", [_matrix_text(content), similarity_matrix(view)]),
        Section("A map of the tracks", [_MAP, track_map(view, int(texts[0]))]),
        Section("What is found for a text", [_asked("text"), *tracks_of_texts(view, texts)]),
        Section("What is found for a track", [_asked("track"), *texts_of_tracks(view, tracks)]),
    ]
    whole = f"{content['parts'][0]['name']} ({content['num_tracks']:,} tracks)"
    if content.get("by_label"):
        text = f"Raw scores of each label by itself, over {whole}, beside what guessing gives."
        sections.insert(1, Section("Which labels are heard", [text, label_scores(content)]))
    if "confusion" in content:
        like = {"mode": "frozen", "shots": None, "test": content["parts"][0]["scores"][RAW]}
        text = f"Where the tracks of every label (row) end up, by raw scores, over {whole}."
        sections.insert(1, Section("What is mistaken for what", [text, *confusions([{**content, **like}])]))
    sections.append(Section("How this was made", _made(content, facts)))
    title = f"Zero-shot {content['title']}"
    write_page(path, title=title, lead=_lead(content), cards=_cards(content), sections=sections)


def score_lines(content: Content) -> list[str]:
    """Returns the scores as lines for a terminal, published ones below those of the same tracks."""
    lines = [f"zero-shot {content['title']}, {content['encoder']}"]
    for part in content["parts"]:
        metrics = list(part["chance"])
        rows = _rows(content, part)
        width = max(len(name) for name, _, _ in rows)
        cell = max(13, 2 + max(len(_name(m)) for m in metrics))
        lines.append(f"{part['name']} ({part['num_items']:,}): {part['description']}")
        lines.append("  " + " " * width + "".join(f"{_name(m):>{cell}}" for m in metrics))
        for name, values, _ in rows:
            cells = "".join(f"{_number(m, values.get(m)):>{cell}}" for m in metrics)
            lines.append(f"  {name:<{width}}{cells}")
    return lines


def score_table(content: Content, part: Mapping[str, Any]) -> Table:
    """A row a kind of score, then chance and the most frequent label; published rows are below and grey."""
    metrics = list(part["chance"])
    rows = _rows(content, part)
    cells = [[name, *(_number(m, values.get(m)) for m in metrics)] for name, values, _ in rows]
    for row in cells:
        for m, (low, high) in part.get("interval", {}).get(row[0], {}).items():
            row[1 + metrics.index(m)] += f"\n{_number(m, low)} to {_number(m, high)}"
    quoted = [r for r, (_, _, is_ours) in enumerate(rows) if not is_ours]
    return Table(["", *map(_name, metrics)], cells, quoted=quoted, dense=True)


def tracks_of_texts(view: View, texts: np.ndarray) -> list[Block]:
    """The tracks with the highest raw similarity to these texts, best first; right ones are bold."""
    blocks: list[Block] = []
    for text in texts:
        best = np.argsort(-view.similarities[:, text], kind="stable")[:_FOUND]
        rows = [
            [
                f"{view.similarities[track, text]:.3f}",
                shortened(view.names[track], 36),
                _short(view.said[track]),
            ]
            for track in best
        ]
        bold = {(r, 1) for r, track in enumerate(best) if view.right[track, text]}
        blocks += [_quoted(view.texts[text]), Table(("similarity", "track", "known of it"), rows, bold=bold)]
    return blocks


def texts_of_tracks(view: View, tracks: np.ndarray) -> list[Block]:
    """The texts with the highest calibrated scores for these tracks, best first; right ones are bold."""
    blocks: list[Block] = []
    for track in tracks:
        best = np.argsort(-view.scores[track], kind="stable")[:_FOUND]
        rows = [[f"{view.scores[track, text]:+.2f}", _short(view.texts[text])] for text in best]
        bold = {(r, 1) for r, text in enumerate(best) if view.right[track, text]}
        heard = f"{shortened(view.names[track], 48)}: {_short(view.said[track]) or 'nothing is known of it'}"
        blocks += [heard, Table(("deviations", "text"), rows, bold=bold)]
    return blocks


def spread(values: np.ndarray, count: int) -> np.ndarray:
    """Returns at most so many of the values, evenly spaced: a sample that nobody has chosen."""
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return values[places]


_MAP = (
    "Every dot is a track, along the two directions in which the model's vectors differ most (principal "
    "components). Tracks that sound alike to the model lie together; but much of what it knows is in other "
    "directions, so what lies together here need not be alike."
)


def _matrix_text(content: Content) -> str:
    what = "its own text" if content["task"] == RETRIEVAL else "its labels"
    return f"Calibrated scores; frames mark what is right. A track's row should be reddest at {what}."


def _asked(what: str) -> str:
    order = "raw similarity" if what == "text" else "calibrated score"
    return (
        f"{what.capitalize()}s evenly spaced over all of them, none of them picked, each with the {_FOUND} "
        f"answers of the highest {order}. Bold answers are right."
    )


def _scores(content: Content) -> list[Block]:
    blocks: list[Block] = [
        "Nothing is learned: texts and tracks are compared as vectors of the model; the nearest wins.",
        _CALIBRATION,
        *([_WEIGHTING] if WEIGHTED in content["parts"][0]["scores"] else []),
    ]
    for part in content["parts"]:
        blocks += [
            f"{part['name'].capitalize()} ({part['num_items']:,}): {part['description']}.",
            score_table(content, part),
        ]
        lacking = part.get("without_positives", {})
        if lacking:  # the longest list: without negatives, ROC-AUC is not defined either
            labels = max(lacking.values(), key=len)
            more = f" and {len(labels) - 12} more" if len(labels) > 12 else ""
            blocks.append(
                Note(f"Not scored, for want of tracks with and without: {', '.join(labels[:12])}{more}.")
            )
        rows = content.get("published", {}).get(part["name"], [])
        if rows:
            sources = ", ".join(dict.fromkeys(row["source"] for row in rows))
            blocks.append(
                f"Grey rows are what {sources} reports; the prompts behind them are not published, so part "
                "of a difference may be theirs."
            )
            blocks += [Note(f"{row['model']}: {row['note']}") for row in rows if row["note"]]
    blocks.append(_reading(content))
    return blocks + [Note(problem, warns=True) for problem in content["problems"]]


def _reading(content: Content) -> str:
    if content["task"] == RETRIEVAL:
        return (
            "R@k is how often, in percent, a right one is among the first k; mAP@10 is the mean average "
            "precision of the first ten; the lower the median rank, the better. Equal similarities count as "
            "in random order, and chance is exact: what random orders give on average."
        )
    parts = ["Percent points. Chance is what guessing gives on average."]
    if content["kind"] == "classification":
        parts.append(
            "The most frequent label is the best answer that is always the same. The line below a score is "
            "its 95 % interval."
        )
    return " ".join(parts)


def _rows(content: Content, part: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float], bool]]:
    """Name, values and whether they are ours, of every row of a part's table."""
    rows = [(name, part["scores"][name], True) for name in part["scores"]]
    rows.append(("chance", part["chance"], True))
    if part["majority"]:
        rows.append(("most frequent label", part["majority"], True))
    return rows + [
        (f"published: {row['model']}", row["scores"], False)
        for row in content.get("published", {}).get(part["name"], [])
    ]


def _lead(content: Content) -> str:
    part = content["parts"][0]
    metric = next(iter(part["chance"]))
    texts = "texts" if content["task"] == RETRIEVAL else "labels"
    return (
        f"How well {content['encoder']} brings {content['num_tracks']:,} tracks and {content['num_texts']:,} "
        f"{texts} together without learning from them. {part['name'].capitalize()}: {_name(metric)} "
        f"{_number(metric, part['scores'][RAW][metric])}, where chance is "
        f"{_number(metric, part['chance'][metric])}."
    )


def _cards(content: Content) -> list[Card]:
    cards = []
    for part in content["parts"]:
        metrics = list(part["chance"])
        metric = "recall_at_10" if "recall_at_10" in metrics else metrics[0]
        value, chance = part["scores"][RAW][metric], part["chance"][metric]
        what = f"{_name(metric)}, {part['name']}; chance is {_number(metric, chance)}"
        cards.append(Card(_number(metric, value), what))
    texts = "different texts" if content["task"] == RETRIEVAL else "labels"
    cards.append(Card(f"{content['num_tracks']:,}", f"tracks, {content['num_texts']:,} {texts}"))
    if content["problems"]:
        several = len(content["problems"]) > 1
        cards.append(Card(str(len(content["problems"])), f"caveat{'s' * several}; the notes say which"))
    return cards


def _made(content: Content, facts: Mapping[str, Any]) -> list[Block]:
    left_out = ", ".join(f"{count:,} ({why})" for why, count in content["left_out"].items())
    known = {
        "model": content["encoder"],
        "weights sha256": content["weights_sha256"],
        "split": f"{content['split']}, sha256 {content['split_sha256']}",
        "prompts": f"{content['prompts']['source']}, sha256 {content['prompts']['sha256']}",
        "left out, of all splits": left_out or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
        "date": content["date"],
    }
    blocks: list[Block] = [facts_table({**known, **facts})]
    if "texts" in content["prompts"]:
        lines = [f"{label}: {' | '.join(texts)}" for label, texts in content["prompts"]["texts"].items()]
        blocks.append(Folded(f"The prompts of {len(lines)} labels", "\n".join(lines)))
    if content["failures"]:
        lines = [f"{id}: {why}" for id, why in content["failures"].items()]
        blocks.append(Folded(f"{len(lines)} tracks that could not be heard", "\n".join(lines)))
    return blocks


def _name(metric: str) -> str:
    return _METRICS.get(metric) or metric_name(metric)


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:,.0f}" if metric == _RANK else f"{100 * value:.1f}"


def _short(text: str) -> str:
    return textwrap.shorten(text, _LONGEST, placeholder=" …")


def _quoted(text: str) -> str:
    return f"\N{LEFT DOUBLE QUOTATION MARK}{_short(text)}\N{RIGHT DOUBLE QUOTATION MARK}"
