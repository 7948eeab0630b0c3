import dataclasses
from pathlib import Path

import pytest

from muq_jax.errors import UserError
from muq_jax.probe.checks import check_dataset
from muq_jax.probe.task import Beats, Dataset, Item


def items(labels=("a", "b"), **changes):
    """Two clips of every split, with these labels."""
    return [
        Item(f"{split}-{label}", split, label, Path(f"{split}-{i}.wav"), f"{split} {i}")
        for split in ("train", "val", "test")
        for i, label in enumerate(labels)
    ]


def check(found, kind="classification", classes=("a", "b"), own=True, left_out=None):
    return check_dataset(Dataset(found, classes, left_out or {}), kind, "task", own=own)


def replaced(index, **changes):
    found = items()
    found[index] = dataclasses.replace(found[index], **changes)
    return found


def test_a_dataset_that_is_well():
    assert check(items()) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (items()[:4], "found 2 training, 2 validation and 0 test clips; expected some in every split"),
        ([], "found 0 training"),
        (
            replaced(4, group="train 0"),
            "group 'train 0' is in two splits: clip 'train-a' is in train, 'test-a'",
        ),
        (replaced(2, audio=Path("train-0.wav")), "train-0.wav is in two splits"),
        (replaced(1, id="train-a"), "two clips have the id 'train-a'"),
        (replaced(3, label="c"), "clip 'val-b' has the label 'c', which is out of the vocabulary: a, b"),
        (replaced(1, label="a"), "the train split has 'a' alone"),
        (replaced(5, label="a"), "the test split has 'a' alone"),
        ([*items(), dataclasses.replace(items()[0], id="x", split="dev")], "has split 'dev'"),
    ],
)
def test_what_is_refused(found, says):
    with pytest.raises(UserError, match=says) as caught:
        check(found)
    assert str(caught.value).startswith("task: ")


def test_an_empty_split_says_what_was_left_out():
    with pytest.raises(UserError, match=r"Left out were 3 \(no label\)"):
        check([], left_out={"no label": 3})


def test_stretches_of_one_file_may_be_in_several_splits():
    found = replaced(2, audio=Path("train-0.wav"), start_seconds=30.0)
    assert check(found) == []


def test_a_small_part_of_a_published_set_may_have_one_class_on_test():
    (problem,) = check(replaced(5, label="a"), own=False)
    assert "the test split has 'a' alone" in problem
    with pytest.raises(UserError, match="the train split has 'a' alone"):
        check(replaced(1, label="a"), own=False)


def test_a_class_that_is_never_trained_is_named_with_its_test_clips():
    (problem,) = check(replaced(5, label="c"), classes=("a", "b", "c", "d"))
    assert "c (1)" in problem and "d" not in problem.partition(":")[2]


SPAN = ((0.0, 1.0, "a"), (1.0, 2.0, "b"))


@pytest.mark.parametrize(
    ("kind", "good", "bad", "says"),
    [
        ("multilabel", ("a",), ("a", "z"), "has the label 'z'"),
        ("multilabel", ("a",), "a b", "has the label 'a b'"),
        ("frames", SPAN, "verse", r"expected \[\[start, end, label\]"),
        ("frames", SPAN, ((0.0, "x", "a"),), "is not .start, end, label."),
        ("frames", SPAN, ((2.0, 1.0, "a"),), "ends before it starts"),
        ("frames", SPAN, ((-1.0, 1.0, "a"),), "before the clip"),
        ("frames", SPAN, ((0.0, float("nan"), "a"),), "is not .start, end, label."),
        ("regression", (1.0, 2.0), (1.0,), r"expected 2 finite number"),
        ("regression", (1.0, 2.0), (1.0, float("inf")), r"expected 2 finite number"),
        ("regression", (1.0, 2.0), (True, 1.0), r"expected 2 finite number"),
        ("beats", Beats((0.5, 1.0)), (0.5, 1.0), "expected times of beats"),
        ("beats", Beats((0.5, 1.0)), Beats((1.0, 0.5)), "not rising"),
        ("beats", Beats((0.5, 1.0)), Beats(("0.5",)), "not rising"),
    ],
)
def test_labels_of_every_kind_are_looked_at(kind, good, bad, says):
    found = items()
    varied = [dataclasses.replace(item, label=good) for item in found]
    if kind == "regression":
        varied = [dataclasses.replace(item, label=(float(i), 2.0 - i)) for i, item in enumerate(found)]
    if kind == "multilabel":
        varied[::2] = [dataclasses.replace(item, label=("a", "b")) for item in found[::2]]
    assert check(varied, kind) == []
    varied[3] = dataclasses.replace(varied[3], label=bad)
    with pytest.raises(UserError, match=f"clip 'val-b'.*{says}"):
        check(varied, kind)


def test_numbers_that_are_all_the_same_say_nothing():
    found = [dataclasses.replace(item, label=(1.0,)) for item in items()]
    with pytest.raises(UserError, match="every clip of the train split has the same number"):
        check(found, "regression", ("x",))


def labelled(*labels):
    """Train, val and test alternate in pairs, as in `items`."""
    return [dataclasses.replace(item, label=label) for item, label in zip(items(), labels, strict=True)]


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("classification", ["a"]),
        ("classification", None),
        ("classification", True),
        ("multilabel", None),
        ("multilabel", "a"),
        ("multilabel", (["a"],)),
        ("frames", ((0, 1),)),
        ("frames", ((0, 10**400, "a"),)),
        ("frames", ((True, 1.0, "a"),)),
        ("frames", (None,)),
        ("regression", (10**400, 1.0)),
        ("regression", (float("nan"), 1.0)),
        ("regression", 1.0),
        ("regression", (None, 1.0)),
        ("regression", "ab"),
        ("beats", Beats((0.5, 0.5))),
        ("beats", Beats((0.5, float("inf")))),
        ("beats", Beats((True, 2.0))),
        ("beats", Beats((10**400,))),
        ("beats", Beats(([1.0],))),
        ("beats", Beats((0.5, 1.0), (1.0, 0.5))),
        ("beats", None),
    ],
)
def test_garbage_names_the_clip(kind, bad):
    good = {"classification": "a", "multilabel": ("a",), "frames": SPAN, "regression": (1.0, 2.0)}
    found = labelled(*[good.get(kind, Beats((0.5,)))] * 6)
    found[3] = dataclasses.replace(found[3], label=bad)
    with pytest.raises(UserError, match=r"^task: clip 'val-b'"):
        check(found, kind)


def test_a_class_that_is_listed_twice():
    with pytest.raises(UserError, match="the class 'a' is listed twice"):
        check(items(), classes=("a", "b", "a"))


def test_one_file_by_two_paths_is_one_file():
    with pytest.raises(UserError, match=r"in two splits, as 'train-a' in train and as 'val-a' in val"):
        check(replaced(2, audio=Path("folder/../train-0.wav")))


def test_a_file_twice_in_one_split_is_no_leak():
    assert check(replaced(1, audio=Path("train-0.wav"))) == []


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_tags_that_are_the_same_everywhere_cannot_be_ranked(at, own):
    labels = [("a",), ("b", "a")] * 3
    labels[at : at + 2] = [("a", "b"), ("b", "a")]
    with pytest.raises(UserError, match=r"the (train|val|test) split has .* alone"):
        check(labelled(*labels), "multilabel", own=own)
    labels[at : at + 2] = [(), ()]
    with pytest.raises(UserError, match=r"the (train|val|test) split has no label alone"):
        check(labelled(*labels), "multilabel", own=own)
    labels[at : at + 2] = [(), ("a",)]
    assert check(labelled(*labels), "multilabel", own=own) == (
        []
        if at
        else ["No training clip has these classes, so that no test clip of theirs can be right: b (1)."]
    )


def test_spans_of_other_labels_do_not_count_as_classes():
    spans = [((0.0, 1.0, "a"), (1.0, 2.0, "b"))] * 6
    assert check(labelled(*spans), "frames") == []
    spans[4:] = [((0.0, 1.0, "a"), (1.0, 2.0, "other"))] * 2
    with pytest.raises(UserError, match="the test split has 'a' alone"):
        check(labelled(*spans), "frames")


def test_a_target_that_is_the_same_number_is_said():
    labels = [(float(i), float(i)) for i in range(6)]
    assert check(labelled(*labels), "regression") == []
    labels[4:] = [(4.0, 1.0), (5.0, 1.0)]
    (problem,) = check(labelled(*labels), "regression")
    assert problem.startswith("b is the same number in every clip of the test split")
    labels[4:] = [(4.0, 1.0), (4.0, 1.0)]
    with pytest.raises(UserError, match="every clip of the test split has the same number"):
        check(labelled(*labels), "regression")
