"""Is the run healthy? One table of checks over its metrics, each with advice that can be followed."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from muq_jax.train.metrics import Row

HEALTH_SPLIT = "health"

Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class History:
    """The rows of `metrics.jsonl`, oldest first."""

    train: list[Row]
    valid: list[Row]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "History":
        return cls(
            train=[row for row in rows if row["split"] == "train"],
            valid=[row for row in rows if row["split"] == "valid"],
        )


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that can be wrong.

    Attributes:
        name: what it is called in the metrics.
        find: returns the facts that the message needs, or None where all is well (or cannot be told yet).
        message: what is wrong and what to do, for `str.format`.
    """

    name: str
    find: Callable[[History], Facts | None]
    message: str


def findings(rows: Sequence[Row]) -> list[Row]:
    """Returns a row for each check that fails and has no row yet: each is said once in a run."""
    history = History.of(rows)
    said = {row["check"] for row in rows if row["split"] == HEALTH_SPLIT}
    new = []
    for check in CHECKS:
        facts = None if check.name in said or not history.train else check.find(history)
        if facts is not None:
            step = history.train[-1]["step"]
            message = check.message.format(step=step, **facts)
            new.append({"split": HEALTH_SPLIT, "step": step, "check": check.name, "message": message})
    return new


def _no_better_than_chance(history: History) -> Facts | None:
    row = history.train[-1]
    if row["step"] < 1000 or not _has(row, "ce", "chance"):
        return None
    found = statistics.mean(row["ce"])
    return {"found": found, "chance": row["chance"]} if found > row["chance"] - 0.02 else None


def _retrieval_no_better_than_chance(history: History) -> Facts | None:
    ways = ("text_to_music_recall_at_10", "music_to_text_recall_at_10")
    rows = [row for row in history.valid if _has(row, *ways)][-3:]
    if len(rows) < 3:
        return None
    # One evaluation of a few hundred clips is as often above chance as below: three together, both ways,
    # have to be above it by twice their own standard error.
    found = statistics.mean(row[way] for row in rows for way in ways)
    chance = statistics.mean(rows[-1][f"{way}_chance"] for way in ways)
    error = math.sqrt(chance * (1 - chance) / (len(rows) * len(ways) * rows[-1]["num_ranked"]))
    if chance > 0.5 or found >= chance + 2 * error:  # of twenty clips ten tell nothing
        return None
    return {"found": found, "chance": chance}


def _not_below_frequencies(history: History) -> Facts | None:
    row = (history.valid or history.train)[-1]
    if row["step"] < 5000 or not _has(row, "ce", "unigram_ce"):
        return None
    found, known = statistics.mean(row["ce"]), statistics.mean(row["unigram_ce"])
    return {"found": found, "known": known} if found > known else None


def _unused_codes(history: History) -> Facts | None:
    row = history.train[-1]
    # With fewer tokens than this a healthy book has not shown most of its codes either.
    if row["step"] < 300 or not _has(row, "codes_used") or row["codes_counted"] < 10 * row["num_codes"]:
        return None
    book, used = min(enumerate(row["codes_used"], start=1), key=lambda pair: pair[1])
    return {"book": book, "used": used, "codes": row["num_codes"]} if used < row["num_codes"] / 2 else None


def _useless_book(history: History) -> Facts | None:
    row = history.train[-1]
    if row["step"] < 300 or not _has(row, "error"):
        return None
    errors = row["error"]
    for book, (before, after) in enumerate(itertools.pairwise(errors), start=2):
        if after >= before:
            return {"book": book, "before": before, "after": after}
    return None


def _gradient_jump(history: History) -> Facts | None:
    norms = [row["grad_norm"] for row in history.train[-21:] if _has(row, "grad_norm")]
    if len(norms) < 6:
        return None
    usual = statistics.median(norms[:-1])
    return {"norm": norms[-1], "usual": usual} if norms[-1] > 10 * usual else None


def _skipped_steps(history: History) -> Facts | None:
    count = sum(row["skipped"] for row in history.train)
    return {"count": int(count), "s": "" if count == 1 else "s"} if count else None


def _waiting_for_data(history: History) -> Facts | None:
    shares = [row["data_wait"] for row in history.train[-3:]]
    if len(shares) < 3 or history.train[-1]["step"] < 30:
        return None
    return {"share": 100 * statistics.mean(shares)} if min(shares) > 0.2 else None


def _slow_host(history: History) -> Facts | None:
    rows = history.train[-3:]
    if len(rows) < 3 or not all(_has(row, "host_data_wait") for row in rows):
        return None
    waits = [
        statistics.mean(shares) for shares in zip(*(row["host_data_wait"] for row in rows), strict=False)
    ]
    if len(waits) < 2:
        return None
    slowest = max(range(len(waits)), key=waits.__getitem__)
    others = statistics.median(wait for host, wait in enumerate(waits) if host != slowest)
    if waits[slowest] < 0.2 or waits[slowest] < 3 * others:
        return None
    return {"host": slowest, "share": 100 * waits[slowest], "others": 100 * others}


def _loss_risen(history: History) -> Facts | None:
    losses = [row["loss"] for row in history.train if _has(row, "loss")]
    if len(losses) < 10:
        return None
    # Of five rows each: a single one is luck, where the loss depends on what the steps are made of.
    means = [statistics.mean(losses[n : n + 5]) for n in range(len(losses) - 4)]
    now, best = means[-1], min(means)
    noise = statistics.median(abs(a - b) for a, b in itertools.pairwise(losses))
    # A contrastive loss without the pair itself in its denominators may fall below zero.
    return {"now": now, "best": best} if now - best > 0.1 + 0.2 * abs(best) + noise else None


def _overfitting(history: History) -> Facts | None:
    losses = [row["loss"] for row in history.valid if _has(row, "loss")]
    if len(losses) < 4:
        return None
    best = min(losses)
    if min(losses[-3:]) - best <= 0.03 * abs(best):
        return None
    best_step = next(row["step"] for row in history.valid if row.get("loss") == best)
    return {"now": losses[-1], "best": best, "best_step": best_step}


def _has(row: Row, *names: str) -> bool:
    """Whether the row has these metrics, with a number in each (a window of skipped steps has null)."""
    values = [row.get(name) for name in names]
    return all(None not in value if isinstance(value, list) else value is not None for value in values)


CHECKS = (
    Check(
        "no_better_than_chance",
        _no_better_than_chance,
        "after {step} steps the cross-entropy, {found:.3f}, is no better than chance ({chance:.3f}). Raise "
        "optim.peak_lr or shorten optim.warmup_steps; if that does not help, look at the targets: "
        "a Mel-RVQ without training gives codes that nothing can predict.",
    ),
    Check(
        "retrieval_no_better_than_chance",
        _retrieval_no_better_than_chance,
        "after {step} steps a text finds its clip, and a clip its text, among the first ten in {found:.1%} "
        "of cases, no better than chance ({chance:.1%}). See that texts belong to their clips, take more "
        "pairs a step (data.batch_size, optim.accumulate), raise optim.peak_lr, or begin with a MuQ that "
        "was trained longer.",
    ),
    Check(
        "not_below_code_frequencies",
        _not_below_frequencies,
        "after {step} steps the cross-entropy, {found:.3f}, is not below {known:.3f}, what knowing only "
        "the codes' frequencies gives: the model does not use the audio yet. Train longer, raise "
        "optim.peak_lr, or take more clips a step (data.batch_size, optim.accumulate).",
    ),
    Check(
        "unused_codes",
        _unused_codes,
        "book {book} uses {used} of {codes} codes. Train the Mel-RVQ longer or on more varied audio, and "
        "see that the mel statistics are those of the data (model.stat; `prepare` measures them).",
    ),
    Check(
        "useless_book",
        _useless_book,
        "book {book} does not improve the reconstruction (error {before:.4f} before, {after:.4f} after it). "
        "Train longer; if it stays so, lower optim.peak_lr.",
    ),
    Check(
        "gradient_jump",
        _gradient_jump,
        "the gradient norm, {norm:.3g}, is more than ten times its median of {usual:.3g}. If the loss "
        "rises with it, lower optim.peak_lr or lengthen optim.warmup_steps.",
    ),
    Check(
        "skipped_steps",
        _skipped_steps,
        "{count} step{s} gave a loss or gradient that is not finite and changed nothing; nonfinite.jsonl "
        "names the clips. Listen to those that come back; with model.dtype=bfloat16 try float32.",
    ),
    Check(
        "waiting_for_data",
        _waiting_for_data,
        "the data is slower than the device: {share:.0f} % of the time is spent waiting for it. Train "
        "from shards (`python -m muq_jax prepare`), raise data.num_threads or set data.num_workers.",
    ),
    Check(
        "slow_host",
        _slow_host,
        "host {host} waits for its data {share:.0f} % of the time, the others {others:.0f} %: all of them go "
        "at its pace. Look at its disk, its network and what else runs on it.",
    ),
    Check(
        "loss_risen",
        _loss_risen,
        "the loss has risen to {now:.3f} from {best:.3f}. Lower optim.peak_lr, lengthen "
        "optim.warmup_steps or lower optim.clip_norm, and start again from an empty work directory.",
    ),
    Check(
        "overfitting",
        _overfitting,
        "the validation loss has risen to {now:.3f} from {best:.3f} at step {best_step}: the model "
        "learns the training clips by heart. Train on more audio or for fewer steps.",
    ),
)
