"""Several tasks for several encoders, and a folder that holds what came out.

    OUT/result.json            the result of this command; {"results": [...]} where there are several
    OUT/results/ENCODER/TASK-PROTOCOL.json
    OUT/index.html             the page, OUT/table.csv and OUT/table.tex: of all results in OUT

A task whose result is there already is not run again, so that a suite that was stopped goes on.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from muq_jax.errors import UserError
from muq_jax.probe.checks import check_dataset
from muq_jax.probe.datasets.custom import custom_task
from muq_jax.probe.datasets.tfds import is_tfds
from muq_jax.probe.encoders import CQT, LOG_MEL, RANDOM, Encoder, MuQEncoder
from muq_jax.probe.finetune import FineTuning
from muq_jax.probe.ready import ReadyFeatures
from muq_jax.probe.run import asked, finetune_task, run_task, split_sha256
from muq_jax.probe.sweep import ALL_LAYERS, Protocol, why_not
from muq_jax.probe.task import FRAME_KINDS, Dataset, Task
from muq_jax.probe.tasks import find_task

RESULT, RESULTS = "result.json", "results"

_CUSTOM_FIELDS = {
    *("manifest", "label", "kind", "where", "rule", "classes", "metrics", "group", "window_seconds"),
}
_FIELDS = {"name", "title", "task", "data", "learning_rates", "layers", *_CUSTOM_FIELDS}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One task of a suite, where its data is, and the protocol it is run by."""

    task: Task
    data: str
    protocol: Protocol


@dataclasses.dataclass(frozen=True)
class Suite:
    """Tasks under a name."""

    name: str
    entries: tuple[Entry, ...]


def read_suite(path: str | os.PathLike[str], protocol: Protocol, data: str | None = None) -> Suite:
    """Reads a suite's file.

        {"name": "real music", "data": "FOLDER",
         "tasks": [{"name": "key", "manifest": "clips.jsonl", "label": "key", "kind": "classification"},
                   {"task": "gtzan_genre", "data": "GTZAN"}]}

    A task is a published one (`task`) or a column of a manifest, with the arguments of `custom_task`; both
    may narrow the sweep by `learning_rates` and `layers`. Paths are relative to `data`, and that to the file.

    Args:
        path: the file.
        protocol: of every task.
        data: in place of the file's.

    Raises:
        UserError: no such file, or one that is not as described.
    """
    path = Path(path)
    content = _read(path)
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), list) or not content["tasks"]:
        raise UserError(
            f'{path}: expected an object with "tasks", a list of objects; see the help of `probe`'
        )
    root = Path(data) if data is not None else path.parent / str(content.get("data", ""))
    entries = []
    for number, row in enumerate(content["tasks"], start=1):
        where = f"{path}, task {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: a JSON {type(row).__name__}; expected an object")
        unknown = sorted(set(row) - _FIELDS)
        if unknown:
            raise UserError(
                f"{where}: unknown field {unknown[0]!r}; expected some of {', '.join(sorted(_FIELDS))}"
            )
        entries.append(_entry(row, root, protocol, where))
    names = [entry.task.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two tasks are called {name!r}; give each a `name` of its own")
    return Suite(str(content.get("name", path.stem)), tuple(entries))


def run_suite(
    entries: Sequence[Entry],
    encoders: Sequence[Callable[[], Encoder | ReadyFeatures]],
    out: Path,
    cache: Path,
    *,
    finetuning: FineTuning | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> tuple[list[dict[str, Any]], bool]:
    """Runs what is not done yet.

    Args:
        entries: the tasks.
        encoders: what is probed; loaded once the data of all tasks is there.
        out: the folder of results.
        cache: the folder of all features.
        finetuning: how the encoders are trained further; None leaves them as they are.
        command: recorded in the results.
        say: prints a line.

    Returns:
        the results, encoder by encoder, and whether any of them is new.

    Raises:
        UserError: a task cannot be run, or the folder holds a result without learning; results that are done
            stay.
    """
    _check_folder(out)
    datasets = [entry.task.read(entry.data) for entry in entries]
    for entry, dataset in zip(entries, datasets, strict=True):  # before a model is loaded
        check_dataset(dataset, entry.task.kind, entry.task.name, own=entry.task.counts is None)
    # The features of frames serve tasks of whole clips, too; the other way round they would be made twice.
    order = sorted(range(len(entries)), key=lambda i: entries[i].task.kind not in FRAME_KINDS)
    results, anything_new = [], False
    for load in encoders:
        encoder = load()
        found: dict[int, dict[str, Any]] = {}
        for i in order:
            entry, dataset = entries[i], datasets[i]
            mode = "frozen" if finetuning is None else "finetune"
            reason = _why_not(entry, encoder, mode)
            if reason is not None and len(entries) == 1:
                raise UserError(reason)
            if reason is not None:
                say(f"{entry.task.name}, {encoder.name}: left out: {reason}")
                continue
            path = out / RESULTS / slug(encoder.name) / _file_name(entry, mode)
            done = _done(path, entry, dataset, encoder, mode)
            if done is None:
                what = (entry.task, dataset, encoder, entry.protocol)
                if finetuning is None:
                    result = run_task(*what, cache, command=command).content
                else:
                    result = finetune_task(*what, finetuning, command=command).content
                write_json(path, result)
                anything_new = True
            else:
                result = done
            say(line_of(result) + ("" if done is None else " (done before)"))
            found[i] = result
        results += [found[i] for i in sorted(found)]
    if not results:
        raise UserError("no task of the suite can be run so; the lines above say why")
    write_json(out / RESULT, results[0] if len(results) == 1 else {"results": results})
    return results, anything_new


def _check_folder(out: Path) -> None:
    """Raises UserError if another protocol's one result lies where this writes."""
    path = out / RESULT
    if path.is_file() and "prompts_sha256" in _read(path):
        raise UserError(f"{path}: holds a result of --protocol zero_shot; give another --out")


def read_results(out: Path, tasks: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns all results in a folder: models first, then untrained ones, then floors.

    Args:
        out: the folder.
        tasks: in this order, others after them by name.
    """
    found = [_read(path) for path in sorted((out / RESULTS).glob("*/*.json"))]
    place = {name: i for i, name in enumerate(tasks)}

    def order(result: dict[str, Any]) -> tuple[int, str, int]:
        name = result["encoder"]
        rank = 2 if name in (LOG_MEL, CQT) else 1 if name.startswith(RANDOM) else 0
        return (rank, name, place.get(result["task"], len(place)))

    return sorted(found, key=order)


def line_of(result: Mapping[str, Any]) -> str:
    """One line for a person: `key, tiny: accuracy 0.520 +- 0.011 (layer 3, test 63)`."""
    scores = ", ".join(
        f"{metric} {value:.3f} ± {result['spread'][metric]:.3f}" for metric, value in result["test"].items()
    )
    layer = "all layers" if result["layer"] == ALL_LAYERS else f"layer {result['layer']}"
    rate = "" if result["learning_rate"] is None else f", rate {result['learning_rate']:g}"
    return f"{result['task']}, {result['encoder']}: {scores} ({layer}{rate}, {result['num_test']} test items)"


def write_json(path: Path, content: Any) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    # Escapes, because ids of files need not be in UTF-8.
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def slug(name: str) -> str:
    """A name as a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


def _entry(row: Mapping[str, Any], root: Path, protocol: Protocol, where: str) -> Entry:
    custom = {name: row[name] for name in _CUSTOM_FIELDS if name in row}
    if ("task" in row) == ("manifest" in row):
        raise UserError(
            f"{where}: expected either `task`, a published one, or `manifest`, a file of your own"
        )
    try:
        rates = (
            tuple(map(float, row["learning_rates"])) if "learning_rates" in row else protocol.learning_rates
        )
        layers = tuple(row["layers"]) if "layers" in row else protocol.layers
    except (TypeError, ValueError):
        raise UserError(f"{where}: `learning_rates` and `layers` are lists of numbers") from None
    if protocol.name == "ridge":
        rates = layers = None
    narrowed = dataclasses.replace(protocol, learning_rates=rates, layers=layers)
    if "task" in row:
        if custom:
            raise UserError(
                f"{where}: {', '.join(custom)} belong to a manifest of your own, not to {row['task']}"
            )
        task = find_task(str(row["task"]))
        data = str(row.get("data", ""))
        return Entry(task, data if is_tfds(data) else str(root / data), narrowed)
    missing = [name for name in ("label", "kind") if name not in row]
    if missing:
        raise UserError(f"{where}: lacks `{missing[0]}`")
    manifest = root / str(custom.pop("manifest"))
    task = custom_task(
        manifest, custom.pop("label"), custom.pop("kind"), name=str(row.get("name", "custom")), **custom
    )
    task = dataclasses.replace(task, title=str(row.get("title", task.title)))
    return Entry(task, str(manifest), narrowed)


def _file_name(entry: Entry, mode: str) -> str:
    """Says what tells results of one task and encoder apart that stand in one folder."""
    protocol, shots = entry.protocol.of(entry.task), entry.protocol.shots
    parts = [entry.task.name, protocol.name, *([mode] * (mode != "frozen"))]
    return slug("-".join([*parts, *([f"{shots}-shots"] if shots else [])])) + ".json"


def _why_not(entry: Entry, encoder: Encoder | ReadyFeatures, mode: str) -> str | None:
    if mode == "finetune" and not isinstance(encoder, MuQEncoder):
        return f"{encoder.name}: only a MuQ or a MusicFM can be trained further"
    if entry.task.kind in FRAME_KINDS and encoder.frame_rate_hz is None:
        return f"{encoder.name} gives one vector a clip; {entry.task.name} needs one a frame"
    return why_not(entry.task, entry.protocol.of(entry.task))


def _done(
    path: Path, entry: Entry, dataset: Dataset, encoder: Encoder | ReadyFeatures, mode: str
) -> dict[str, Any] | None:
    """The result that lies there, if it is of this task, encoder and protocol."""
    if not path.is_file():
        return None
    found = _read(path)
    wanted = {
        "features_sha256": encoder.digest,
        "classes": list(dataset.classes),
        "mode": mode,
        **asked(entry.task, entry.protocol.of(entry.task)),
    }
    unheard = found.get("failures") or {}
    wanted["split_sha256"] = split_sha256([item for item in dataset.items if item.id not in unheard])
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"{path}: holds a result whose {name} is {found.get(name)!r}; this command's is {value!r}. "
                "Give another --out, or another --name for the encoder"
            )
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
