import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer as Library

from muq_jax.errors import UserError
from muq_jax.text.tokenizer import Tokenizer, pad_ids

TEXTS = [
    "a slow piano piece",
    "Drums   and\tBASS!",
    "欢快的吉他",
    "弦乐 with 钢琴, ｆｕｌｌ width",
    "",
    "never seen: ß 🎻",
]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_json):
    return Tokenizer(tokenizer_json, pad_id=1, vocab_size=150)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_sentencepieces_as_xlm_roberta_counts_them(tokenizer, sentencepiece_model, text):
    """fairseq moved sentencepiece's ids up by one; its <unk>, 0 there, is 3."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model)).encode(text)
    expected = [0, *(piece + 1 if piece else 3 for piece in pieces), 2]
    tokens = tokenizer([text], 512)
    assert tokens.ids == [expected] and tokens.cut == [0]


def test_a_long_text_is_cut_before_its_end_mark(tokenizer):
    [whole] = tokenizer(["a slow piano piece in a minor key"], 512).ids
    tokens = tokenizer(["a slow piano piece in a minor key", "drum"], 6)
    assert tokens.ids[0] == [*whole[:5], 2]
    assert tokens.cut == [len(whole) - 6, 0]


def test_a_text_that_is_no_unicode_is_named(tokenizer):
    """As an argument in Latin-1 comes from a shell."""
    with pytest.raises(UserError, match=r"the text 'caf\\udce9' has the half character '\\udce9' at 3"):
        tokenizer(["piano", "caf\udce9"], 16)


def test_padding():
    np.testing.assert_array_equal(pad_ids([[0, 5, 2], [0, 2]], 1, 4), [[0, 5, 2, 1], [0, 2, 1, 1]])


def test_another_models_tokenizer_is_refused(tokenizer_json, tmp_path):
    with pytest.raises(UserError, match="the id of <pad> is 1, the model's is 0"):
        Tokenizer(tokenizer_json, pad_id=0, vocab_size=150)
    size = Library.from_file(str(tokenizer_json)).get_vocab_size()
    for other in (size - 1, 2 * size):  # too few rows; another language's, such as an English RoBERTa's
        with pytest.raises(UserError, match=f"has {size} tokens, the model {other}"):
            Tokenizer(tokenizer_json, pad_id=1, vocab_size=other)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json could not be read: No such file"):
        Tokenizer(tmp_path / "tokenizer.json", pad_id=1, vocab_size=10)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is not a tokenizer of the library tokenizers"):
        Tokenizer(tmp_path / "tokenizer.json", pad_id=1, vocab_size=10)
