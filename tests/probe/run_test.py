"""Tasks with a known answer, leaks that must not be, and the same digits every time."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.probe.run import run_task, split_sha256
from muq_jax.probe.sweep import Protocol
from muq_jax.probe.task import Dataset
from tests.probe import planted
from tests.probe.planted import Hearing, task_of

FAST = Protocol("v1", seeds=(0, 1), learning_rates=(5e-3,))
KEYS = "task encoder layer num_train num_val num_test test seeds".split()


def probe(task, items, encoder, cache, protocol=FAST, classes=planted.NAMES):
    return run_task(task, Dataset(items, classes), encoder, protocol, cache)


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    task = task_of("classification", ("accuracy",))
    return probe(task, planted.classification(), Hearing(), cache), cache


def test_features_that_contain_the_label_give_it(heard):
    result, _ = heard
    assert result.content["test"] == {"accuracy": 1.0}
    assert result.content["layer"] in (1, "all") and result.content["validation_by_layer"]["1"] == 1.0
    assert result.content["validation_by_layer"]["0"] < 0.7
    assert np.array(result.content["confusion"]).sum() == 2 * result.content["num_test"], "over both seeds"
    assert result.content["baseline"]["accuracy"] < 0.6
    assert result.item_scores["accuracy"].tolist() == [1.0] * 20


def test_features_that_do_not_are_worth_no_more_than_chance(tmp_path):
    result = probe(
        task_of("classification", ("accuracy",)),
        planted.classification(300),
        Hearing("deaf", hears=False),
        tmp_path,
    )
    assert result.content["test"]["accuracy"] < 0.45, "a quarter, and noise"


def test_a_result_says_how_it_came_about(heard):
    content = heard[0].content
    assert [key for key in KEYS if key not in content] == []
    assert (content["num_train"], content["num_val"], content["num_test"]) == (60, 20, 20)
    assert content["protocol"] == "v1" and content["seeds"] == [0, 1] and content["pool"] == "mean"
    assert content["weights_sha256"] == Hearing().digest
    assert content["split_sha256"] == split_sha256(planted.classification())
    assert {"jax", "numpy", "muq_jax"} <= set(content["versions"])
    assert json.loads(json.dumps(content)) == content, "it can be written as it is"


def test_the_same_seed_gives_the_same_digits_from_the_cache_and_anew(heard, tmp_path):
    content, cache = heard[0].content, heard[1]
    encoder = Hearing()
    task = task_of("classification", ("accuracy",))
    varying = {"seconds", "date"}
    for folder, calls in ((cache, False), (tmp_path, True)):
        again = probe(task, planted.classification(), encoder, folder).content
        assert {k: v for k, v in again.items() if k not in varying} == {
            k: v for k, v in content.items() if k not in varying
        }
        assert bool(encoder.calls) == calls


def test_nothing_of_the_test_split_is_used_before_it_is_scored(tmp_path):
    """Other test clips and labels change neither what is chosen nor what is said of the clips that stay."""
    items = planted.classification(150, seed=4)
    task = task_of("classification", ("accuracy",), standardise=True)
    noisy = Hearing("noisy", hears=False)
    before = probe(task, items, noisy, tmp_path)
    test = [i for i, item in enumerate(items) if item.split == "test"]
    changed = list(items)
    for i in test[10:]:
        levels = 50 + np.arange(12)
        changed[i] = dataclasses.replace(items[i], label="a", audio=partial(planted.steps, levels))
    after = probe(task, changed, noisy, tmp_path)
    for key in ("layer", "learning_rate", "validation", "validation_by_layer", "sweep"):
        assert after.content[key] == before.content[key]
    np.testing.assert_array_equal(after.item_scores["accuracy"][:10], before.item_scores["accuracy"][:10])
    assert after.content["split_sha256"] != before.content["split_sha256"]


def test_labels_of_the_validation_split_choose_and_do_not_train(tmp_path):
    """With validation labels from a hat, heads still learn what the training split says."""
    rng = np.random.default_rng(0)
    items = [
        dataclasses.replace(item, label=planted.NAMES[rng.integers(4)]) if item.split == "val" else item
        for item in planted.classification()
    ]
    result = probe(
        task_of("classification", ("accuracy",)),
        items,
        Hearing(),
        tmp_path,
        dataclasses.replace(FAST, layers=(1,)),
    )
    assert result.content["test"]["accuracy"] > 0.9 and result.content["validation"]["accuracy"] < 0.6


@pytest.mark.parametrize("protocol", ["v2", "ridge"])
def test_the_other_protocols_find_the_answer_too(protocol, heard):
    result = probe(
        task_of("classification", ("accuracy",)),
        planted.classification(),
        Hearing(),
        heard[1],
        Protocol(protocol, seeds=(0, 1)),
    )
    assert result.content["test"]["accuracy"] > 0.9
    assert result.content["layer"] == ("all" if protocol == "v2" else 1)


def test_few_shots_train_on_so_many_clips_of_every_class(heard):
    protocol = dataclasses.replace(FAST, shots=2, seeds=(0, 1, 2))
    task = task_of("classification", ("accuracy",))
    result = probe(task, planted.classification(), Hearing(), heard[1], protocol)
    assert result.content["num_train"] == 8 and result.content["shots"] == 2
    assert result.content["num_val"] == 20 and result.content["test"]["accuracy"] > 0.8
    assert len(result.content["test_per_seed"]["accuracy"]) == 3


def test_tags(tmp_path):
    """Tag k is there where the level is k or 3; no test clip has `never`, which is said and not NaN."""
    items = [
        dataclasses.replace(item, label=tuple({item.label, "d"}) if item.label == "c" else (item.label,))
        for item in planted.classification()
    ]
    items = [
        dataclasses.replace(i, label=(*i.label, "never") if i.id == "clip-0" else i.label) for i in items
    ]
    task = task_of("multilabel", ("roc_auc", "average_precision"))
    result = probe(task, items, Hearing(), tmp_path, classes=(*planted.NAMES, "never"))
    assert result.content["test"]["roc_auc"] > 0.99 and result.content["test"]["average_precision"] > 0.98
    assert result.content["without_positives"] == {"roc_auc": ["never"], "average_precision": ["never"]}
    assert result.content["baseline"]["roc_auc"] == 0.5 and result.content["confusion"] is None


def test_numbers(tmp_path):
    """Far from zero and of different sizes: targets are standardised by the training split alone."""
    items = [
        dataclasses.replace(item, label=(1000.0 + planted.NAMES.index(item.label), 0.01 * i % 0.3))
        for i, item in enumerate(planted.classification())
    ]
    task = task_of("regression", ("r2", "r2_level", "r2_noise", "mean_absolute_error"))
    result = probe(task, items, Hearing(), tmp_path, classes=("level", "noise"))
    test = result.content["test"]
    assert test["r2_level"] > 0.9 > 0.5 > test["r2_noise"]
    assert test["r2"] == pytest.approx((test["r2_level"] + test["r2_noise"]) / 2)
    assert result.content["baseline"]["r2"] <= 0


def test_frames(tmp_path):
    """A label a second; what no span covers is not scored, though it is heard."""
    rng = np.random.default_rng(0)
    items = []
    for i, split in enumerate(planted.splits(20)):
        labels = rng.integers(4, size=5)
        levels = np.repeat(labels, 25)
        levels[50:75] = 7  # in nobody's span
        spans = tuple((float(s), s + 1.0, planted.NAMES[label]) for s, label in enumerate(labels) if s != 2)
        items.append(planted.item(i, split, spans, levels))
    result = probe(task_of("frames", ("frame_accuracy",)), items, Hearing(), tmp_path)
    assert result.content["test"]["frame_accuracy"] == 1.0
    assert np.array(result.content["confusion"]).sum() == 2 * 4 * 100, (
        "4 clips of 4 labelled seconds, 2 seeds"
    )
    assert result.content["pool"] == "none"


def test_beats(tmp_path):
    task = task_of("beats", ("beat_f", "downbeat_f"))
    result = probe(task, planted.beats(), Hearing(), tmp_path, classes=())
    assert result.content["test"]["beat_f"] > 0.95 and result.content["test"]["downbeat_f"] > 0.9
    assert result.content["baseline"] == {} and result.item_scores == {}


def test_classes_that_were_never_trained_are_named(tmp_path):
    items = [
        dataclasses.replace(item, label="e") if item.id == "clip-4" else item
        for item in planted.classification()
    ]
    task = task_of("classification", ("accuracy",))
    result = probe(task, items, Hearing(), tmp_path, classes=(*planted.NAMES, "e"))
    assert any("e (1)" in problem for problem in result.content["problems"])
    assert result.content["test"]["accuracy"] == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        (Protocol("v1"), "give --protocol v2"),
        (Protocol("ridge", learning_rates=(1e-3,)), "no learning rates"),
        (Protocol("v2", layers=(7,)), "no layer 7; this encoder's are numbered 0 to 1"),
    ],
)
def test_what_a_protocol_cannot_do(protocol, says, heard):
    task = dataclasses.replace(task_of("classification", ("accuracy",)), v1=None)
    with pytest.raises(UserError, match=says):
        probe(task, planted.classification(), Hearing(), heard[1], protocol)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "v3"}, "no protocol 'v3'"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (1, 1)}, "each once"),
        ({"learning_rates": (0.0,)}, "above 0"),
        ({"shots": 0}, "at least 1 clip"),
    ],
)
def test_a_protocol_that_is_none(changes, says):
    with pytest.raises(UserError, match=says):
        Protocol(**changes)


def test_auto_is_the_first_version_that_has_the_task():
    task = task_of("classification", ("accuracy",))
    assert Protocol().of(task).name == "v1"
    assert Protocol().of(dataclasses.replace(task, v1=None)).name == "v2"


def test_layers_learned_a_few_at_a_time_come_to_the_same(heard, monkeypatch):
    from muq_jax.probe import sweep

    monkeypatch.setattr(sweep, "_BYTES_AT_ONCE", 1)
    task = task_of("classification", ("accuracy",))
    again = probe(task, planted.classification(), Hearing(), heard[1]).content
    for key in ("layer", "validation_by_layer", "test_per_seed"):
        assert again[key] == heard[0].content[key]


@pytest.mark.parametrize(
    ("kind", "metrics", "labels", "classes", "says"),
    [
        ("regression", ("r2",), lambda i: (float(i),), ("x",), "r2: found 1 item"),
        (
            *("classification", ("weighted_key_score",), lambda i: planted.NAMES[i % 2], planted.NAMES),
            "planted: ",
        ),
        (
            *("frames", ("frame_accuracy",), lambda i: ((90.0, 91.0, planted.NAMES[i // 5 % 2]),)),
            *(planted.NAMES, "no frame of the train split has a label"),
        ),
    ],
)
def test_labels_that_cannot_be_scored_are_the_user_s_mistake(kind, metrics, labels, classes, says, tmp_path):
    splits = ["train"] * 12 + ["val"] * (1 if kind == "regression" else 10) + ["test"] * 10
    items = [planted.item(i, split, labels(i), [i % 4] * 30) for i, split in enumerate(splits)]
    with pytest.raises(UserError, match=says):
        probe(task_of(kind, metrics), items, Hearing(), tmp_path, classes=classes)


def test_pieces_without_downbeats_teach_none_and_are_counted(tmp_path):
    items = [
        dataclasses.replace(item, label=item.label._replace(downbeats=())) if i in (0, 4) else item
        for i, item in enumerate(planted.beats(20))
    ]
    task = task_of("beats", ("beat_f", "downbeat_f"))
    content = probe(task, items, Hearing(), tmp_path, classes=()).content
    assert (content["num_train"], content["num_val"], content["num_test"]) == (11, 4, 4)
    assert any("1 training, 0 validation and 1 test pieces" in problem for problem in content["problems"])
    nobody = [
        dataclasses.replace(item, label=item.label._replace(downbeats=())) for item in planted.beats(20)
    ]
    assert list(probe(task, nobody, Hearing(), tmp_path, classes=()).content["test"]) == ["beat_f"]
