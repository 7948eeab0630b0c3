import json

import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.probe.features import LabelledClip
from muq_jax.probe.run import MOST_FREQUENT, UNTRAINED, Task, run_task
from muq_jax.probe.table import markdown_table, save_results, table_rows

COLUMNS = "task encoder layer metric value low high num_train num_val num_test seeds".split()


def never_loaded() -> np.ndarray:
    raise AssertionError("the probe has features: it needs no audio")


def corpus(num_items: int = 200, seed: int = 0):
    """Clips with a key and an instrument, one in ten without a key; features that know a lot, and noise."""
    rng = np.random.default_rng(seed)
    keys = np.array(["C:maj", "G:maj", "A:min", "F:maj"])[rng.integers(4, size=num_items)]
    instruments = np.where(rng.random(num_items) < 0.7, "piano", "violin")
    splits = np.array(["train", "train", "train", "val", "test"])[np.arange(num_items) % 5]
    clips = [
        LabelledClip(
            str(i),
            str(splits[i]),
            {"key": None if i % 10 == 3 else str(keys[i]), "instrument": str(instruments[i])},
            never_loaded,
        )
        for i in range(num_items)
    ]
    known = np.stack([keys == k for k in np.unique(keys)] + [instruments == "piano"], axis=1).astype(float)
    noise = rng.normal(size=(2, num_items, 12))
    knowing = noise.copy()
    knowing[1, :, :5] += 4 * known
    return clips, {UNTRAINED: [noise, rng.normal(size=noise.shape)], "trained": [knowing]}


@pytest.fixture(scope="module")
def results():
    clips, features = corpus()
    key = run_task(Task("key", "key", ("accuracy", "weighted key score")), clips, features)
    return key + run_task(Task("instrument", "instrument"), clips, features)


def find(rows, **wanted):
    found = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, found)
    return found[0]


def test_a_planted_answer_is_found_and_noise_is_not(results):
    """The synthetic task with a known answer that proves the harness."""
    rows = table_rows(results)
    assert all(list(row) == COLUMNS for row in rows)
    trained = find(rows, task="key", encoder="trained", metric="accuracy")
    assert trained["value"] > 0.8 and trained["layer"] == 1
    assert trained["low"] < trained["value"] < trained["high"]
    untrained = find(rows, task="key", encoder=UNTRAINED, metric="accuracy")
    assert untrained["value"] < 0.5
    difference = find(rows, task="key", encoder="trained", metric="accuracy minus untrained")
    assert difference["low"] > 0.2
    assert difference["value"] == pytest.approx(trained["value"] - untrained["value"], abs=2e-4)
    mean = find(rows, task="mean", encoder="trained", metric="mean of tasks minus untrained")
    assert mean["low"] > 0.2 and mean["layer"] is None


def test_clips_without_a_label_are_left_out_of_that_task_only(results):
    rows = table_rows(results)
    key, instrument = (
        find(rows, task=t, encoder="trained", metric="accuracy") for t in ("key", "instrument")
    )
    assert (instrument["num_train"], instrument["num_val"], instrument["num_test"]) == (120, 40, 40)
    assert (key["num_train"], key["num_val"], key["num_test"]) == (120, 20, 40)


def test_the_most_frequent_class_is_that_of_the_training_split(results):
    row = find(table_rows(results), task="instrument", encoder=MOST_FREQUENT, metric="accuracy")
    clips, _ = corpus()
    test = [clip.labels["instrument"] for clip in clips if clip.split == "test"]
    assert row["value"] == pytest.approx(test.count("piano") / len(test), abs=1e-4)
    assert row["layer"] is None


def test_the_key_score_is_at_least_the_accuracy(results):
    rows = table_rows(results)
    for encoder in ("trained", UNTRAINED, MOST_FREQUENT):
        score, accuracy = (
            find(rows, task="key", encoder=encoder, metric=m)["value"]
            for m in ("weighted key score", "accuracy")
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


def test_results_are_written_with_every_layer(results, tmp_path):
    save_results(tmp_path / "probe.json", results, corpus="made up")
    content = json.loads((tmp_path / "probe.json").read_text())
    assert content["corpus"] == "made up"
    assert content["rows"] == table_rows(results)
    layers = [row for row in content["layers"] if (row["task"], row["encoder"]) == ("key", "trained")]
    assert [row["layer"] for row in layers] == [0, 1]
    assert layers[1]["validation"] > layers[0]["validation"]


@pytest.mark.parametrize("label", ["absent", "constant", "only in training"])
def test_a_task_that_cannot_be_learnt_is_the_users_mistake(label):
    clips, features = corpus(20)
    clips = [
        LabelledClip(
            c.id, c.split, {"constant": "a", "only in training": c.id if c.split == "train" else None}, c.load
        )
        for c in clips
    ]
    with pytest.raises(UserError, match=f"probe t: found .*{label!r}"):
        run_task(Task("t", label), clips, features)
