"""`probe MODEL --task T --data DIR`, also `--protocol zero_shot`, and `probe MODEL --suite SUITE.json`."""

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muq_jax.cli import DONE, PROGRAM, SOME_FILES_FAILED
from muq_jax.errors import UserError

if TYPE_CHECKING:
    from muq_jax.probe.suite import Entry
    from muq_jax.probe.sweep import Protocol
    from muq_jax.probe.task import Task

EXAMPLE = "python -m muq_jax probe models/muq-large --task gtzan_genre --data ~/GTZAN --out probes/genre"
_CUSTOM, _RETRIEVAL, _ZERO_SHOT = "custom", "retrieval", "zero_shot"
_SEEDS = 5
_LEARNING = ("suite", "seeds", "learning_rates", "layers", "shots", "finetune", "window_seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="+",
        help="a model folder, a work directory or an id on the hub; logmel, cqt (floors); random:PRESET (an "
        "untrained encoder); a folder of ready features. Several stand in one table",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--task", metavar="T", help="a task of MARBLE, such as gtzan_genre, or custom, or retrieval"
    )
    what.add_argument("--suite", metavar="FILE", help="several tasks, as JSON")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="the dataset's folder as published, or MARBLE's JSONL, or tfds:NAME; of a suite, what its "
        "paths are relative to",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where results and page go (default: runs/probe/TASK; by words runs/zero_shot/TASK)",
    )
    parser.add_argument(
        "--protocol",
        default="auto",
        help="v1 or v2, MARBLE's two, or ridge; or zero_shot: labels as words, without learning (default: v1 "
        "where MARBLE has the task in it, else v2)",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help=f"heads that are scored (default: {_SEEDS})")
    parser.add_argument(
        "--learning_rates", type=_floats, metavar="A,B", help="of the sweep, in place of v1's six"
    )
    parser.add_argument(
        "--layers", type=_layers, metavar="A,B", help="of the sweep: numbers and all (default: every)"
    )
    parser.add_argument(
        "--shots",
        type=int,
        metavar="K",
        help="few-shot: train on K clips of every class (of frames, beats, numbers: K in all)",
    )
    parser.add_argument("--finetune", action="store_true", help="train the encoder too (slow; needs a MuQ)")
    parser.add_argument("--name", help="of the model in tables (default: its folder's)")
    parser.add_argument(
        "--cache", metavar="DIR", help="where features are kept (default: the user's cache folder)"
    )
    own = parser.add_argument_group("a task of your own, --task custom")
    own.add_argument(
        "--manifest", metavar="FILE", help="JSON Lines: `path`, `split` (train, val, test), labels"
    )
    own.add_argument("--label", metavar="COLUMN", help="rows where it is null are left out")
    own.add_argument("--kind", help="classification, multilabel, regression, frames or beats")
    own.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="only these rows")
    own.add_argument("--rule", help="read the label by: first, pitch_class, gm_family, chords")
    own.add_argument("--classes", type=_texts, metavar="A,B", help="the vocabulary (default: what occurs)")
    own.add_argument("--metrics", type=_texts, metavar="A,B", help="the first one chooses on validation")
    own.add_argument(
        "--group", metavar="COLUMN", help="may not be in two splits (default: group, if there is one)"
    )
    own.add_argument("--window_seconds", type=float, metavar="S", help="heard at a time (default: 30)")
    words = parser.add_argument_group(
        "by words, --protocol zero_shot (classes, multilabel) and --task retrieval"
    )
    words.add_argument("--split", metavar="S", help="train, val or test: that is heard (default: test)")
    words.add_argument(
        "--prompts", metavar="FILE", help="what labels are read as (default: muq_jax/probe/prompts.json)"
    )
    words.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json, where the model has none")


def run(args: argparse.Namespace) -> int:
    if args.protocol == _ZERO_SHOT or args.task == _RETRIEVAL:
        return _run_zero_shot(args)
    for name in ("split", "prompts", "tokenizer"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} belongs to --protocol {_ZERO_SHOT}")
    from muq_jax.probe.encoders import load_encoder
    from muq_jax.probe.finetune import FineTuning
    from muq_jax.probe.suite import read_results, run_suite
    from muq_jax.probe.sweep import Protocol
    from muq_jax.report.marble import report_probes
    from muq_jax.report.probe_tables import csv_table, latex_table

    if args.name and len(args.model) > 1:
        raise UserError(
            "--name names one model; give the models one command after the other, with the same --out"
        )
    seeds = _SEEDS if args.seeds is None else args.seeds
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; expected at least 1")
    protocol = Protocol(args.protocol, tuple(range(seeds)), args.learning_rates, args.layers, args.shots)
    title, entries = _entries(args, protocol)
    out = Path(args.out or Path("runs", "probe", args.task or Path(args.suite).stem))
    encoders = [partial(load_encoder, model, args.name) for model in args.model]
    command = _command(args)
    finetuning = FineTuning() if args.finetune else None
    cache = cache_folder(args.cache)
    results, new = run_suite(entries, encoders, out, cache, finetuning=finetuning, command=command)
    page = out / "index.html"
    if not new and page.is_file():
        print(f"already done: {page}")
    else:
        every = read_results(out, [entry.task.name for entry in entries])
        report_probes(page, every, title=title, facts={"command": command})
        (out / "table.csv").write_text(csv_table(every), encoding="utf-8")
        (out / "table.tex").write_text(latex_table(every), encoding="utf-8")
        print(f"page: {page}")
    return _told(results, new)


def cache_folder(given: str | None) -> Path:
    """Returns where features are kept: as given, else in the user's cache."""
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "muq_jax" / "features"


def _run_zero_shot(args: argparse.Namespace) -> int:
    from muq_jax.probe import zero_shot
    from muq_jax.probe.datasets.captions import read_captions
    from muq_jax.probe.prompts import read_prompts
    from muq_jax.probe.suite import RESULT, write_json
    from muq_jax.report.zero_shot import report_zero_shot, score_lines

    if args.protocol not in ("auto", _ZERO_SHOT):
        raise UserError(f"--task {_RETRIEVAL} learns nothing; leave out --protocol {args.protocol}")
    for name in _LEARNING:
        if getattr(args, name) not in (None, False):
            raise UserError(f"--{name} does not go with --protocol {_ZERO_SHOT}, where nothing is learned")
    if len(args.model) > 1:
        raise UserError(
            f"{len(args.model)} models; --protocol {_ZERO_SHOT} takes one, with an --out of its own"
        )
    task, counts = None, None
    if args.task == _RETRIEVAL:
        _check_own(args, but={"manifest", "where"})
        for name in ("data", "prompts"):
            if getattr(args, name) is not None:
                raise UserError(
                    f"--{name} does not go with --task {_RETRIEVAL}, which reads --manifest alone"
                )
        if args.manifest is None:
            raise UserError(f"--task {_RETRIEVAL} needs --manifest, with `caption` or `tags` in its rows")
        dataset = read_captions(args.manifest, args.split, _where(args))
        prompts = zero_shot.texts_of(dataset)
    else:
        task, data = _task(args, but={"classes"})
        whole = task.read(data)
        split = args.split or "test"
        counts = zero_shot.train_counts(task, whole, split)
        dataset = zero_shot.select(task, whole, split, args.classes)
        prompts = read_prompts(task.name, dataset.classes, args.prompts and Path(args.prompts))
    encoder = zero_shot.load_mulan(args.model[0], args.name, args.tokenizer)
    out = Path(args.out or Path("runs", _ZERO_SHOT, args.task))
    page = out / "index.html"
    asked = zero_shot.wanted(task, dataset, encoder, prompts, counts)
    if zero_shot.is_done(out / RESULT, asked, dataset) and page.is_file():
        print(f"already done: {page}")
        return DONE
    command = _command(args)
    cache = cache_folder(args.cache)
    found = zero_shot.zero_shot(task, dataset, encoder, prompts, cache, counts=counts, command=command)
    write_json(out / RESULT, found.content)
    report_zero_shot(page, found.content, found.view, facts={"command": command})
    print("\n".join([*score_lines(found.content), f"page: {page}"]))
    return _told([found.content], new=True)


def _told(results: Sequence[Mapping[str, Any]], new: bool) -> int:
    """Prints what is to be known of results beside their scores, and returns the exit status."""
    for problem in dict.fromkeys(problem for result in results for problem in result["problems"]):
        print(f"note: {problem}", file=sys.stderr)
    for result in results:
        if left_out := {why: count for why, count in result["left_out"].items() if count}:
            told = ", ".join(f"{count:,} ({why})" for why, count in left_out.items())
            print(f"note: {result['task']}: left out {told}", file=sys.stderr)
    failed = {id: why for result in results for id, why in result["failures"].items()}
    if failed:
        print(
            f"{len(failed)} clips could not be heard; `failures` of the results lists them", file=sys.stderr
        )
    return SOME_FILES_FAILED if failed and new else DONE


def _entries(args: argparse.Namespace, protocol: "Protocol") -> tuple[str, "list[Entry]"]:
    from muq_jax.probe.suite import Entry, read_suite

    if args.suite:
        _check_own(args)
        suite = read_suite(args.suite, protocol, args.data)
        return suite.name, list(suite.entries)
    task, data = _task(args)
    title = f"{task.title} of {data}" if args.task == _CUSTOM else task.title
    return title, [Entry(task, data, protocol)]


def _task(args: argparse.Namespace, but: Collection[str] = ()) -> "tuple[Task, str]":
    """The task, and the folder or manifest that it reads; arguments named in `but` are left to the caller."""
    from muq_jax.probe.datasets.custom import custom_task
    from muq_jax.probe.tasks import find_task

    if args.task != _CUSTOM:
        _check_own(args)
        task = find_task(args.task)
        if args.data is None:
            raise UserError(f"{task.name} needs --data, the folder of its dataset. {task.source}")
        return task, args.data
    given = {name: value for name, value in _own(args).items() if name not in but}
    for name in ("manifest", "label", "kind"):
        if name not in given:
            raise UserError(f"--task custom needs --{name}")
    given.pop("where", None)
    manifest, label, kind = (given.pop(name) for name in ("manifest", "label", "kind"))
    task = custom_task(manifest, label, kind, where=_where(args), **given)
    return dataclasses.replace(task, title=label), manifest


def _where(args: argparse.Namespace) -> dict[str, str]:
    """The conditions that rows of a manifest have to meet, by column."""
    where = {}
    for condition in args.where:
        column, equals, value = condition.partition("=")
        if not equals or not column:
            raise UserError(f"--where is {condition!r}; expected COLUMN=VALUE")
        where[column] = value
    return where


def _own(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a task of one's own that are given."""
    names = ("manifest", "label", "kind", "rule", "classes", "metrics", "group", "window_seconds", "where")
    return {name: getattr(args, name) for name in names if getattr(args, name) not in (None, [])}


def _check_own(args: argparse.Namespace, but: Collection[str] = ()) -> None:
    """Refuses arguments of a task of one's own, but those named."""
    given = [name for name in _own(args) if name not in but]
    if given:
        raise UserError(f"--{given[0]} belongs to --task {_CUSTOM}")


def _command(args: argparse.Namespace) -> str:
    return f"{PROGRAM} {shlex.join(args.words)}"


def _floats(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 1e-3,5e-3") from None


def _layers(text: str) -> "tuple[int | str, ...]":
    try:
        return tuple("all" if part == "all" else int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of layers such as 0,6,all") from None


def _texts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
