import contextlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from muq_jax.objectives.metric import Mean
from muq_jax.train.metrics import (
    MetricsWriter,
    Window,
    append_row,
    json_number,
    keep_rows_until,
    read_rows,
)


def test_window_means_are_weighted():
    window = Window()
    window.add(
        {"loss": Mean(np.float32(6.0), np.float32(2.0)), "books": Mean(np.array([1.0, 2.0]), np.array(1.0))}
    )
    window.add(
        {"loss": Mean(np.float32(1.0), np.float32(6.0)), "books": Mean(np.array([3.0, 4.0]), np.array(3.0))}
    )
    assert window.pop() == {"loss": 7.0 / 8.0, "books": [1.0, 1.5]}
    assert window.pop() == {}


def test_a_window_of_nothing_but_skipped_steps_has_no_number():
    window = Window()
    window.add({"loss": Mean(np.float32(0), np.float32(0))})
    assert json_number(window.pop()) == {"loss": None}


def test_sums_of_many_small_steps_keep_their_digits():
    window = Window()
    for _ in range(10_000):
        window.add({"loss": Mean(np.float32(0.1), np.float32(1.0))})
    assert window.pop()["loss"] == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_code_counts_become_the_books_health():
    counts = np.array([[4.0, 4.0, 0.0, 0.0], [8.0, 0.0, 0.0, 0.0]])
    window = Window()
    window.add({"code_counts": Mean(counts, np.float32(8.0))})
    row = window.pop()
    assert row["codes_used"] == [2, 1]
    assert row["codes_perplexity"] == pytest.approx([2.0, 1.0])
    assert row["codes_entropy"] == pytest.approx([np.log(2), 0.0])
    assert (row["num_codes"], row["codes_counted"]) == (4, 8.0)


def test_json_has_no_nan():
    row = {"a": float("nan"), "b": [np.float32("inf"), 1.5], "c": {"d": np.int64(3)}, "e": "x"}
    assert json_number(row) == {"a": None, "b": [None, 1.5], "c": {"d": 3}, "e": "x"}


def test_a_line_that_is_being_written_does_not_count(monkeypatch):
    """Read to the end of the file, it is half there; the next look finds the other half."""
    lines = iter(['{"step": 1}\n', '{"st', 'ep": 2}\n'])
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "open", lambda path, **_: contextlib.nullcontext(lines))
    assert read_rows(Path("metrics.jsonl")) == [{"step": 1}]


def test_a_line_cut_off_does_not_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_rows(path) == [{"step": 1}]
    assert keep_rows_until(path, 5) == [{"step": 1}]
    append_row(path, {"step": 2})
    assert read_rows(path) == [{"step": 1}, {"step": 2}]


def test_rows_of_steps_to_be_repeated_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(1, 6):
        append_row(path, {"step": step})
    assert keep_rows_until(path, 3) == read_rows(path) == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert keep_rows_until(tmp_path / "none.jsonl", 3) == []
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def scalars(folder):
    """Returns {tag: {step: value}} of all event files, reading the records by their own framing."""
    found = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_rows_reach_both_files(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(
        {"split": "train", "step": 3, "loss": 2.5, "ce": [1.0, 3.0], "note": "x", "gap": float("nan")}
    )
    writer.write({"split": "valid", "step": 3, "loss": 2.0})
    writer.close()
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first == {"split": "train", "step": 3, "loss": 2.5, "ce": [1.0, 3.0], "note": "x", "gap": None}
    assert second["split"] == "valid"
    events = scalars(tmp_path / "tensorboard")
    assert events["train/loss"] == {3: 2.5} and events["valid/loss"] == {3: 2.0}
    assert events["train/ce/book_1"] == {3: 1.0} and events["train/ce/book_2"] == {3: 3.0}
    assert "train/step" not in events


def test_a_full_disk_reaches_the_caller(tmp_path):
    """A limit on the size of files makes the event file's own write fail: its rows are longer than JSON's."""
    program = f"""
        import resource
        from pathlib import Path
        from muq_jax.train.metrics import MetricsWriter
        writer = MetricsWriter(Path({str(tmp_path)!r}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        row = {{f"metric_{{i}}": float(i) for i in range(20)}}
        try:
            for step in range(1, 1000):
                writer.write({{"split": "train", "step": step, **row}})
        except OSError as error:
            print("raised at step", step, Path(writer._path).stat().st_size < 10_000)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith("raised at step") and done.stdout.endswith("True\n"), done.stdout


def test_a_resumed_writer_remembers_what_came_before(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write({"split": "train", "step": step, "loss": 1.0})
    writer.close()
    resumed = MetricsWriter(tmp_path, step=2)
    assert [row["step"] for row in resumed.rows] == [1, 2]
    resumed.close()
