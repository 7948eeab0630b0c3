import contextlib
import dataclasses
import json

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.checks import check_dataset
from muq_jax.probe.datasets.chords import MAJMIN
from muq_jax.probe.datasets.custom import custom_task
from muq_jax.probe.labels import RULES
from muq_jax.probe.task import KINDS, SPLITS, Beats


def read(tmp_path, rows, label="mood", kind="classification", **options):
    path = tmp_path / "clips.jsonl"
    whole = [{"path": f"{i}.wav", "split": "train", **row} for i, row in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, whole)))
    return custom_task(path, label, kind, **options).read(str(path))


def test_labels_splits_groups_and_what_is_left_out(tmp_path):
    rows = [
        {"mood": "sad", "group": "x"},
        {"mood": "glad", "split": "valid"},
        {"mood": None},
        {"split": "test", "mood": "sad"},
        {},
        {"mood": "glad", "split": None},
        {"mood": "glad", "split": "validation"},
        {"mood": "glad", "split": "dev"},
    ]
    found = read(tmp_path, rows)
    assert [(i.id, i.split, i.label, i.group) for i in found.items] == [
        ("0", "train", "sad", "x"),
        ("1", "val", "glad", None),
        ("3", "test", "sad", None),
        ("6", "val", "glad", None),
        ("7", "val", "glad", None),
    ]
    assert found.items[0].audio == tmp_path / "0.wav"
    assert found.left_out == {"no label": 2, "no split": 1} and found.classes == ("glad", "sad")


def test_only_some_rows(tmp_path):
    rows = [
        {"mood": "a", "source": "x", "take": 1},
        {"mood": "b", "source": "y", "take": 1},
        {"mood": "c", "take": 2},
    ]
    assert [i.label for i in read(tmp_path, rows, where={"take": "1"}).items] == ["a", "b"]
    assert [i.label for i in read(tmp_path, rows, where={"take": "1", "source": "y"}).items] == ["b"]
    with pytest.raises(UserError, match="no row has source=z"):
        read(tmp_path, rows, where={"source": "z"})


def test_numbers_as_classes_are_in_their_order(tmp_path):
    found = read(tmp_path, [{"mood": 100}, {"mood": 9}, {"mood": "x"}, {"mood": 20.5}])
    assert found.classes == ("9", "20.5", "100", "x")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("multilabel", ["a", "b", "a"], ("a", "b")),
        ("multilabel", [], ()),
        ("regression", 3, (3.0,)),
        ("regression", [1, 2.5], (1.0, 2.5)),
        ("frames", [[0, 1.5, "a"]], ((0, 1.5, "a"),)),
        ("beats", [0.5, 1.0], Beats((0.5, 1.0), (0.5,))),
    ],
)
def test_labels_of_every_kind(kind, value, expected, tmp_path):
    (item,) = read(tmp_path, [{"mood": value, "downbeats": [0.5]}], kind=kind).items
    assert item.label == expected


def test_targets_of_a_regression_have_names(tmp_path):
    assert read(tmp_path, [{"mood": 1}], kind="regression").classes == ("mood",)
    assert read(tmp_path, [{"mood": [1, 2]}], kind="regression").classes == ("mood_0", "mood_1")


def test_a_rule_reads_the_column(tmp_path):
    assert [i.label for i in read(tmp_path, [{"mood": 61}], rule="pitch_class").items] == ["Db"]
    found = read(
        tmp_path, [{"mood": [[0, 1, "C:min7"]]}, {"mood": [[0, 1, "X"]]}], kind="frames", rule="chords"
    )
    assert found.items[0].label == ((0, 1, "C:min"),) and found.classes == MAJMIN
    assert found.left_out == {"no label": 1}, "a clip without a chord that can be read"
    with pytest.raises(UserError, match="clip '0': the rule pitch_class cannot read 'C': expected a whole"):
        read(tmp_path, [{"mood": "C"}], rule="pitch_class")


def test_a_vocabulary_of_one_s_own(tmp_path):
    rows = [{"mood": "a"}, {"mood": "b"}, {"mood": "c", "split": "test"}]
    with pytest.raises(UserError, match="no training clip has the class 'c'"):
        read(tmp_path, rows, classes=("a", "b", "c"))
    found = read(tmp_path, [*rows, {"mood": "a", "split": "val"}], classes=("b", "a"))
    assert found.classes == ("b", "a")
    with pytest.raises(UserError, match="label 'c', which is out of the vocabulary: b, a"):
        check_dataset(found, "classification", "custom", own=True)


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        (["a"], "classification", "Use --kind multilabel, or the rule first"),
        ({"a": 1}, "classification", "takes one text or number"),
        (" ", "classification", "the label is empty; name it, or have null"),
        (["a", ""], "multilabel", r"one of the labels \['a', ''\] is empty"),
        ("a", "multilabel", "takes a list of texts"),
        ([1], "multilabel", "takes a list of texts"),
        ("a", "regression", "takes a number"),
        (True, "regression", "takes a number"),
        ([], "regression", "takes a number"),
        ("a", "frames", "frames take"),
        ([[0, 1]], "frames", "frames take"),
        (3, "beats", "beats take a list of seconds"),
    ],
)
def test_labels_of_another_kind(value, kind, says, tmp_path):
    with pytest.raises(UserError, match=f"clip '0'.*{says}"):
        read(tmp_path, [{"mood": value}], kind=kind)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label": "colour"}, "no row has a column 'colour'; found mood"),
        ({"where": {"colour": "red"}}, "no row has a column 'colour'"),
        ({"group": "artist"}, "no row has a column 'artist'"),
        ({"kind": "guess"}, "no kind 'guess'; expected one of classification, multilabel"),
        ({"rule": "guess"}, "no rule 'guess'; expected one of first"),
        ({"metrics": ("r2",)}, "'r2' is no metric of classification; expected some of accuracy"),
        ({"window_seconds": 0.0}, "window_seconds is 0"),
    ],
)
def test_what_there_is_not(options, says, tmp_path):
    with pytest.raises(UserError, match=says):
        read(tmp_path, [{"mood": "a"}], **options)


def test_a_split_of_another_name(tmp_path):
    with pytest.raises(UserError, match="clip '0' has split 'training'; expected train, val, test"):
        read(tmp_path, [{"mood": "a", "split": "training"}])


GARBAGE = [True, False, 0, -1.5, float("nan"), float("inf"), 10**400, "", "x", [], [[]], [None], [[None]]]
GARBAGE += [{}, {"a": 1}, [[0, 1, None]], [[0, 1, {"a": []}]], [[0, 1, 2, 3]], [{"a": 1}], [[1, 2]], [True]]
GARBAGE += [[["0", "1", "a"]], [[True, 2, "a"]], [[0, 10**400, "a"]], [[2, 1, "a"]], [[0, 1, ["a"]]]]
GARBAGE += [[float("nan")], [10**400], [1, "a"], [2, 1], "\udcff", {"abc": 1}, [[0, 1, float("nan")]]]


@pytest.mark.parametrize("rule", [None, *RULES])
@pytest.mark.parametrize("kind", KINDS)
def test_garbage_is_a_label_or_a_mistake_that_names_the_clip(kind, rule, tmp_path):
    for value in GARBAGE:
        for downbeats in (None, value) if kind == "beats" and rule is None else (None,):
            rows = [{"mood": value, "downbeats": downbeats}]
            try:
                found = read(tmp_path, rows, kind=kind, rule=rule)
                assert len(found.items) + found.left_out.get("no label", 0) == 1
                assert "None" not in found.classes and "{}" not in found.classes
            except UserError as error:
                assert "clip '0'" in str(error)
                continue
            everywhere = [dataclasses.replace(i, id=s, split=s) for s in SPLITS for i in found.items]
            with contextlib.suppress(UserError):
                check_dataset(dataclasses.replace(found, items=everywhere), kind, "custom", own=False)


def test_numbers_that_are_not_finite_name_the_clip_before_anything_is_learned(tmp_path):
    rows = [{"mood": i, "split": SPLITS[i % 3]} for i in range(6)]
    for bad in (float("nan"), float("inf")):
        rows[4]["mood"] = bad
        with pytest.raises(UserError, match=r"custom: clip '4': .*expected 1 finite number"):
            check_dataset(read(tmp_path, rows, kind="regression"), "regression", "custom", own=True)
        with pytest.raises(UserError, match=r"clip '4': .*classification takes one text or number"):
            read(tmp_path, rows)


def test_targets_of_different_lengths_name_the_clip(tmp_path):
    rows = [{"mood": [i, -i], "split": SPLITS[i % 3]} for i in range(6)]
    rows[5]["mood"] = [1]
    with pytest.raises(UserError, match=r"clip '5': .*expected 2 finite"):
        check_dataset(read(tmp_path, rows, kind="regression"), "regression", "custom", own=True)


def test_booleans_are_classes_and_conditions_as_json_writes_them(tmp_path):
    rows = [{"mood": True, "live": True}, {"mood": False, "live": False}, {"mood": True}]
    assert read(tmp_path, rows).classes == ("false", "true")
    for value in ("true", True):
        assert [i.label for i in read(tmp_path, rows, where={"live": value}).items] == ["true"]


def test_long_numbers_stay_apart(tmp_path):
    rows = [{"mood": 1234567.25, "group": 1e7 + 1}, {"mood": 1234567.5, "group": 1e7 + 2}, {"mood": 7.0}]
    found = read(tmp_path, rows)
    assert found.classes == ("7", "1234567.25", "1234567.5")
    assert [item.group for item in found.items] == ["10000001", "10000002", None]
    assert [i.label for i in read(tmp_path, rows, where={"mood": 7}).items] == ["7"]


def test_integers_are_sorted_as_numbers_and_names_such_as_nan_as_names(tmp_path):
    labels = [10, "nan", 9, "inf", -1, "Nantes", "2"]
    orders = {read(tmp_path, [{"mood": m} for m in order]).classes for order in (labels, labels[::-1])}
    assert orders == {("-1", "2", "9", "10", "inf", "Nantes", "nan")}


def test_groups_are_found_by_their_column(tmp_path):
    rows = [{"mood": "a", "artist": 5, "group": "x"}, {"mood": "b", "artist": None, "group": "y"}]
    assert [i.group for i in read(tmp_path, rows, group="artist").items] == ["5", None]
    assert [i.group for i in read(tmp_path, rows).items] == ["x", "y"]
    assert [i.group for i in read(tmp_path, rows, group="id").items] == ["0", "1"]
    leak = [{"mood": "a", "group": "x", "split": split} for split in SPLITS]
    with pytest.raises(UserError, match="the group 'x' is in two splits: clip '0' is in train, '1' in val"):
        check_dataset(read(tmp_path, leak), "classification", "custom", own=True)


def test_a_split_or_an_id_can_be_the_label_or_a_condition(tmp_path):
    rows = [{"mood": "a"}, {"mood": "b", "split": "test"}]
    assert [i.label for i in read(tmp_path, rows, label="split").items] == ["train", "test"]
    assert [i.label for i in read(tmp_path, rows, where={"split": "test"}).items] == ["b"]
    assert [i.label for i in read(tmp_path, rows, where={"id": "0"}).items] == ["a"]


def test_frames_and_beats(tmp_path):
    rows = [{"mood": [[0, 1.5, "verse"], [1.5, 2, 3]]}, {"mood": []}]
    found = read(tmp_path, rows, kind="frames")
    assert found.items[0].label == ((0, 1.5, "verse"), (1.5, 2, "3"))
    assert found.classes == ("3", "verse") and found.left_out == {"no label": 1}
    found = read(tmp_path, [{"mood": [0.5, 1], "downbeats": []}, {"mood": []}, {"mood": [1]}], kind="beats")
    assert [i.label for i in found.items] == [Beats((0.5, 1)), Beats((1,))] and found.classes == ()
    with pytest.raises(UserError, match=r"clip '0': the label is 'x'; beats take a list of seconds"):
        read(tmp_path, [{"mood": [1], "downbeats": "x"}], kind="beats")


def test_a_rule_s_mistake_names_the_clip(tmp_path):
    with pytest.raises(UserError, match=r"clip '1': the rule chords cannot read .*'H' is no chord label"):
        read(tmp_path, [{"mood": []}, {"mood": [[0, 1, "H"]]}], kind="frames", rule="chords")
    with pytest.raises(UserError, match=r"clip '0': the rule gm_family cannot read 128"):
        read(tmp_path, [{"mood": 128}], rule="gm_family")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": "a,b"}, "classes is 'a,b'; expected a list of texts"),
        ({"metrics": "accuracy"}, "metrics is 'accuracy'; expected a list of texts"),
        ({"where": "a=b"}, "where is 'a=b'; expected columns"),
        ({"label": ["mood"]}, r"label is \['mood'\]; expected a text"),
        ({"rule": {}}, r"rule is \{\}; expected a text"),
        ({"group": 3}, "group is 3; expected a text"),
        ({"kind": None}, "no kind None"),
        ({"window_seconds": "5"}, "window_seconds is '5'; expected 0.1 to 3600"),
        ({"window_seconds": float("nan")}, "window_seconds is nan"),
        ({"metrics": ("guess",)}, "'guess' is no metric of classification"),
        ({"kind": "regression", "metrics": ("accuracy",)}, "'accuracy' is no metric of regression"),
    ],
)
def test_options_as_a_suite_s_json_may_hold_them(options, says, tmp_path):
    with pytest.raises(UserError, match=f"^custom: {says}"):
        read(tmp_path, [{"mood": "a"}], **options)


def test_classes_may_be_numbers(tmp_path):
    assert read(tmp_path, [{"mood": 1}, {"mood": 2.0}], classes=[2, 1]).classes == ("2", "1")


def test_rows_without_a_split_alone(tmp_path):
    found = read(tmp_path, [{"mood": "a", "split": None}] * 2)
    with pytest.raises(UserError, match=r"found 0 training, .*Left out were 2 \(no split\)"):
        check_dataset(found, "classification", "custom", own=True)


def test_recordings_in_an_object_store_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"clip 'a' is gs://music/a\.wav, in an object store.*Copy"):
        read(tmp_path, [{"mood": "a", "id": "a", "path": "gs://music/a.wav"}])
