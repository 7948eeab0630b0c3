"""Metrics: added up over a window of steps, written as one row of JSON and of TensorBoard."""

import json
import math
import operator
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from muq_jax.objectives.metric import Mean
from muq_jax.quantize.codebook import codebook_health

METRICS_FILE = "metrics.jsonl"

CODE_COUNTS = "code_counts"
"""A metric of this name is a table of counts [Q, V]; it is reported as its codebooks' health."""

HOSTS = "host_"
"""A metric whose name begins so is a list with a number for every host."""

HISTOGRAM = "similarity_"
"""A metric whose name begins so is a list of shares, from the lowest similarity to the highest."""

Row = dict[str, Any]


class Window:
    """Adds up metrics since it was last emptied, on the host and in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, Mean] = {}

    def add(self, metrics: Mapping[str, Mean]) -> None:
        """Adds one batch's metrics, already on the host."""
        new = jax.tree.map(lambda x: np.asarray(x, np.float64), dict(metrics))
        self._sums = jax.tree.map(operator.add, self._sums, new) if self._sums else new

    def pop(self) -> Row:
        """Returns the window's means as numbers and lists of numbers, and empties it."""
        sums, self._sums = self._sums, {}
        row: Row = {}
        for name, (total, weight) in sums.items():
            if name == CODE_COUNTS:
                row |= {
                    f"codes_{key}": value.tolist()
                    for key, value in codebook_health(np.asarray(total)).items()
                }
                row |= {"num_codes": total.shape[-1], "codes_counted": total[0].sum().item()}
                continue
            with np.errstate(invalid="ignore", divide="ignore"):
                row[name] = (total / weight).tolist()
        return row


def json_number(value: Any) -> Any:
    """Returns `value` fit for JSON, which has no NaN and no infinity: those become null."""
    if isinstance(value, Mapping):
        return {key: json_number(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_number(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_row(path: Path, row: Row) -> None:
    """Appends one line; it is on the disk when this returns, so a checkpoint saved later never lacks it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(json_number(row), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a JSON Lines file, without a last line that is unfinished."""
    if not path.exists():
        return []
    rows = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                break  # the rest may have been written by now, and would be taken for a line
            rows.append(json.loads(line))
    return rows


def keep_rows_until(path: Path, step: int) -> list[Row]:
    """Drops what was written after `step` and returns the rest: a resumed run writes those steps again."""
    if not path.exists():
        return []
    rows = [row for row in read_rows(path) if row["step"] <= step]
    kept = path.with_suffix(".tmp")
    kept.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(kept, path)
    return rows


class EventFile:
    """A TensorBoard event file; what is written is on the disk, or its OSError reaches the caller.

    `tensorboardX.SummaryWriter` writes in a thread, which a full disk ends: later rows would wait for ever.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        """Opens a new file; TensorBoard will hide what older ones have of the steps after `step`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Writes the values of a step by their tags."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))

    def close(self) -> None:
        self._writer.close()

    def _write(self, event: Event) -> None:
        self._writer.write_event(event)
        self._writer.flush()


class MetricsWriter:
    """Writes rows to `metrics.jsonl` and TensorBoard event files; hosts but the first only remember them.

    Attributes:
        rows: everything written so far, of earlier starts of the run too.
    """

    def __init__(self, workdir: Path, *, step: int = 0) -> None:
        """Opens the files of a run that goes on after `step`; rows beyond it are dropped."""
        self._path = workdir / METRICS_FILE
        self._writes = jax.process_index() == 0
        self.rows: list[Row] = []
        if self._writes:
            self.rows = keep_rows_until(self._path, step)
            self._events = EventFile(workdir / "tensorboard", step=step)

    def write(self, row: Row) -> None:
        """Writes a row; it must have `split` and `step`."""
        self.rows.append(row)
        if not self._writes:
            return
        append_row(self._path, row)
        scalars: dict[str, float] = {}
        for name, value in row.items():
            values = {name: value}
            if isinstance(value, list):
                values = {f"{name}/{label}": v for label, v in zip(_labels(name, value), value, strict=True)}
            for tag, number in values.items():
                if name not in ("split", "step") and isinstance(number, int | float):
                    scalars[f"{row['split']}/{tag}"] = number
        self._events.write(scalars, row["step"])

    def close(self) -> None:
        if self._writes:
            self._events.close()


def _labels(name: str, values: Sequence[Any]) -> list[str]:
    """What the entries of a list are of: hosts are numbered from 0, as JAX does, codebooks from 1."""
    if name.startswith(HOSTS):
        return [f"host_{number}" for number in range(len(values))]
    if name.startswith(HISTOGRAM):
        return [f"bin_{number}" for number in range(len(values))]
    return [f"book_{number}" for number in range(1, len(values) + 1)]
