"""What is known of each probed task, as foldable text: counts, choices, scores, mistakes, versions."""

from collections.abc import Sequence

import numpy as np

from muq_jax.probe.published import Score
from muq_jax.report.page import Block, Folded, Note
from muq_jax.report.probe_tables import Result, metric_name, percent, protocol_name, row_names


def task_blocks(results: Sequence[Result]) -> list[Block]:
    """A folded text for every task and protocol, and a warning where encoders met different items."""
    blocks: list[Block] = ["What was learned from what, what was chosen, and all scores. Click to unfold."]
    for key in dict.fromkeys((result["task"], result["protocol"]) for result in results):
        mine = [result for result in results if (result["task"], result["protocol"]) == key]
        protocol = protocol_name(key[1])
        first = mine[0]
        if len({result.get("split_sha256") for result in mine}) > 1:
            text = f"{first['title']}, {protocol}: the encoders were probed on different splits or items."
            blocks.append(Note(text, warns=True))
        blocks.append(Folded(_task_summary(mine, protocol), "\n\n".join(map(_result_text, mine))))
    return blocks


def _task_summary(mine: Sequence[Result], protocol: str) -> str:
    first = mine[0]
    counts = " / ".join(f"{first[name]:,}" for name in ("num_train", "num_val", "num_test"))
    return f"{first['title']}, {protocol}: {counts} items to learn, choose and test"


def _result_text(result: Result) -> str:
    ((_, detail),) = row_names([result])
    lines = [result["encoder"] + (f", {detail}" if detail else "")]
    for metric, value in result["test"].items():
        lines.append(_line(f"test {metric_name(metric)}", _score_text(result, metric, value)))
        seeds = [s for s in result.get("test_per_seed", {}).get(metric, ()) if s is not None]
        if len(seeds) > 1:
            lines.append(_line("", "of every seed: " + " ".join(percent(Score(s), metric) for s in seeds)))
    deaf = ", ".join(f"{metric_name(m)} {percent(Score(v), m)}" for m, v in result["baseline"].items())
    if deaf:
        lines.append(_line("without hearing", f"{deaf} (the most frequent class, or the mean, of train)"))
    confused = _most_confused(result)
    if confused:
        lines.append(_line("most often mistaken", confused))
    chosen = {
        "layer": result["layer"],
        "pooling": result.get("pool"),
        "learning rate": result["learning_rate"],
    }
    text = ", ".join(f"{name} {value}" for name, value in chosen.items() if value is not None)
    lines.append(_line("chosen", text))
    seen = ", ".join(
        f"{metric_name(m)} {percent(Score(v), m)}" for m, v in result["validation"].items() if v is not None
    )
    lines.append(_line("validation", seen))
    published = result.get("published_counts")
    expected = f" (published: {', '.join(f'{count:,}' for count in published)})" if published else ""
    counts = f"train {result['num_train']:,}, validation {result['num_val']:,}, test {result['num_test']:,}"
    lines.append(_line("items", counts + expected))
    lines.append(_line("seeds", ", ".join(map(str, result["seeds"]))))
    left_out = ", ".join(f"{count:,} ({reason})" for reason, count in result["left_out"].items())
    lines.append(_line("left out", left_out or "none"))
    lines += [_line("problem", problem) for problem in result["problems"]]
    for metric, names in result.get("without_positives", {}).items():
        if names:
            text = f"{len(names)} without positives in the test split: {', '.join(map(str, names))}"
            lines.append(_line(f"{metric_name(metric)} leaves out", text))
    window = result.get("window_seconds")
    lines.append(_line("window", f"{window:g} s" if window else "whole clips"))
    lines.append(_line("split sha256", str(result.get("split_sha256"))))
    lines.append(_line("weights sha256", str(result.get("weights_sha256"))))
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in result.get("seconds", {}).items())
    lines.append(_line("time taken", seconds))
    lines.append(_line("versions", ", ".join(f"{k} {v}" for k, v in result.get("versions", {}).items())))
    lines.append(_line("date", str(result.get("date"))))
    lines.append(_line("command", str(result.get("command"))))
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    return f"  {name:<24} {text}"


def _score_text(result: Result, metric: str, value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "not defined on this test split"

    def printed(number: float) -> str:
        return percent(Score(number), metric)

    text = printed(value)
    seeds = result.get("test_per_seed", {}).get(metric, ())
    if len(seeds) > 1 and metric in result["spread"]:
        text += f" ± {printed(result['spread'][metric])}"
    if metric in result["interval"]:
        low, high = result["interval"][metric]
        text += f", 95 % interval {printed(low)} to {printed(high)}"
    return text


def _most_confused(result: Result) -> str:
    """The three most frequent mistakes, as shares of their true class."""
    if not result.get("confusion"):
        return ""
    counts = np.array(result["confusion"], float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    names = result["classes"]
    worst = np.argsort(-shares, axis=None)[:3]
    pairs = [np.unravel_index(flat, shares.shape) for flat in worst]
    return ", ".join(
        f"{names[y]} as {names[x]} ({100 * shares[y, x]:.0f} %)" for y, x in pairs if shares[y, x] > 0
    )
