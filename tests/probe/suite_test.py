import dataclasses
import json

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.suite import Entry, read_suite, run_suite, write_json
from muq_jax.probe.sweep import Protocol
from muq_jax.probe.task import Dataset
from tests.probe import planted
from tests.probe.planted import Hearing, task_of

FAST = Protocol("v1", seeds=(0,), learning_rates=(5e-3,))


def entries(protocol=FAST, count=50):
    found = []
    for name in ("one", "two"):
        dataset = Dataset(planted.classification(count), planted.NAMES)
        task = dataclasses.replace(
            task_of("classification", ("accuracy",)), name=name, read=lambda data, dataset=dataset: dataset
        )
        found.append(Entry(task, "", protocol))
    return found


def run(out, cache, encoder=None, protocol=FAST, count=50):
    lines = []
    results, new = run_suite(
        entries(protocol, count), [lambda: encoder or Hearing()], out, cache, say=lines.append
    )
    return results, new, lines


def test_a_suite_goes_on_where_it_was_stopped_and_hears_a_clip_once(tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    encoder = Hearing()
    results, new, lines = run(out, cache, encoder)
    assert new and [r["task"] for r in results] == ["one", "two"]
    # 50 clips in batches of 4, once for both tasks.
    assert encoder.calls == 13
    assert lines[0].startswith("one, hearing: accuracy 1.000") and "(done before)" not in "".join(lines)
    whole = json.loads((out / "result.json").read_text())
    assert whole == {"results": results}
    (out / "results/hearing/two-v1.json").unlink()
    again, new, lines = run(out, cache)
    assert new and "(done before)" in lines[0] and "(done before)" not in lines[1]
    strip = lambda r: {k: v for k, v in r.items() if k != "seconds"}  # noqa: E731
    assert [strip(r) for r in again] == [strip(r) for r in results]
    assert run(out, cache)[1] is False


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoder": Hearing(hears=False)}, "features_sha256"),
        ({"protocol": dataclasses.replace(FAST, seeds=(0, 1))}, "seeds"),
        ({"protocol": dataclasses.replace(FAST, learning_rates=(1e-3,))}, "swept_learning_rates"),
        ({"protocol": dataclasses.replace(FAST, layers=(0,))}, "swept_layers"),
        ({"count": 60}, "split_sha256"),
    ],
)
def test_results_of_something_else_are_left_alone(changes, says, tmp_path):
    run(tmp_path / "out", tmp_path / "cache")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json")}
    with pytest.raises(UserError, match=f"{says}.*Give another --out, or another --name"):
        run(tmp_path / "out", tmp_path / "cache", **changes)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json")} == before


def test_a_result_without_learning_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/result.json").write_text('{"task": "key", "prompts_sha256": "0"}')
    with pytest.raises(UserError, match=r"holds a result of --protocol zero_shot; give another --out"):
        run(tmp_path / "out", tmp_path / "cache")
    assert "prompts_sha256" in (tmp_path / "out/result.json").read_text()


def test_data_are_checked_before_a_model_is_loaded(tmp_path):
    (entry, other) = entries()
    items = [dataclasses.replace(i, label="nonsense") for i in planted.classification(50)]
    bad = dataclasses.replace(other.task, read=lambda data: Dataset(items, planted.NAMES))

    def load():
        raise AssertionError("the data come first")

    with pytest.raises(UserError, match="two: clip 'clip-0' has the label 'nonsense'"):
        run_suite([entry, dataclasses.replace(other, task=bad)], [load], tmp_path, tmp_path)


SUITE = {
    "name": "mine",
    "data": "music",
    "tasks": [
        {
            **{"name": "key", "title": "Key", "manifest": "clips.jsonl", "label": "key"},
            **{"kind": "classification", "metrics": ["weighted_key_score"], "window_seconds": 5},
            **{"learning_rates": [0.001], "layers": [0, "all"]},
        },
        {"task": "GTZANGenre", "data": "GTZAN"},
    ],
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_suite_s_file(tmp_path):
    suite = read_suite(write(tmp_path / "suite.json", SUITE), Protocol(seeds=(0,)))
    own, published = suite.entries
    assert suite.name == "mine" and own.data == str(tmp_path / "music/clips.jsonl")
    assert own.task.title == "Key" and own.task.v1.window_seconds == 5
    assert own.protocol.learning_rates == (0.001,) and own.protocol.layers == (0, "all")
    assert published.task.name == "gtzan_genre" and published.data == str(tmp_path / "music/GTZAN")
    assert published.protocol == Protocol(seeds=(0,))
    moved = read_suite(tmp_path / "suite.json", Protocol(), str(tmp_path / "elsewhere"))
    assert moved.entries[0].data == str(tmp_path / "elsewhere/clips.jsonl")


TASK = {"manifest": "m", "label": "key", "kind": "classification"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("{", "not JSON"),
        ([], 'expected an object with "tasks"'),
        ({"tasks": []}, 'expected an object with "tasks"'),
        ({"tasks": ["key"]}, "task 1: a JSON str"),
        ({"tasks": [{"task": "gtzan_gnre"}]}, "did you mean gtzan_genre"),
        ({"tasks": [{"name": "x"}]}, "task 1: expected either `task`"),
        ({"tasks": [{"task": "gtzan_genre", **TASK}]}, "task 1: expected either `task`"),
        ({"tasks": [{"task": "gtzan_genre", "label": "x"}]}, "label belong to a manifest"),
        ({"tasks": [{"manifest": "m", "label": "key"}]}, "task 1: lacks `kind`"),
        ({"tasks": [{**TASK, "kind": "guess"}]}, "no kind 'guess'"),
        ({"tasks": [{**TASK, "lable": "x"}]}, "unknown field 'lable'"),
        ({"tasks": [{**TASK, "learning_rates": "fast"}]}, "lists of numbers"),
        ({"tasks": [TASK, TASK]}, "two tasks are called 'custom'"),
    ],
)
def test_a_suite_s_file_that_is_none(content, says, tmp_path):
    path = tmp_path / "suite.json"
    if content is not None:
        write(path, content)
    with pytest.raises(UserError, match=says):
        read_suite(path, Protocol())


def test_tasks_that_a_protocol_or_an_encoder_cannot_do_are_left_out_and_said(tmp_path):
    class Deaf(Hearing):
        frame_rate_hz = None

    first, second = entries()
    frames = dataclasses.replace(second.task, kind="frames", metrics=("frame_accuracy",))
    items = [dataclasses.replace(i, label=((0.0, 1.0, i.label),)) for i in planted.classification(50)]
    frames = dataclasses.replace(frames, read=lambda data: Dataset(items, planted.NAMES))
    both = [first, dataclasses.replace(second, task=frames)]
    lines = []
    results, _ = run_suite(both, [Deaf], tmp_path / "a", tmp_path, say=lines.append)
    assert [r["task"] for r in results] == ["one"]
    assert any("two, hearing: left out: hearing gives one vector a clip" in line for line in lines)
    ridge = [dataclasses.replace(entry, protocol=Protocol("ridge", seeds=(0,))) for entry in both]
    results, _ = run_suite(ridge, [Hearing], tmp_path / "b", tmp_path, say=lines.append)
    assert [r["task"] for r in results] == ["one"] and "the ridge is a classifier" in lines[-2]
    with pytest.raises(UserError, match="gives one vector a clip"):
        run_suite(both[1:], [Deaf], tmp_path / "c", tmp_path, say=lines.append)


def test_ids_of_files_that_are_not_in_utf8_are_written(tmp_path):
    content = {"failures": {b"caf\xe9.wav".decode(errors="surrogateescape"): "no such file"}}
    write_json(tmp_path / "result.json", content)
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == content
