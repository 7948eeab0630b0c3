"""What is said about a recording: its caption, or its tags made into a list or a sentence.

A model of music and text that is to be asked in tags and in sentences hears both while it learns: half of the
texts that MuQ-MuLan's open recipe makes of tags are plain lists, the others sentences, English and Chinese.
"""

import dataclasses
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from muq_jax.errors import UserError
from muq_jax.text.sentence_templates import CHINESE, ENGLISH

SLOTS = {
    "genre": ("genre", "genres"),
    "instrument": ("instrument", "instruments"),
    "mood": ("mood", "moods", "mood/theme"),
}
"""Of each place in a template but `{tags}`, the categories of the tags that go there."""


class Text(NamedTuple):
    """What is known of a recording in words; at least one of both.

    Attributes:
        caption: a text about it.
        tags: (category, name) of each; the category is "" where there is none.
    """

    caption: str | None
    tags: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Sentences:
    """How a text is drawn from what is known.

    Attributes:
        plain_rate: of the texts made of tags, the share that are plain lists, separated by commas.
        chinese_rate: of the sentences made of tags, the share that are Chinese.
        tag_dropout: how likely each tag is left out; one always stays.
        caption_dropout: where there is a caption and tags, how likely the tags are taken.
    """

    plain_rate: float = 0.5
    chinese_rate: float = 0.0
    tag_dropout: float = 0.0
    caption_dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UserError(f"data.text.{field.name}={value!r}: expected a share, from 0 to 1.")

    def draw(self, rng: np.random.Generator, text: Text) -> str:
        """Returns a text to train on: the caption, or some of the tags in any order; `rng` is all chance."""
        if text.caption is not None and not (text.tags and rng.random() < self.caption_dropout):
            return text.caption
        tags = [text.tags[i] for i in rng.permutation(len(text.tags))]
        stays = rng.random(len(tags)) >= self.tag_dropout
        # Of tags in any order the first is as good as any.
        tags = [tag for tag, stay in zip(tags, stays, strict=True) if stay] or tags[:1]
        if rng.random() < self.plain_rate:
            return _listed(tags)
        chinese = rng.random() < self.chinese_rate
        names = {"tags": _names(tags)}
        for slot, categories in SLOTS.items():
            names[slot] = _names(tag for tag in tags if tag[0].lower() in categories)
        fitting = [
            template
            for template, slots in (_CHINESE if chinese else _ENGLISH)
            if all(names[slot] for slot in slots)
        ]
        join = "、".join if chinese else _english
        filled = {slot: join(found) for slot, found in names.items()}
        return fitting[rng.integers(len(fitting))].format(**filled)

    def read(self, text: Text) -> str:
        """Returns the text to evaluate with, without chance: the caption, else all tags, by commas."""
        return _listed(text.tags) if text.caption is None else text.caption

    def material(self, texts: Iterable[Text], seed: int = 0) -> Iterator[str]:
        """Yields what a vocabulary for these texts is fitted on: captions, tags, and a drawn text of each."""
        rng = np.random.default_rng(seed)
        for text in texts:
            if text.caption is not None:
                yield text.caption
            if text.tags:
                yield _listed(text.tags)
                yield self.draw(rng, text._replace(caption=None))


def _with_slots(templates: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [
        (template, [slot for _, slot, _, _ in string.Formatter().parse(template) if slot])
        for template in templates
    ]


_ENGLISH, _CHINESE = _with_slots(ENGLISH), _with_slots(CHINESE)


def _names(tags: Iterable[tuple[str, str]]) -> list[str]:
    """The names of tags as words; one that is there in two categories comes once."""
    return list(dict.fromkeys(name.replace("_", " ") for _, name in tags))


def _listed(tags: Iterable[tuple[str, str]]) -> str:
    return ", ".join(_names(tags))


def _english(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), *names[-1:]] if len(names) > 1 else names)
