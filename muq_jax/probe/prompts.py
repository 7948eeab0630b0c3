"""The texts that stand for a task's labels where nothing is learned: ours are in `prompts.json`, as JSON.

    {"gtzan_genre": {"templates": ["{}", "a piece of {} music"],
                     "labels": {"hiphop": ["hip hop", "rap"]}},
     "default": {"templates": ["{}"]}}

A label is read as the texts that `labels` has for it, whole or without a category before `---`; else as it is
written, but without the category and with blanks for `_`. Each of these goes into every template, at {}, and
the mean direction of all is the label's. A task without an entry takes the one of `default`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from muq_jax.errors import UserError, mistakes_in
from muq_jax.text.templates import BACKGROUND, prompts
from muq_jax.text.tokenizer import check_unicode

DEFAULT = "default"
_OURS = "prompts.json"


class Prompts(NamedTuple):
    """What labels are read as.

    Attributes:
        texts: of each label, in the order of the labels.
        source: the file's name.
    """

    texts: dict[str, list[str]]
    source: str

    @property
    def sha256(self) -> str:
        """The digest of these texts and of the background prompts, on which scores hang as well."""
        content = json.dumps([list(self.texts.items()), BACKGROUND], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()


def read_prompts(task: str, labels: Sequence[str], path: Path | None = None) -> Prompts:
    """Returns the prompts of a task's labels.

    Args:
        task: its name.
        labels: in the order of the classes.
        path: a file in the place of ours.

    Raises:
        UserError: no such file, one that is not as described, one without prompts for this task, or with
            prompts for a label that there is not; a label that says nothing, or two that say the same.
    """
    where = path or files("muq_jax.probe") / _OURS
    try:
        content = json.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of prompts") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON in UTF-8 ({error}); expected an object with tasks") from None
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise UserError(f"{where}: expected an object of objects, a task each")
    name = task if task in content else DEFAULT
    if name not in content:
        raise UserError(f"{where}: has prompts for {', '.join(content)}; expected {task} or {DEFAULT}")
    entry, place = content[name], f"{where}, {name}"
    unknown = sorted(set(entry) - {"templates", "labels"})
    if unknown or "templates" not in entry:
        raise UserError(
            f"{place}: has {', '.join(entry) or 'nothing'}; expected templates, and perhaps labels"
        )
    templates, spoken = _texts(entry["templates"], f"{place}, templates"), _spoken(entry, place)
    known = {*labels, *(label.rpartition("---")[2] for label in labels)}
    if name == task and (strangers := [label for label in spoken if label not in known]):
        raise UserError(f"{place}: {strangers[0]!r} is no label; expected some of {', '.join(labels[:12])}")
    texts = {}
    owners: dict[tuple[str, ...], str] = {}
    for label in labels:
        bare = label.rpartition("---")[2]
        words = spoken.get(label) or spoken.get(bare) or [bare.replace("_", " ")]
        with mistakes_in(f"{place}, label {label!a}"):
            if not all(word.strip() for word in words):
                raise UserError("it says nothing; give it a text under labels")
            texts[label] = [text for word in words for text in prompts(word, templates)]
            for text in texts[label]:
                check_unicode(text)
            other = owners.setdefault(tuple(texts[label]), label)
            if other != label:
                raise UserError(f"it is read as {other!a} is; give one of them another text under labels")
    return Prompts(texts, str(path) if path else f"{_OURS} of muq_jax")


def _spoken(entry: Mapping[str, Any], place: str) -> dict[str, list[str]]:
    labels = entry.get("labels", {})
    if not isinstance(labels, dict):
        raise UserError(f"{place}, labels: a JSON {type(labels).__name__}; expected an object")
    return {label: _texts(words, f"{place}, label {label!r}") for label, words in labels.items()}


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(t, str) and t.strip() for t in value):
        raise UserError(f"{where}: found {value!r:.80}; expected a list of at least one text")
    return value
