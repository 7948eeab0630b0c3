"""A page of one file: prose, pictures and tables, readable without a network, a server or a script."""

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from muq_jax.report.style import Picture

_CSS = """
:root { --ink: #222; --soft: #666; --line: #e3e3e3; --blue: #0072B2; --orange: #D55E00; --green: #007a59; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f6f4; color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 900px; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 0 0 .5rem; }
.lead { color: var(--soft); margin: 0 0 1.6rem; max-width: 46rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: .8rem;
  margin: 0 0 1.6rem; }
.card, section { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.card { padding: .8rem 1rem; }
.card b { display: block; font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .86rem; line-height: 1.35; display: block; }
section { padding: 1.3rem 1.5rem 1.4rem; margin: 0 0 1.1rem; }
section > p { margin: 0 0 .9rem; max-width: 46rem; }
figure { margin: 1rem 0 .4rem; }
figure img { height: auto; display: block; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .35rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td small { color: var(--soft); display: block; white-space: nowrap; }
table.dense { font-size: .8rem; width: auto; min-width: 55%; }
.wide + p { margin-top: .9rem; }
.dense th, .dense td { text-align: right; padding: .3rem 0 .3rem .45rem; white-space: nowrap; }
.dense th { vertical-align: bottom; white-space: normal; line-height: 1.3; font-size: .72rem; }
.dense th small { display: block; font-weight: 400; }
.dense th:first-child, .dense td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: #fff; min-width: 8.5rem; max-width: 13rem; white-space: normal; overflow-wrap: anywhere; }
.dense td:first-child small { white-space: normal; line-height: 1.3; }
tr.quoted td, tr.quoted td b { color: var(--soft); }
tr.first-quoted td { border-top: 2px solid #bbb; }
section > .note { border-left: 4px solid var(--green); padding: .1rem 0 .1rem .8rem; margin: .5rem 0; }
section > .note.warn { border-color: var(--orange); }
details { margin-top: .6rem; }
summary { cursor: pointer; color: var(--blue); }
pre { background: #f6f6f4; padding: .8rem 1rem; border-radius: 6px; overflow-x: auto;
  font-size: .82rem; line-height: 1.45; }
"""


@dataclasses.dataclass(frozen=True)
class Card:
    """A number that the reader should take away, and what it is."""

    value: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of texts under a heading each; a cell's second line, after a line feed, is set small.

    Attributes:
        bold: row and column of the cells to set in bold.
        quoted: rows set in grey because they are somebody else's; the first has a line above it.
        dense: many columns of numbers, to the right of names that stay in sight.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: Collection[tuple[int, int]] = ()
    quoted: Collection[int] = ()
    dense: bool = False


@dataclasses.dataclass(frozen=True)
class Note:
    """One line that says all is well, or what to do where it is not."""

    text: str
    warns: bool = False


@dataclasses.dataclass(frozen=True)
class Folded:
    """A text that is shown as it is, once it is asked for."""

    summary: str
    text: str


Block = str | Picture | Table | Note | Folded
"""What a section holds; a text is a paragraph."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what belongs below it."""

    title: str
    blocks: Sequence[Block]


def write_page(
    path: Path, *, title: str, lead: str, cards: Sequence[Card], sections: Sequence[Section]
) -> None:
    """Writes the page; it takes the place of an earlier one only once it is whole."""
    head = "".join(
        f'<div class="card"><b>{escape(card.value)}</b><span>{escape(card.meaning)}</span></div>'
        for card in cards
    )
    body = "\n".join(map(_section, sections))
    html = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_CSS}</style>
</head>
<body><main>
<h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p>
<div class="cards">{head}</div>
{body}
</main></body>
</html>
"""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(html, encoding="utf-8")
    os.replace(unfinished, path)


def facts_table(facts: Mapping[str, Any]) -> Table:
    """Returns names beside values."""
    return Table(("", ""), [(name, str(value)) for name, value in facts.items()])


def _section(section: Section) -> str:
    blocks = "\n".join(map(_html, section.blocks))
    return f"<section><h2>{escape(section.title)}</h2>\n{blocks}\n</section>"


def _html(block: Block) -> str:
    match block:
        case str():
            return f"<p>{escape(block)}</p>"
        case Picture():
            caption = f"<figcaption>{escape(block.caption)}</figcaption>" if block.caption else ""
            style = f"width: {100 * block.width:.0f}%"
            image = f'<img src="{block.data_uri}" alt="{escape(block.alt)}" style="{style}">'
            return f"<figure>{image}{caption}</figure>"
        case Note():
            return f'<p class="note{" warn" if block.warns else ""}">{escape(block.text)}</p>'
        case Folded():
            summary = f"<summary>{escape(block.summary)}</summary>"
            return f"<details>{summary}<pre>{escape(block.text)}</pre></details>"
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    head = "".join(_cell(name, "th") for name in table.header) if any(table.header) else ""
    rows = []
    for r, row in enumerate(table.rows):
        cells = "".join(_cell(text, bold=(r, c) in table.bold) for c, text in enumerate(row))
        classes = "quoted" + (" first-quoted" if r == min(table.quoted) else "") if r in table.quoted else ""
        rows.append(f'<tr class="{classes}">{cells}</tr>' if classes else f"<tr>{cells}</tr>")
    opening = '<table class="dense">' if table.dense else "<table>"
    return f'<div class="wide">{opening}{f"<tr>{head}</tr>" if head else ""}{"".join(rows)}</table></div>'


def _cell(text: str, tag: str = "td", bold: bool = False) -> str:
    first, _, second = text.partition("\n")
    first = f"<b>{escape(first)}</b>" if bold else escape(first)
    return f"<{tag}>{first}{f'<small>{escape(second)}</small>' if second else ''}</{tag}>"
