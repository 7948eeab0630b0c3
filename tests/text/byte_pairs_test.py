"""Byte pairs of one's own: the same bytes for the same texts, and every text comes back."""

import json
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muq_jax.errors import UserError
from muq_jax.text.byte_pairs import MARKS, fit_byte_pairs, vocab_size_of
from muq_jax.text.tokenizer import Tokenizer, encode, open_tokenizer

ROOT = Path(__file__).parents[2]
WORDS = (
    *("slow", "piano", "piece", "in", "a", "minor", "key", "fast", "drum", "and", "bass,", "guitar!"),
    *("钢琴", "欢快的民谣吉他", "弦乐四重奏"),
)


def texts(count=300):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 8)) for _ in range(count)]


@pytest.fixture(scope="module")
def source():
    return fit_byte_pairs(texts(), 370)


@pytest.fixture(scope="module")
def tokenizer(source):
    return open_tokenizer(source)


def ids(tokenizer, text):
    [found] = encode(tokenizer, [text], 10**6).ids
    return found


def test_the_same_texts_give_the_same_bytes_in_any_order_and_process(source):
    assert fit_byte_pairs(iter(texts()), 370) == source
    shuffled = [texts()[i] for i in np.random.default_rng(1).permutation(300)]
    assert fit_byte_pairs(shuffled, 370) == source
    code = (
        "import json, sys\n"
        "from muq_jax.text.byte_pairs import fit_byte_pairs\n"
        "sys.stdout.buffer.write(fit_byte_pairs(json.load(sys.stdin), 370))"
    )
    given = json.dumps(texts()).encode()
    elsewhere = subprocess.run([sys.executable, "-c", code], input=given, cwd=ROOT, capture_output=True)
    assert elsewhere.stdout == source, elsewhere.stderr.decode()
    assert fit_byte_pairs([*texts(), "something else " * 999], 370) != source


def test_marks_have_xlm_robertas_ids_and_stand_around_a_text(source, tokenizer, tmp_path):
    assert [tokenizer.token_to_id(mark) for mark in MARKS] == [0, 1, 2, 3]
    assert ids(tokenizer, "") == [0, 2]
    found = ids(tokenizer, "a slow piano")
    assert found[0] == 0 and found[-1] == 2 and min(found[1:-1]) > 3
    (tmp_path / "tokenizer.json").write_bytes(source)
    ours = Tokenizer(tmp_path / "tokenizer.json", pad_id=1, vocab_size=vocab_size_of(source))
    assert ours(["a slow piano"], 512).ids == [found]


def test_a_mark_in_a_text_is_read_as_the_mark(tokenizer):
    """As XLM-RoBERTa's tokenizer has it."""
    assert ids(tokenizer, "</s>") == [0, 2, 2]


def test_frequent_words_are_one_token_and_sizes_are_as_asked(source, tokenizer):
    assert vocab_size_of(fit_byte_pairs(texts(), 300)) == 300
    assert 300 < vocab_size_of(source) < 370  # no pair is left that comes twice
    for word in ("Piano", "guitar", "minor"):
        assert len(ids(tokenizer, word)) == 3
    assert len(ids(tokenizer, "bassoon")) > 4


def test_the_first_merge_is_the_most_frequent_pair():
    """Counted by hand on the bytes of words, each with the blank before it."""
    plain = "low lower lowest newer newest wider new"
    merges = json.loads(fit_byte_pairs([plain], 261))["model"]["merges"]
    pairs = Counter(pair for word in plain.split() for pair in zip("Ġ" + word, word, strict=False))
    [(_, most), (_, second)] = pairs.most_common(2)
    assert len(merges) == 1 and pairs[tuple(merges[0])] == most >= second


def test_a_small_corpus_gives_fewer_tokens_and_says_how_many():
    source = fit_byte_pairs(["piano piano", "rock"], 5000)
    # Blank and five letters are merged five times; "rock", which comes once, never.
    assert vocab_size_of(source) == 260 + 5
    assert len(ids(open_tokenizer(source), "rock")) == 2 + 5


def test_how_somebody_types_is_all_one(tokenizer):
    expected = ids(tokenizer, "piano in a minor key")
    for text in ("Piano in A minor KEY", "  piano\tin a\n minor\u3000key ", "ｐｉａｎｏ in a minor key"):
        assert ids(tokenizer, text) == expected
    assert ids(tokenizer, "e\u0301tude") == ids(tokenizer, "Étude")


def test_chinese_and_other_words_do_not_run_together():
    tokenizer = open_tokenizer(fit_byte_pairs(["一首rock音乐 rock"] * 9, 400))
    tokens = [tokenizer.id_to_token(i) for i in ids(tokenizer, "一首rock音乐")]
    assert "rock" in tokens and len(tokens) == 6  # <s>, the blank, three words, </s>
    assert ids(tokenizer, "音乐")[-2] == ids(tokenizer, "rock音乐")[-2]


# Of the letters whose case and width Python's tables and the library's agree on, in any versions.
OLD = st.one_of(
    st.characters(max_codepoint=0x1C80, exclude_categories=("Cs",), exclude_characters="\x1c\x1d\x1e\x1f"),
    st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF),
    st.characters(min_codepoint=0x1F300, max_codepoint=0x1F5FF),
    st.sampled_from(["\u200d", "\u3000", "，", "Ａ", "ﬁ", "K", "\x00", "\x07", "\n", " ", "\U0010ffff"]),
)


@given(st.text(OLD))
def test_every_text_comes_back(tokenizer, text):
    for mark in MARKS:  # which is read as the mark, as tested above
        text = text.replace(mark, "")
    # The library lowers every letter alone; Python's own for texts looks at a sigma's place.
    lowered = "".join(letter.lower() for letter in unicodedata.normalize("NFKC", text))
    assert tokenizer.decode(ids(tokenizer, text)) == " ".join(lowered.split())


def test_plain_lower_case_texts_come_back_as_they_are(tokenizer):
    for text in ("a slow piano piece", "欢快的民谣吉他、钢琴。", "never seen: ß 🎻 \x00\x07 ‘q’ 'tis <x>"):
        assert tokenizer.decode(ids(tokenizer, text)) == text
        assert 3 not in ids(tokenizer, text)


@pytest.mark.parametrize("text", ["a \ud83c", "caf\udce9"])
def test_half_characters_are_refused(tokenizer, text):
    with pytest.raises(UserError, match=r"half character .* at [23]; expected Unicode"):
        fit_byte_pairs(["fine", text], 300)
    with pytest.raises(UserError, match="half character"):
        encode(tokenizer, [text], 16)


def test_what_cannot_be_fitted():
    with pytest.raises(UserError, match="vocab_size=259: expected 260 or more"):
        fit_byte_pairs(texts(), 259)
    for nothing in ([], ["", " \n"]):
        with pytest.raises(UserError, match="no text to learn byte pairs from"):
            fit_byte_pairs(nothing, 300)
