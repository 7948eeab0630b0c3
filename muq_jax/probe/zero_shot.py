"""What a MuQ-MuLan knows of music without learning a task: labels and texts are found by similarity alone.

`raw` scores are the similarities, as the model gives them. `calibrated` ones are first compared with
background prompts, track by track (`inference.tag`), and then, prompt by prompt, with all tracks of the
split: their mean 0, their deviation 1. The first step counts where tracks are ranked for a label, as in
tagging; the second where labels are ranked for a track, as with genres. It looks at the other tracks, but
not at their labels. `weighted` ones are raw ones and how frequent each label is in the training split,
where there is one.
"""

import dataclasses
import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from muq_jax.errors import UserError
from muq_jax.inference.tag import Tagger
from muq_jax.probe.datasets.captions import in_other_splits, words
from muq_jax.probe.datasets.folder import count_splits, published_problem
from muq_jax.probe.datasets.magnatagatune import NUM_TEST_CLEANED
from muq_jax.probe.encoders import MuLanEncoder, load_encoder
from muq_jax.probe.prompts import Prompts
from muq_jax.probe.published import published_rows
from muq_jax.probe.run import split_sha256, versions
from muq_jax.probe.task import SPLITS, Dataset, Item, Task
from muq_jax.probe.tracks import Tracks, hear_tracks
from muq_jax.probe.zero_shot_scores import (
    CALIBRATED,
    RAW,
    WEIGHTED,
    Found,
    over_tracks,
    rate_each,
    rate_labels,
    rate_search,
    weighted,
)
from muq_jax.text.sentences import Text

PROTOCOL, RETRIEVAL = "zero_shot", "retrieval"
KINDS = ("classification", "multilabel")


class Part(NamedTuple):
    """Tracks of a split that are scored together.

    Attributes:
        name: for tables.
        description: which they are, for a person.
        holds: whether an item is one of them.
        num_published: how many papers have; None where they have no such split.
        has_published_scores: whether these are the tracks of the published zero-shot scores.
    """

    name: str
    description: str
    holds: Callable[[Item], bool]
    num_published: int | None
    has_published_scores: bool = False


@dataclasses.dataclass(frozen=True)
class View:
    """Tracks and texts for a look at them.

    Attributes:
        names: of the tracks, [N].
        said: of each track what is known of it, in words.
        groups: of each track the words by which a map may colour it, perhaps none.
        texts: [M], labels or captions.
        right: bool [N, M], which texts belong to which tracks.
        similarities: float32 [N, M], raw.
        scores: float64 [N, M], calibrated.
        vectors: float32 [N, E], of the tracks.
    """

    names: Sequence[str]
    said: Sequence[str]
    groups: Sequence[Sequence[str]]
    texts: Sequence[str]
    right: np.ndarray
    similarities: np.ndarray
    scores: np.ndarray
    vectors: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What `result.json` holds, and what a page shows beside it."""

    content: dict[str, Any]
    view: View


def select(task: Task, dataset: Dataset, split: str, classes: Sequence[str] | None = None) -> Dataset:
    """Returns what a zero-shot task needs of a dataset: the tracks of one split.

    Args:
        task: of `KINDS`.
        dataset: as its reader gave it.
        split: "train", "val" or "test".
        classes: the vocabulary, in place of the dataset's.

    Raises:
        UserError: labels of another kind, no such tracks, a label out of the vocabulary, or nothing to tell
            apart.
    """
    if task.kind not in KINDS:
        raise UserError(
            f"{task.name}: labels are compared as words without learning, and these are {task.kind}; "
            f"{PROTOCOL} takes {' and '.join(KINDS)}"
        )
    if split not in SPLITS:
        raise UserError(f"{task.name}: no split {split!r}; expected {', '.join(SPLITS)}")
    items = [item for item in dataset.items if item.split == split]
    if len(items) < 2:
        counts = dict(zip(SPLITS, count_splits(dataset.items), strict=True))
        counts |= {why: count for why, count in dataset.left_out.items() if count}
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise UserError(
            f"{task.name}: found {found} clips; expected at least two in {split}. Take another --split, or "
            "give your manifest's rows one"
        )
    classes = tuple(dataset.classes if classes is None else classes)
    if len(set(classes)) < max(2, len(classes)):
        raise UserError(f"{task.name}: the classes are {', '.join(classes)}; expected two or more, each once")
    for item in items:
        strangers = [label for label in _labels(item) if label not in classes]
        if strangers:
            raise UserError(
                f"{task.name}: clip {item.id!r} has the label {strangers[0]!r}, which is out of the "
                f"vocabulary: {', '.join(classes[:12])}"
            )
    # The other splits are not heard, so it does not matter whether they are there.
    counted = published_problem(count_splits(dataset.items), task.counts) if task.counts else ()
    problems = tuple(problem for problem in dataset.problems if problem not in counted)
    chosen = {stretch for item in items if (stretch := _stretch(item))}
    others = (_stretch(item) for item in dataset.items if item.split != split)
    problems += in_other_splits((stretch[0] for stretch in others if stretch in chosen), len(items))
    return Dataset(items, classes, dataset.left_out, problems)


def train_counts(task: Task, dataset: Dataset, split: str) -> dict[str, int] | None:
    """Returns the training clips of each label, of a dataset as its reader gave it.

    None where they do not weigh answers for tracks of `split`: a track may have several labels, there is no
    training split, or they are its own.
    """
    if task.kind != "classification" or split == "train":
        return None
    labels = (label for item in dataset.items if item.split == "train" for label in _labels(item))
    return dict(sorted(Counter(labels).items())) or None


def texts_of(dataset: Dataset) -> Prompts:
    """Returns captions as prompts: each stands for itself."""
    return Prompts({text: [text] for text in dataset.classes}, "the texts themselves")


def zero_shot(
    task: Task | None,
    dataset: Dataset,
    encoder: MuLanEncoder,
    prompts: Prompts,
    cache: Path,
    *,
    counts: Mapping[str, int] | None = None,
    command: str = "",
) -> Evaluated:
    """Compares every track with every label or text.

    Args:
        task: whose labels the dataset has; None where it has texts and each is to be found by the other.
        dataset: of `select`, or of `read_captions`.
        encoder: the model.
        prompts: of the dataset's classes.
        cache: the folder of all features.
        counts: of `train_counts`: adds scores that weigh labels by it.
        command: recorded in the result.

    Raises:
        UserError: no track can be heard, or nothing can be scored.
    """
    tagger = Tagger(encoder.mulan, prompts.texts)  # before hours of hearing: it may refuse the model
    tracks = hear_tracks(encoder, dataset.items, cache)
    scores, similarities = tagger(tracks.vectors)
    texts = list(prompts.texts)
    if task is None:  # a text whose tracks all failed has nothing to find
        heard = {label for item in tracks.items for label in _labels(item)}
        kept = [n for n, text in enumerate(texts) if text in heard]
        texts, scores, similarities = [texts[n] for n in kept], scores[:, kept], similarities[:, kept]
    found = {RAW: similarities, CALIBRATED: over_tracks(scores)}
    if counts:
        temperature = float(np.exp(encoder.mulan.variables["params"]["log_temperature"]))
        found[WEIGHTED] = weighted(similarities, temperature, [counts.get(label, 0) for label in texts])
    column = {label: n for n, label in enumerate(texts)}
    right = np.zeros(similarities.shape, bool)
    for row, item in zip(right, tracks.items, strict=True):
        row[[column[label] for label in _labels(item)]] = True
    problems = list(dataset.problems)
    if tracks.failures:
        first = next(iter(tracks.failures.values()))
        problems.append(
            f"Of {len(dataset.items):,} tracks {len(tracks.failures):,} could not be heard; "
            f"the first: {first}."
        )
    every = [text for own in prompts.texts.values() for text in own]
    if cut := encoder.mulan.num_cut(every):
        problems.append(
            f"Of {len(every):,} texts {cut:,} are longer than the model reads; their ends are not read."
        )
    if task is None:
        rated = {"parts": rate_search(found, right)}
    else:
        rated = _labelled(task, dataset, tracks, found, right, problems)
    content = {
        **wanted(task, dataset, encoder, prompts, counts),
        "title": RETRIEVAL if task is None else task.title,
        "kind": RETRIEVAL if task is None else task.kind,
        "split_sha256": split_sha256(tracks.items),
        "prompts": {"source": prompts.source, "sha256": prompts.sha256},
        "num_tracks": len(tracks.items),
        "num_texts": len(texts),
        **rated,
        "left_out": dict(dataset.left_out),
        "failures": tracks.failures,
        "problems": problems,
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "command": command,
    }
    if task is not None:
        content["prompts"]["texts"] = prompts.texts
    groups = [_tags(item.label) if task is None else _labels(item) for item in tracks.items]
    view = View(
        # Names of files need not be Unicode; what is shown has to be.
        names=[item.id.encode(errors="backslashreplace").decode() for item in tracks.items],
        said=[("; " if task is None else ", ").join(_labels(item)) for item in tracks.items],
        groups=groups,
        texts=texts,
        right=right,
        similarities=similarities,
        scores=found[CALIBRATED],
        vectors=tracks.vectors,
    )
    return Evaluated(content, view)


def wanted(
    task: Task | None,
    dataset: Dataset,
    encoder: MuLanEncoder,
    prompts: Prompts,
    counts: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Returns what was asked for: a result of anything else is another result."""
    tokenizer = encoder.mulan.tokenizer
    return {
        "task": RETRIEVAL if task is None else task.name,
        "protocol": PROTOCOL,
        "metrics": None if task is None else list(task.metrics),
        "encoder": encoder.name,
        "split": dataset.items[0].split,
        "weights_sha256": encoder.weights_sha256,
        "features_sha256": encoder.digest,
        "tokenizer_sha256": tokenizer and hashlib.sha256(tokenizer.source).hexdigest(),
        "prompts_sha256": prompts.sha256,
        "train_counts": counts,
    }


def is_done(path: Path, asked: Mapping[str, Any], dataset: Dataset) -> bool:
    """Returns whether a result is there already, of all its tracks: what could not be heard is tried again.

    Args:
        path: its file.
        asked: of `wanted`.
        dataset: its tracks.

    Raises:
        UserError: the file holds another result, or none.
    """
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        unheard = found.get("failures") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a result of `probe` ({error}); give another --out") from None
    heard = [item for item in dataset.items if item.id not in unheard]
    for name, value in {**asked, "split_sha256": split_sha256(heard)}.items():
        if found.get(name) != value:
            raise UserError(
                f"{path}: holds a result whose {name} is {found.get(name)!r:.100}; this command's is "
                f"{value!r:.100}. "
                "Give another --out"
            )
    return not unheard


def load_mulan(model: str, name: str | None = None, tokenizer: str | None = None) -> MuLanEncoder:
    """Returns the MuQ-MuLan of that name.

    Args:
        model: a model folder, a work directory or an id on the hub.
        name: as tables show it.
        tokenizer: of a MuQ-MuLan that has none beside it.

    Raises:
        UserError: there is no such model, or one that knows no text.
    """
    encoder = load_encoder(model, name, tokenizer)
    if not isinstance(encoder, MuLanEncoder):
        raise UserError(
            f"{encoder.name} has no text tower, and without learning music is found by words alone; "
            f"{PROTOCOL} needs a MuQ-MuLan"
        )
    return encoder


def parts_of(task: Task, split: str) -> list[Part]:
    """Returns the parts of a task's split: all its tracks; of MagnaTagATune's test split two are in use."""
    published = task.counts[SPLITS.index(split)] if task.counts else None
    whole = Part(split, "all its tracks", lambda item: True, published)
    if task.name != "magnatagatune":
        return [whole]
    return [
        whole._replace(description="MARBLE's, by folders; clips without any of the 50 tags are kept"),
        Part(
            f"{split}, cleaned",
            "that of sota-music-tagging-models; clips without any of the 50 tags are left out",
            lambda item: bool(item.label),
            NUM_TEST_CLEANED if split == "test" else None,
            has_published_scores=split == "test",
        ),
    ]


def _labelled(
    task: Task, dataset: Dataset, tracks: Tracks, found: Found, right: np.ndarray, problems: list[str]
) -> dict[str, Any]:
    """Scores of labels in every part of the split; what is not as published is added to the problems."""
    parts, published = [], {}
    for part in parts_of(task, dataset.items[0].split):
        rows = [n for n, item in enumerate(tracks.items) if part.holds(item)]
        own = {name: all_scores[rows] for name, all_scores in found.items()}
        where = f"{task.name}, {part.name}"
        rated = rate_labels(task.kind, task.metrics, dataset.classes, right[rows], own, where)
        about = {"name": part.name, "description": part.description}
        parts.append({**about, "num_items": len(rows), "num_published": part.num_published, **rated})
        if part.num_published not in (None, len(rows)):
            problems.append(
                f"{where}: {len(rows):,} clips were heard; published are {part.num_published:,}: the score "
                "is not comparable with published ones."
            )
        elif part.has_published_scores:
            published[part.name] = _published(task)
    counts = Counter(label for item in tracks.items for label in _labels(item))
    return {
        "classes": list(dataset.classes),
        "label_counts": {label: counts[label] for label in dataset.classes},
        "parts": parts,
        "published": published,
        **rate_each(task.kind, dataset.classes, right, found[RAW]),
    }


def _published(task: Task) -> list[dict[str, Any]]:
    rows = published_rows(PROTOCOL, [(task.name, metric) for metric in task.metrics])
    return [
        {
            "model": row.model,
            "source": row.source,
            "note": row.note,
            "scores": {metric: score.value for (_, metric), score in row.scores.items()},
        }
        for row in rows
    ]


def _stretch(item: Item) -> tuple[Path, float, float | None] | None:
    return None if callable(item.audio) else (item.audio, item.start_seconds, item.end_seconds)


def _labels(item: Item) -> tuple[str, ...]:
    """The names by which an item is found."""
    if isinstance(item.label, str):
        return (item.label,)
    return tuple(words(label) if isinstance(label, Text) else label for label in item.label)


def _tags(texts: Sequence[Text]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for text in texts for _, name in text.tags))
