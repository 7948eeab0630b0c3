"""What must hold of a task's items before anything is learned from them."""

import itertools
import os
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np

from muq_jax.errors import UserError
from muq_jax.probe.problems import unseen_classes
from muq_jax.probe.task import SPLITS, Beats, Dataset, Item, Kind


def check_dataset(dataset: Dataset, kind: Kind, name: str, *, own: bool) -> list[str]:
    """Checks the labels and splits of a dataset.

    Args:
        dataset: as its reader gave it.
        kind: of its labels.
        name: of the task, for messages.
        own: it is a user's own task, all of whose splits must serve; a small part of a published one may
            have a test split of one class, which is said instead.

    Returns:
        what makes the score weaker than it looks, in sentences.

    Raises:
        UserError: an empty split, a group or an id in two splits, a label that is not among the classes or no
            label of this kind, or a split in which there is nothing to tell apart.
    """
    counts = {split: sum(item.split == split for item in dataset.items) for split in SPLITS}
    if min(counts.values()) == 0:
        raise UserError(
            f"{name}: found {counts['train']} training, {counts['val']} validation and {counts['test']} test "
            f"clips; expected some in every split{_left_out(dataset)}"
        )
    _check_leaks(dataset.items, name)
    twice = [c for c, times in Counter(dataset.classes).items() if times > 1]
    if twice:
        raise UserError(f"{name}: the class {twice[0]!r} is listed twice; list each once")
    for item in dataset.items:
        _check_label(item, kind, dataset.classes, name)
    problems = []
    if kind in ("classification", "multilabel", "frames"):
        problems += _check_classes(dataset, kind, name, own)
    if kind == "regression":
        problems += _check_targets(dataset, name)
    unseen = unseen_classes(dataset.items, kind, dataset.classes)
    lost = {c: n for c, n in unseen.items() if n}
    if lost:
        names = ", ".join(f"{c} ({n})" for c, n in lost.items())
        problems.append(
            f"No training clip has these classes, so that no test clip of theirs can be right: {names}."
        )
    return problems


def _check_leaks(items: Sequence[Item], name: str) -> None:
    split_of_group: dict[str, Item] = {}
    seen: dict[str, Item] = {}
    sounds: dict[tuple, Item] = {}
    for item in items:
        if item.split not in SPLITS:
            raise UserError(
                f"{name}: clip {item.id!r} has split {item.split!r}; expected {', '.join(SPLITS)}"
            )
        if item.id in seen:
            raise UserError(f"{name}: two clips have the id {item.id!r}; ids must be unique")
        seen[item.id] = item
        if item.group is not None:
            first = split_of_group.setdefault(item.group, item)
            if first.split != item.split:
                raise UserError(
                    f"{name}: the group {item.group!r} is in two splits: clip {first.id!r} is in "
                    f"{first.split}, {item.id!r} in {item.split}. What is learned from the one would be "
                    "tested on the other; put each group into one split"
                )
        if not callable(item.audio):
            stretch = (os.path.normpath(item.audio), item.start_seconds, item.end_seconds)
            first = sounds.setdefault(stretch, item)
            if first.split != item.split:
                raise UserError(
                    f"{name}: {item.audio} is in two splits, as {first.id!r} in {first.split} and as "
                    f"{item.id!r} in {item.split}; leave it in one"
                )


def _check_label(item: Item, kind: Kind, classes: Sequence[str], name: str) -> None:
    label, where = item.label, f"{name}: clip {item.id!r}"
    match kind:
        case "classification":
            found = [label]
        case "multilabel":
            if not isinstance(label, tuple | list):
                raise UserError(f"{where} has the label {label!r:.80}; expected a list of texts")
            found = list(label)
        case "frames":
            found = [span[2] for span in _spans(label, where)]
        case "regression":
            _numbers(label, len(classes), where)
            return
        case "beats":
            _beats(label, where)
            return
    unknown = [c for c in found if c not in classes]
    if unknown and kind != "frames":
        shown = ", ".join(map(str, classes[:12])) + (", ..." if len(classes) > 12 else "")
        raise UserError(f"{where} has the label {unknown[0]!r}, which is out of the vocabulary: {shown}")


def _check_classes(dataset: Dataset, kind: Kind, name: str, own: bool) -> list[str]:
    problems = []
    for split in SPLITS:
        labels = [item.label for item in dataset.items if item.split == split]
        if kind == "multilabel":
            found = {tuple(sorted(set(tags))) for tags in labels}
        elif kind == "frames":  # spans of other labels are ignored
            found = {span[2] for spans in labels for span in spans} & set(dataset.classes)
        else:
            found = set(labels)
        if len(found) < 2:
            only = next(iter(found), ())
            shown = repr(", ".join(only) if isinstance(only, tuple) else only)
            what = f"the {split} split has {'no label' if only == () else shown} alone"
            # Of several labels, ranking metrics are undefined there.
            if own or split == "train" or kind == "multilabel":
                raise UserError(
                    f"{name}: {what}; with a single class there is nothing to learn or to tell apart. Give "
                    "it clips of at least two classes"
                )
            problems.append(f"There is nothing to tell apart: {what}.")
    return problems


def _check_targets(dataset: Dataset, name: str) -> list[str]:
    problems = []
    for split in ("train", "test"):
        targets = np.array([item.label for item in dataset.items if item.split == split], float)
        same = (targets == targets[0]).all(axis=0)
        if same.all():
            raise UserError(
                f"{name}: every clip of the {split} split has the same number; there is nothing to learn "
                "or to explain. Give at least two clips with different ones"
            )
        problems += [
            f"{target} is the same number in every clip of the {split} split, so that its r2 says nothing."
            for target, constant in zip(dataset.classes, same, strict=True)
            if constant
        ]
    return problems


def _spans(label: object, where: str) -> Sequence[tuple[float, float, str]]:
    if not isinstance(label, tuple | list):
        raise UserError(
            f"{where}: the label is {label!r:.80}; expected [[start, end, label], ...] in seconds"
        )
    for span in label:
        if not isinstance(span, tuple | list) or len(span) != 3 or not _are_numbers(span[:2]):
            raise UserError(
                f"{where}: the span {span!r:.80} is not [start, end, label], with times in seconds"
            )
        if not 0 <= span[0] <= span[1]:
            raise UserError(
                f"{where}: the span {span!r:.80} ends before it starts, or starts before the clip"
            )
    return label


def _numbers(label: object, count: int, where: str) -> None:
    if not isinstance(label, tuple | list) or len(label) != count or not _are_numbers(label):
        raise UserError(f"{where}: the label is {label!r:.80}; expected {count} finite number(s)")


def _beats(label: object, where: str) -> None:
    if not isinstance(label, Beats):
        raise UserError(f"{where}: the label is {label!r:.80}; expected times of beats in seconds")
    for times in label:
        if not _are_numbers(times) or any(b <= a for a, b in itertools.pairwise(times)):
            raise UserError(
                f"{where}: the times of its beats are not rising numbers of seconds: {times!r:.80}"
            )


def _are_numbers(values: Sequence[object]) -> bool:
    # NaN is not smaller than anything, and an integer may be too large for a float.
    largest = sys.float_info.max
    return all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= largest for v in values)


def _left_out(dataset: Dataset) -> str:
    if not dataset.left_out:
        return ""
    return ". Left out were " + ", ".join(f"{n} ({why})" for why, n in dataset.left_out.items())
