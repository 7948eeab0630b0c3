"""What is said about clips: `caption` and `tags` of their labels, as token ids beside each crop."""

import dataclasses
import functools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tokenizers

from muq_jax.data.mixture import Mixture
from muq_jax.errors import UserError, mistakes_in
from muq_jax.text.sentences import Sentences, Text
from muq_jax.text.tokenizer import check_unicode, encode, open_tokenizer, pad_ids

_log = logging.getLogger(__name__)
_LOOKED_AT = 10_000
_SEPARATOR = "---"
"""Between category and name of a tag, as MTG-Jamendo writes them: genre---rock."""


def text_of(labels: Mapping[str, Any], where: str) -> Text:
    """Returns what labels say in words: `caption`, a text, and `tags`, names or names by category.

    Args:
        labels: of a clip. Tags are a list of names, `CATEGORY---NAME` where they have a category, or a
            mapping from categories to such lists.
        where: names the clip in an error.

    Raises:
        UserError: neither of both, an empty text, half characters, or another kind of value.
    """
    caption, tags = labels.get("caption"), labels.get("tags")
    if caption is not None and (not isinstance(caption, str) or not caption.strip()):
        raise UserError(f"{where}: `caption` is {caption!r:.80}; expected a text that is not empty, or none")
    listed = tags if isinstance(tags, Mapping) else {"": [] if tags is None else tags}
    found = []
    for category, names in listed.items():
        if not isinstance(names, list | tuple):
            raise UserError(
                f"{where}: `tags` is {tags!r:.80}; expected a list of names, or such lists by category"
            )
        for name in names:
            if not isinstance(name, str) or not name.strip():
                raise UserError(f"{where}: `tags` holds {name!r:.80}; expected names that are not empty")
            before, separator, after = (part.strip() for part in name.strip().partition(_SEPARATOR))
            found.append((before, after) if separator and after else (category, name.strip()))
    if caption is None and not found:
        raise UserError(
            f"{where}: neither `caption` nor `tags`, so there is no text for this clip. Give it one, or "
            "leave the clip out"
        )
    for field, values in (("caption", [caption or ""]), ("tags", [name for _, name in found])):
        with mistakes_in(f"{where}: `{field}`"):
            for value in values:
                check_unicode(value)
    return Text(caption and caption.strip(), tuple(dict.fromkeys(found)))


def check_texts(source: Any) -> None:
    """Raises UserError if an example of a source has no text; names the first, and says how many there are.

    Decodes no audio: where a source cannot tell labels without, as tfds's, only its first example is read.
    """
    for part in source.sources if isinstance(source, Mixture) else [source]:
        wrong = []
        indices = range(len(part) if hasattr(part, "labels_at") else min(len(part), 1))
        for index in indices:
            id, labels = labels_at(part, index)
            try:
                text_of(labels, f"clip {id!r}")
            except UserError as error:
                wrong.append(str(error))
        if wrong:
            raise UserError(
                f"{part}: audio without text, {len(wrong)} of {len(indices)} examples that were looked at. "
                f"The first: {wrong[0]}"
            )


def warn_of_cut_texts(source: Any, reader: "TextReader") -> None:
    """Says how many texts a reader cuts, of up to 10,000 of each corpus; decodes no audio to find out."""
    for part in source.sources if isinstance(source, Mixture) else [source]:
        if hasattr(part, "labels_at"):
            chosen = range(0, len(part), max(1, math.ceil(len(part) / _LOOKED_AT)))
            texts = [text_of(labels, f"{part}: clip {id!r}") for id, labels in map(part.labels_at, chosen)]
            if num_cut := reader.num_cut(texts):
                _log.warning(
                    "%s: of %d texts that were looked at %d are longer than data.text.max_tokens=%d; their "
                    "ends are not read",
                    *(part, len(texts), num_cut, reader.max_tokens),
                )


def texts_in(source: Any) -> Iterator[Text]:
    """Yields the text of every example of a source, in its order; decodes no audio where labels lie apart.

    Raises:
        UserError: as `text_of`, for the first clip without a text.
    """
    for index in range(len(source)):
        part, place = source.place(index) if isinstance(source, Mixture) else (source, index)
        id, labels = labels_at(part, place)
        yield text_of(labels, f"{part}: clip {id!r}")


def labels_at(source: Any, index: int) -> tuple[str, Mapping[str, Any]]:
    """Returns id and labels of an example, without its audio where the source can tell."""
    if isinstance(source, Mixture):
        return labels_at(*source.place(index))
    if hasattr(source, "labels_at"):
        return source.labels_at(index)
    example = source[index]
    return example["id"], example.get("labels", {})


@dataclasses.dataclass(frozen=True)
class TextReader:
    """Token ids of what an example's labels say.

    Attributes:
        sentences: how a text is drawn.
        tokenizer: the bytes of a `tokenizer.json`, so that a worker process can be sent them.
        max_tokens: N, the length of every row of ids; of a longer text the end is cut, but not its mark.
    """

    sentences: Sentences
    tokenizer: bytes = dataclasses.field(repr=False)
    max_tokens: int

    def __post_init__(self) -> None:
        if self.max_tokens < 3:
            raise UserError(
                f"data.text.max_tokens={self.max_tokens}: expected 3 or more, for two marks and a text."
            )

    def draw(self, example: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
        """Returns ids int32 [N] of a text drawn for training."""
        return self._ids(self.sentences.draw(rng, _text(example)))

    def read(self, example: Mapping[str, Any]) -> np.ndarray:
        """Returns ids int32 [N] of the text to evaluate with."""
        return self._ids(self.sentences.read(_text(example)))

    def num_cut(self, texts: Iterable[Text]) -> int:
        """Returns of how many texts the end is cut, as `read` gives them."""
        said = [self.sentences.read(text) for text in texts]
        return sum(map(bool, encode(_opened(self.tokenizer), said, self.max_tokens).cut))

    def nothing(self) -> np.ndarray:
        """Returns ids int32 [N] of no text: padding alone."""
        return np.full(self.max_tokens, _pad_id(self.tokenizer), np.int32)

    def _ids(self, text: str) -> np.ndarray:
        ids = encode(_opened(self.tokenizer), [text], self.max_tokens).ids
        return pad_ids(ids, _pad_id(self.tokenizer), self.max_tokens)[0]


def _text(example: Mapping[str, Any]) -> Text:
    return text_of(example.get("labels", {}), f"clip {example['id']!r}")


@functools.lru_cache(maxsize=4)
def _opened(tokenizer: bytes) -> tokenizers.Tokenizer:
    return open_tokenizer(tokenizer)


@functools.lru_cache(maxsize=4)
def _pad_id(tokenizer: bytes) -> int:
    pad_id = _opened(tokenizer).token_to_id("<pad>")
    if pad_id is None:
        raise UserError("the tokenizer has no token <pad>: it is not one of XLM-RoBERTa's kind.")
    return pad_id
