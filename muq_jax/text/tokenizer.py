"""Texts to token ids, by the `tokenizer.json` that lies beside a model."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers

from muq_jax.errors import UserError

FILE = "tokenizer.json"


class Tokens(NamedTuple):
    """Token ids of some texts.

    Attributes:
        ids: a list of ids a text, the beginning and end marks among them.
        cut: of each text, how many tokens were cut away because the model cannot read more.
    """

    ids: list[list[int]]
    cut: list[int]


class Tokenizer:
    """The tokenizer of a `tokenizer.json`.

    Attributes:
        source: the file's bytes, to be kept beside a model that is saved.
        pad_id: the id that fills a batch up.
    """

    def __init__(self, path: str | os.PathLike[str], *, pad_id: int, vocab_size: int) -> None:
        """Reads a `tokenizer.json`.

        Args:
            path: the file.
            pad_id: of the model; the file's token `<pad>` must have it.
            vocab_size: rows of the model's table; ids beyond it are another model's.

        Raises:
            UserError: the file is missing or damaged, or is not this model's tokenizer.
        """
        path = Path(path)
        try:
            self.source = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} could not be read: {error.strerror}.") from None
        self._tokenizer = open_tokenizer(self.source, path)
        self.pad_id = pad_id
        found = self._tokenizer.token_to_id("<pad>")
        if found != pad_id:
            raise UserError(
                f"{path}: the id of <pad> is {found}, the model's is {pad_id}: another tokenizer."
            )
        size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        # Tables are padded by a few rows; XLM-RoBERTa's has five times those of an English RoBERTa.
        if not vocab_size / 2 < size <= vocab_size:
            raise UserError(f"{path} has {size} tokens, the model {vocab_size}: another tokenizer.")

    def __call__(self, texts: Sequence[str], max_tokens: int) -> Tokens:
        """Returns the token ids of texts, each of at most `max_tokens`; the end mark is kept when cutting.

        Raises:
            UserError: a text is no Unicode.
        """
        return encode(self._tokenizer, texts, max_tokens)


def open_tokenizer(source: bytes, name: object = FILE) -> tokenizers.Tokenizer:
    """Returns the tokenizer in the bytes of a `tokenizer.json`, without its own padding and cutting.

    Raises:
        UserError: it is none; `name` names it.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(source)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"{name} is not a tokenizer of the library tokenizers ({error}).") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], max_tokens: int) -> Tokens:
    """Returns the token ids of texts, each of at most `max_tokens`; the end mark is kept when cutting.

    Raises:
        UserError: a text is no Unicode.
    """
    for text in texts:
        check_unicode(text)
    ids, cut = [], []
    for encoding in tokenizer.encode_batch(list(texts)):
        found = encoding.ids
        over = max(0, len(found) - max_tokens)
        ids.append(found[: max_tokens - 1] + found[-1:] if over else found)
        cut.append(over)
    return Tokens(ids, cut)


def check_unicode(text: str) -> None:
    """Raises UserError if a text has half characters, which JSON's escapes and a shell's bytes can make."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text {text[:40]!a} has the half character {text[error.start]!a} at {error.start}; expected "
            "Unicode, in UTF-8."
        ) from None


def pad_ids(ids: Sequence[Sequence[int] | np.ndarray], pad_id: int, length: int) -> np.ndarray:
    """Returns lists of ids as int32 [B, length], `pad_id` past each one's end."""
    batch = np.full((len(ids), length), pad_id, np.int32)
    for row, text in zip(batch, ids, strict=True):
        row[: len(text)] = text
    return batch
