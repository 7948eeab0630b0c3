"""A model folder or a work directory in a screenful of text."""

import dataclasses
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from muq_jax.checkpoint import newest_step
from muq_jax.convert import folder as model_folder
from muq_jax.convert.find import find
from muq_jax.convert.port import Source, read_source
from muq_jax.convert.reader import CONFIG, read_json
from muq_jax.convert.rules import checked, flatten, params_sha256
from muq_jax.convert.verify import Size
from muq_jax.convert.workdir import read_hidden_codebooks
from muq_jax.train.health import HEALTH_SPLIT
from muq_jax.train.metrics import METRICS_FILE, Row, read_rows

# What is shown of each book, with its name and how a number is written.
_PER_BOOK = (
    ("ce", "cross-entropy", "{:.3f}"),
    ("unigram_ce", "code frequencies' cross-entropy", "{:.3f}"),
    ("accuracy", "accuracy, %", "{:.2%}"),
    ("error", "error after the book", "{:.4f}"),
    ("codes_used", "codes used", "{:.0f}"),
    ("codes_perplexity", "perplexity of the codes", "{:.0f}"),
)


def describe(name: str | os.PathLike[str]) -> str:
    """Returns configuration, sizes, `params sha256`, and of a run its newest checkpoint, metrics and health.

    Args:
        name: a model folder or a work directory.

    Raises:
        UserError: it is neither, or a file of it is damaged.
    """
    source = find(name)
    return _describe_run(source) if model_folder.is_work_directory(source) else _describe_folder(source)


def proved(report: Mapping[str, Any]) -> str:
    """Returns a report of `convert.port` in a few lines, layer by layer where the original was compared."""
    original, texts = report["original"], report.get("nearest_texts_cosine")
    lines = [
        f"{report['model_type']}, {report['tensors_in_use']} tensors in use, "
        f"{len(report['tensors_unread'])} that the original stores and never reads",
        f"there and back: {report['round_trip']}",
    ]
    if "mel_rvq" in report:
        lines.append(f"Mel-RVQ: {report['mel_rvq']}")
    if texts is not None:
        lines.append(f"different texts: cosine at most {texts:.3f}")
    if isinstance(original, str):
        lines.append(f"original: {original}")
    else:
        lines += [f"original: {what}: {Size(**size)}" for what, size in original.items()]
    return "\n".join([*lines, f"params sha256 {report['params_sha256']}"])


def _describe_folder(source: Path) -> str:
    found, variables, sha256 = _load(source)
    return "\n".join(
        [
            f"{source}: model folder, {found.kind.name}",
            *_groups(dataclasses.asdict(found.config)),
            f"licence: {found.licence.title or 'not stated'}",
            _sizes(variables),
            f"params sha256 {sha256}",
        ]
    )


def _describe_run(source: Path) -> str:
    step = newest_step(source)
    settings = read_json(source / CONFIG) if (source / CONFIG).is_file() else {}
    num_steps = settings.get("train", {}).get("num_steps", "?")
    lines = [
        f"{source}: work directory, newest checkpoint: {'none yet' if step is None else f'step {step}'} of "
        f"{num_steps}"
    ]
    lines += _groups(settings)
    if step is not None:
        # A quantiser of a teacher's layer is no model to convert: nothing of PyTorch's is its like.
        variables, sha256 = read_hidden_codebooks(source) or _load(source)[1:]
        lines.append(_sizes(variables))
    rows = read_rows(source / METRICS_FILE)
    for split in ("train", "valid"):
        lines += _metrics(next((row for row in reversed(rows) if row["split"] == split), None))
    found = [row for row in rows if row["split"] == HEALTH_SPLIT]
    lines += [f"health: step {row['step']}: {row['message']}" for row in found]
    if not found:
        lines.append(f"health: {'nothing found wrong' if rows else 'nothing was measured yet'}")
    if step is not None:
        lines.append(f"params sha256 {sha256}")
    return "\n".join(lines)


def _load(source: Path) -> tuple[Source, Mapping[str, Any], str]:
    """Returns what is trained or stored there, the shapes of its variables and its digest."""
    found = read_source(source)
    table, template = found.kind.table(found.config), found.kind.template(found.config)
    return found, template, params_sha256(checked(found.tensors, table, template, str(source)))


def _groups(tree: Mapping[str, Any]) -> list[str]:
    """One paragraph a group of settings: `optim: peak_lr 0.0005, schedule constant`."""
    single = {name: value for name, value in tree.items() if not isinstance(value, Mapping)}
    groups = {name: value for name, value in tree.items() if isinstance(value, Mapping)}
    if single:
        groups["other" if groups else "settings"] = single
    lines = []
    for name, group in groups.items():
        text = ", ".join(f"{path.replace('/', '.')} {value}" for path, value in flatten(group))
        lines += textwrap.wrap(f"{name}: {text or 'nothing'}", 110, subsequent_indent="  ")
    return lines


def _sizes(variables: Mapping[str, Any]) -> str:
    parts: dict[str, int] = {}
    for path, array in flatten(variables["params"]):
        part = path.split("/")[0]
        parts[part] = parts.get(part, 0) + math.prod(array.shape)
    shown = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    return "\n".join(
        textwrap.wrap(f"parameters: {sum(parts.values()):,} ({shown})", 110, subsequent_indent="  ")
    )


def _metrics(row: Row | None) -> list[str]:
    if row is None:
        return []
    facts = [f"loss {_number(row['loss'], '{:.4f}')}"]
    if "chance" in row:
        facts.append(f"chance {row['chance']:.4f}")
    if "unigram_ce" in row:
        facts.append(f"code frequencies alone {_number(_mean(row['unigram_ce']), '{:.4f}')}")
    if "accuracy_chance" in row:
        facts.append(_beside_chance("nearest in its batch", row, "accuracy"))
    for way in ("text_to_music", "music_to_text"):
        if f"{way}_recall_at_10" in row:
            facts.append(_beside_chance(f"R@10 {way.replace('_', ' ')}", row, f"{way}_recall_at_10"))
    if row["split"] == "train":
        facts += [
            f"gradient norm {_number(row['grad_norm'], '{:.3g}')}",
            f"learning rate {row['learning_rate']:.3g}",
            f"{row['audio_hours']:.2f} h of audio",
            f"{row['audio_seconds_per_second']:.3g} s of audio a second",
            f"{row['model_flops_per_second'] / 1e12:.3g} TFLOP/s",
        ]
    title = "training" if row["split"] == "train" else "validation"
    lines = textwrap.wrap(f"{title}, step {row['step']}: {', '.join(facts)}", 110, subsequent_indent="  ")
    books = [(label, row[name], form) for name, label, form in _PER_BOOK if isinstance(row.get(name), list)]
    if books:
        width = max(len(label) for label, *_ in books)
        numbers = range(1, len(books[0][1]) + 1)
        lines.append(f"  {'book':<{width}} {' '.join(f'{book:>7}' for book in numbers)}")
        for label, values, form in books:
            lines.append(f"  {label:<{width}} {' '.join(f'{_number(value, form):>7}' for value in values)}")
    return lines


def _beside_chance(name: str, row: Row, metric: str) -> str:
    return f"{name} {_number(row[metric], '{:.1%}')} (chance {row[f'{metric}_chance']:.1%})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
