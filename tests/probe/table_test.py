import dataclasses
import hashlib
import json
from functools import partial

import numpy as np
import pytest

from muq_jax.probe.run import run_task
from muq_jax.probe.sweep import Protocol
from muq_jax.probe.table import MOST_FREQUENT, UNTRAINED, layer_rows, markdown_table, table_rows
from muq_jax.probe.task import Dataset, Item, Task

COLUMNS = "task encoder layer metric value low high num_train num_val num_test seeds".split()
KEYS, INSTRUMENTS = ("A:min", "C:maj", "F:maj", "G:maj"), ("piano", "violin")
METRICS = {"key": ("accuracy", "weighted_key_score"), "instrument": ("accuracy",)}
THREE = Protocol("ridge", seeds=(0, 1, 2))


class Stub:
    """Two layers of noise; of an encoder that knows, the second holds what the wave's first samples say."""

    standardise, pools_frames, batch_size, frame_rate_hz = False, False, 8, None

    def __init__(self, name, knows):
        self.name, self._knows = name, knows
        self.digest = hashlib.sha256(name.encode()).hexdigest()

    def pooled(self, waves, num_samples):
        rows = []
        for number, key, instrument in waves[:, :3].astype(int):
            row = np.random.default_rng([number, self._knows]).normal(size=(2, 12))
            if self._knows:
                row[1, key] += 2.5
                row[1, 4] += 2.5 * instrument
            rows.append(row)
        return np.stack(rows).astype(np.float32)

    def frames(self, waves, num_samples):
        raise AssertionError("the tasks need none")


def wave(*says):
    """A quarter of a second that says what it is."""
    return np.pad(np.array(says, np.float32), (0, 6000 - len(says)))


def corpus(num_items=200):
    """Clips with a key and an instrument, one in ten without a key: a task and its dataset each."""
    rng = np.random.default_rng(0)
    items = {"key": [], "instrument": []}
    for i in range(num_items):
        key, instrument = int(rng.integers(4)), int(rng.random() > 0.7)
        item = Item(
            str(i),
            ("train", "train", "train", "val", "test")[i % 5],
            INSTRUMENTS[instrument],
            partial(wave, i, key, instrument),
        )
        items["instrument"].append(item)
        if i % 10 != 3:
            items["key"].append(dataclasses.replace(item, label=KEYS[key]))
    return [
        (
            Task(name, name, "classification", METRICS[name], lambda data: None),
            Dataset(items[name], classes),
        )
        for name, classes in (("key", KEYS), ("instrument", INSTRUMENTS))
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    cache = tmp_path_factory.mktemp("features")
    return [
        run_task(task, dataset, encoder, THREE, cache)
        for task, dataset in corpus()
        for encoder in (Stub(UNTRAINED, knows=False), Stub("trained", knows=True))
    ]


def find(rows, **wanted):
    found = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, found)
    return found[0]


def test_a_planted_answer_is_found_and_noise_is_not(results):
    """The synthetic task with a known answer that proves the harness."""
    rows = table_rows(results)
    assert all(list(row) == COLUMNS for row in rows)
    assert json.loads(json.dumps(rows)) == rows, "they can be written as they are"
    trained = find(rows, task="key", encoder="trained", metric="accuracy")
    assert trained["value"] > 0.8 and trained["layer"] == 1 and trained["seeds"] == 3
    assert trained["low"] < trained["value"] < trained["high"]
    untrained = find(rows, task="key", encoder=UNTRAINED, metric="accuracy")
    assert untrained["value"] < 0.5
    difference = find(rows, task="key", encoder="trained", metric="accuracy minus untrained")
    assert difference["low"] > 0.2
    assert difference["value"] == pytest.approx(trained["value"] - untrained["value"], abs=2e-4)
    mean = find(rows, task="mean", encoder="trained", metric="mean of tasks minus untrained")
    assert mean["low"] > 0.2 and mean["layer"] is None


def test_values_are_those_of_the_results(results):
    rows = table_rows(results)
    for result in results:
        content = result.content
        for metric, value in content["test"].items():
            row = find(rows, task=content["task"], encoder=content["encoder"], metric=metric)
            assert row["value"] == pytest.approx(value, abs=1e-4)
            np.testing.assert_allclose((row["low"], row["high"]), content["interval"][metric], atol=1e-4)
    values = [row["value"] for row in rows if row["encoder"] == "trained" and row["metric"] == "accuracy"]
    mean = find(rows, task="mean", encoder="trained", metric="mean of tasks")
    assert len(values) == 2 and mean["value"] == pytest.approx(np.mean(values), abs=1e-4)


def test_clips_without_a_label_are_left_out_of_that_task_only(results):
    rows = table_rows(results)
    key, instrument, mean = (
        find(rows, task=task, encoder="trained", metric=metric)
        for task, metric in (("key", "accuracy"), ("instrument", "accuracy"), ("mean", "mean of tasks"))
    )
    assert (instrument["num_train"], instrument["num_val"], instrument["num_test"]) == (120, 40, 40)
    assert (key["num_train"], key["num_val"], key["num_test"]) == (120, 20, 40)
    assert (mean["num_train"], mean["num_val"], mean["num_test"]) == (240, 60, 80)


def test_the_most_frequent_class_is_that_of_the_training_split(results):
    rows = table_rows(results)
    row = find(rows, task="instrument", encoder=MOST_FREQUENT, metric="accuracy")
    (_, _), (_, dataset) = corpus()
    test = [item.label for item in dataset.items if item.split == "test"]
    assert row["value"] == pytest.approx(test.count("piano") / len(test), abs=1e-4)
    assert row["layer"] is None and row["seeds"] == 1
    for task in ("key", "instrument", "mean"):
        assert next(row for row in rows if row["task"] == task)["encoder"] == MOST_FREQUENT
    assert not [r for r in rows if r["encoder"] == MOST_FREQUENT and r["metric"].endswith("untrained")]


def test_the_key_score_is_at_least_the_accuracy(results):
    rows = table_rows(results)
    for encoder in ("trained", UNTRAINED, MOST_FREQUENT):
        score, accuracy = (
            find(rows, task="key", encoder=encoder, metric=m)["value"]
            for m in ("weighted_key_score", "accuracy")
        )
        assert score >= accuracy


def test_the_table_has_a_line_a_metric_and_no_differences(results):
    lines = markdown_table(table_rows(results)).splitlines()
    assert lines[0] == "| task | metric | test items | most frequent class | untrained | trained |"
    assert [line.split("|")[1:3] for line in lines[2:]] == [
        [" key ", " accuracy "],
        [" key ", " weighted key score "],
        [" instrument ", " accuracy "],
        [" mean ", " mean of tasks "],
    ]
    assert "layer 1" in lines[2]


def test_the_order_of_the_results_does_not_part_a_task_s_rows(results):
    by_encoder = sorted(results, key=lambda result: result.content["encoder"], reverse=True)
    assert [r.content["encoder"] for r in by_encoder[:2]] == [UNTRAINED, UNTRAINED]
    assert table_rows(by_encoder) == table_rows(results)


def test_every_single_layer_has_a_validation_score(results):
    rows = [row for row in layer_rows(results) if (row["task"], row["encoder"]) == ("key", "trained")]
    assert [(row["layer"], row["metric"]) for row in rows] == [(0, "accuracy"), (1, "accuracy")]
    assert rows[1]["validation"] > rows[0]["validation"]
    (content,) = (
        r.content for r in results if (r.content["task"], r.content["encoder"]) == ("key", "trained")
    )
    with_all = dataclasses.replace(
        results[0],
        content={**content, "validation_by_layer": {**content["validation_by_layer"], "all": 1.0}},
    )
    assert layer_rows([with_all]) == rows, "all layers together are not one of them"


def changed(result, **content):
    return dataclasses.replace(result, content={**result.content, **content})


def test_scores_of_other_items_are_not_paired(results):
    untrained, trained = results[:2]
    rows = table_rows([untrained, changed(trained, split_sha256="of other clips")])
    assert {row["metric"] for row in rows} == {"accuracy", "weighted_key_score"}


def test_an_encoder_that_lacks_a_task_has_no_mean(results):
    rows = table_rows(results[:3])
    assert {row["encoder"] for row in rows if row["task"] == "mean"} == {MOST_FREQUENT, UNTRAINED}


def test_a_metric_that_is_no_mean_over_items_has_no_row(results):
    tagged = dataclasses.replace(
        changed(results[2], kind="multilabel", test={"roc_auc": 0.7}), item_scores={}, baseline_items={}
    )
    rows = table_rows([*results[:2], tagged])
    assert {row["task"] for row in rows} == {"key"}, "nor is there a mean over the one task that is left"
