"""What a run's metrics say, as sections of a page; and the page of one work directory."""

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from muq_jax import __version__
from muq_jax.convert.reader import CONFIG
from muq_jax.errors import UserError
from muq_jax.report import curves
from muq_jax.report.music_text import music_text_blocks, music_text_cards
from muq_jax.report.page import Block, Card, Folded, Note, Section, facts_table, write_page
from muq_jax.train.metrics import METRICS_FILE, Row, read_rows

REPORT = Path("report", "index.html")
"""A work directory's report."""


def report_training(workdir: Path) -> Path:
    """Writes `WORKDIR/report/index.html` from the run's metrics so far, and returns its path.

    Raises:
        UserError: the work directory has no metrics yet.
    """
    rows = read_rows(workdir / METRICS_FILE)
    if not _measured(rows, "train"):
        raise UserError(f"{workdir / METRICS_FILE}: no training metrics yet; let the run write its first row")
    last = _split(rows, "train")[-1]
    configs = _config_of(workdir)
    path = workdir / REPORT
    if "ce" in last:
        title, cards = "Pretraining MuQ", prediction_cards(rows)
        section = Section("Masked prediction", prediction_blocks(rows))
    elif "temperature" in last:
        title, cards = "Training MuQ-MuLan", music_text_cards(rows)
        section = Section("Music and text", music_text_blocks(rows))
    else:
        is_hidden = '"name": "hidden_rvq"' in configs.get(CONFIG, "")
        title, cards = f"Fitting a {'Hidden' if is_hidden else 'Mel'}-RVQ", rvq_cards(rows)
        section = Section("Tokens", rvq_blocks(rows))
    write_page(
        path,
        title=title,
        lead=f"{workdir}, step {last['step']:,}: {last['audio_hours']:.1f} h of audio heard.",
        cards=cards,
        sections=[health_section({"": rows}), section, about_section(configs)],
    )
    return path


def health_section(runs: Mapping[str, Sequence[Row]]) -> Section:
    """What the health checks found in runs, by name, or that they found nothing."""
    notes: list[Block] = []
    for name, rows in runs.items():
        found = _split(rows, "health")
        prefix = f"{name}: " if name else ""
        notes += [Note(f"{prefix}step {row['step']:,}: {row['message']}", warns=True) for row in found]
        if not found:
            steps = max((row["step"] for row in rows), default=0)
            notes.append(Note(f"{prefix}no check found anything wrong in {steps:,} steps."))
    return Section("Health", notes)


def rvq_cards(rows: Sequence[Row]) -> list[Card]:
    """The numbers to take away from a quantiser's run."""
    train = _measured(rows, "train")
    last = train[-1]
    cards = [
        Card(f"{last['error'][0]:.2f} to {last['error'][-1]:.2f}", "error after the first and last book")
    ]
    least = min(_usage_row(train)["codes_used"])
    return [*cards, Card(f"{least:,} of {last['num_codes']:,}", "codes in use, in the book with the fewest")]


def prediction_cards(rows: Sequence[Row]) -> list[Card]:
    """The numbers to take away from a pretraining run, of validation where there is one."""
    row = (_measured(rows, "valid") or _measured(rows, "train"))[-1]
    found, known = np.array(row["ce"]), np.array(row["unigram_ce"])
    where = "validation" if row["split"] == "valid" else "training"
    chance = float(np.log(row["num_codes"]))
    return [
        Card(
            f"{found.mean():.2f}",
            f"{where} cross-entropy of masked tokens; code frequencies alone reach {known.mean():.2f}, "
            f"chance {chance:.2f}",
        ),
        Card(
            f"{int((found < known).sum())} of {len(found)}",
            "codebooks predicted better than by code frequencies",
        ),
    ]


def rvq_blocks(rows: Sequence[Row], plain_mean: float | None = None) -> list[Block]:
    """How the quantiser was fitted: error and usage, book by book.

    Args:
        plain_mean: the error of answering every time with the mean of the training data, where it is known.
    """
    train = _measured(rows, "train")
    used, last = _usage_row(train), (_measured(rows, "valid") or train)[-1]
    steps, errors = _curve(train, "error")
    return [
        "Each book encodes what the books before it left over, so the error must fall from book to book.",
        curves.book_curves("Reconstruction error while fitting", steps, errors, "mean |error|"),
        curves.reconstruction_errors(last["error"], plain_mean),
        "A healthy book uses most of its codes. Perplexity is the number of equally frequent codes that "
        f"would carry as much. Counted over {used['codes_counted']:,.0f} tokens.",
        curves.codebook_usage(used["codes_used"], used["codes_perplexity"], used["num_codes"]),
    ]


def prediction_blocks(rows: Sequence[Row]) -> list[Block]:
    """How well masked tokens are predicted, over the steps and book by book."""
    train, valid = _measured(rows, "train"), _measured(rows, "valid")
    last = (valid or train)[-1]
    chance = float(np.log(last["num_codes"]))
    levels = {
        f"chance, ln {last['num_codes']}": chance,
        "code frequencies": float(np.mean(last["unigram_ce"])),
    }
    steps, accuracy = _curve(train, "accuracy")
    where = "validation" if valid else "training"
    blocks: list[Block] = [
        "Blocks of the audio are replaced by noise; the model names the codes of what it did not hear. Below "
        "the dotted line it knows more than how often each code occurs: it uses what it hears around a gap.",
        curves.loss_curves(
            "Cross-entropy of masked tokens, mean of the books",
            _mean_curve(train, "ce"),
            _mean_curve(valid, "ce"),
            levels,
            "cross-entropy (nats)",
        ),
        curves.prediction_by_book(last["ce"], last["unigram_ce"], chance, where),
        curves.book_curves(
            "Masked tokens named right (training)", steps, accuracy, "accuracy (%)", percent=True
        ),
    ]
    if len(train) > 1:
        names = ("grad_norm", "learning_rate", "audio_seconds_per_second")
        blocks.append(curves.optimisation(steps, *(_curve(train, name)[1] for name in names)))
    return blocks


def about_section(configs: Mapping[str, str], facts: Mapping[str, Any] | None = None) -> Section:
    """How the page came about: these facts, date, device, versions, and the configurations as text."""
    table = facts_table({**(facts or {}), **run_facts()})
    return Section("How this was made", [table, *(Folded(name, text) for name, text in configs.items())])


def run_facts() -> dict[str, str]:
    """Returns date, device and versions, for numbers that should be traceable."""
    devices = jax.devices()
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax", "numpy"))
    return {
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "device": f"{count}{devices[0].device_kind} ({platform.machine()}, {platform.system()})",
        "versions": f"muq_jax {__version__}, {packages}, Python {platform.python_version()}",
    }


def _config_of(workdir: Path) -> dict[str, str]:
    path = workdir / CONFIG
    return {CONFIG: json.dumps(json.loads(path.read_text()), indent=2)} if path.exists() else {}


def _usage_row(train: Sequence[Row]) -> Row:
    """Of the last rows the one with the most tokens: validation, or a short row, cannot show every code."""
    return max(train[-3:], key=lambda row: row["codes_counted"])


def _split(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row["split"] == name]


def _measured(rows: Sequence[Row], split: str) -> list[Row]:
    """The rows of a split that have numbers: a window of nothing but skipped steps has null for each."""
    return [row for row in _split(rows, split) if row["loss"] is not None]


def _curve(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row["step"] for row in rows]), np.array([row[name] for row in rows], float)


def _mean_curve(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """As `_curve`, the mean over the books."""
    steps, values = _curve(rows, name)
    return steps, values.mean(axis=-1) if len(values) else values
