"""A small sentencepiece model, and the `tokenizer.json` that is made of it as XLM-RoBERTa's was."""

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

ENGLISH = [
    "a slow piano piece in a minor key",
    "fast drum and bass with a deep synthesizer",
    "an acoustic guitar plays a folk tune",
    "a string quartet, calm and warm",
    "heavy metal with distorted guitars and screaming",
    "the singer hums over a quiet electric organ",
]
CHINESE = [
    "一首缓慢的钢琴曲",
    "欢快的民谣吉他",
    "带有鼓和贝斯的电子音乐",
    "弦乐四重奏，温暖而平静",
    "安静的女声独唱",
]


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory):
    """Returns the path of a unigram model of English and Chinese."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "texts").write_text("\n".join((ENGLISH + CHINESE) * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts"),
        model_prefix=str(folder / "spm"),
        vocab_size=150,
        character_coverage=1.0,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder / "spm.model"


@pytest.fixture(scope="session")
def tokenizer_json(sentencepiece_model):
    """Returns the path of a `tokenizer.json`: ids 0 to 3 are <s>, <pad>, </s>, <unk>; pieces follow."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(sentencepiece_model.read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = Tokenizer(models.Unigram([*special, *pieces, ("<mask>", 0.0)], unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")  # what a released file may say is not ours to obey
    tokenizer.enable_truncation(5)
    path = sentencepiece_model.with_name("tokenizer.json")
    tokenizer.save(str(path))
    return path
