"""A small vocabulary of one's own: byte-level byte pairs (Sennrich et al. 2016, on bytes as GPT-2 has them).

For a text encoder that is trained from scratch, beside XLM-RoBERTa's 250,000 pieces. Ids 0 to 3 are <s>,
<pad>, </s> and <unk>, as XLM-RoBERTa's, and as there these marks are understood in a text, too. Any other
character is written in bytes, so nothing is unknown.

Search should not depend on how somebody types: "Piano" and "piano", full and half width (NFKC), one blank or
several, at the ends or not, are the same tokens. A text read back is therefore the one so normalised. A word
has the same tokens at the beginning of a text as inside, and no token holds Chinese characters and others.
"""

from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from muq_jax.errors import UserError
from muq_jax.text.tokenizer import check_unicode, open_tokenizer

MARKS = ("<s>", "<pad>", "</s>", "<unk>")
_LEAST = len(MARKS) + 256


def fit_byte_pairs(texts: Iterable[str], vocab_size: int) -> bytes:
    """Returns a `tokenizer.json` with the most frequent byte pairs of these texts.

    The bytes depend on how often each text comes, not on the order. Texts that have less to merge give fewer
    tokens than asked for: see `vocab_size_of`.

    Args:
        texts: what to learn from.
        vocab_size: the most tokens to have, the marks and all bytes among them: 260 or more.

    Raises:
        UserError: too small a vocabulary, no text, or half characters in one.
    """
    if vocab_size < _LEAST:
        raise UserError(
            f"vocab_size={vocab_size}: expected {_LEAST} or more, {len(MARKS)} marks and 256 bytes before "
            "anything is learned."
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    # The blank in front makes the first word like the others.
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Prepend(" "),
        ]
    )
    # Chinese has no blanks: in 一首rock音乐 the word would else be a part of one long other one.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_checked(texts), trainer)
    return tokenizer.to_str().encode()


def vocab_size_of(tokenizer_json: bytes) -> int:
    """Returns the number of ids of a `tokenizer.json`: the rows that a model's table needs."""
    return max(open_tokenizer(tokenizer_json).get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _checked(texts: Iterable[str]) -> Iterator[str]:
    found = False
    for text in texts:
        check_unicode(text)
        found = found or bool(text.strip())
        yield text
    if not found:
        raise UserError("there is no text to learn byte pairs from.")
