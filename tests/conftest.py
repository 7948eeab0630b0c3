"""Every test sees eight simulated CPU devices: what is sharded here is sharded on a pod."""

import atexit
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("MPLBACKEND", "agg")
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have it from whoever started them
    # Commands under test leave the user's cache alone and take from each other what one has compiled.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="muq_jax-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
import jax  # after what it reads from the environment

jax.config.update("jax_enable_compilation_cache", False)  # tests themselves compile
# A shell hands SIGINT down as ignored to what it runs in the background; commands under test are to hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    # Most of the time goes into compiling. What is slow or compared with PyTorch runs as it does for users.
    quick = "not slow" in config.option.markexpr and "not torch" in config.option.markexpr
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture
def wait_for():
    """Waits until a condition holds while a process runs; fails when it ends or ten minutes pass first."""

    def wait(process, condition, look_every=0.01):
        deadline = time.monotonic() + 600
        while not condition():
            try:
                process.wait(timeout=look_every)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline, "waited for ten minutes"
            else:
                pytest.fail(f"ended with {process.returncode}: {process.communicate()}")

    return wait


# What follows imports late: the environment above must be set before JAX is.

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
    "温暖而平静的弦乐四重奏",
    "安静的女声独唱",
]


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory):
    """Returns the path of a unigram model of English and Chinese."""
    import sentencepiece

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
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

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


@pytest.fixture(scope="session")
def muq_folder(tmp_path_factory):
    """Returns a model folder of a small MuQ with the goldens' weights."""
    from experiments.original import random_tensors, upstream_config
    from muq_jax import MuQ
    from muq_jax.convert import muq, rules
    from muq_jax.models.config_json import from_upstream_json

    config = from_upstream_json(upstream_config())
    shapes = rules.state_dict_shapes(muq.muq_table(config), muq.template(config))
    folder = tmp_path_factory.mktemp("model") / "muq"
    MuQ(config, muq.from_torch_names(random_tensors(shapes), config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mulan_folder(tokenizer_json, tmp_path_factory):
    """Returns a model folder with the weights of `golden/mulan.npz` and a real tokenizer.

    The table of words is made larger, so that it has the tokenizer's ids.
    """
    from experiments.original import random_tensors
    from muq_jax.convert.reader import write_tensors
    from muq_jax.models.mulan_json import mulan_to_json
    from tests.models.mulan_test import small_config

    path = tmp_path_factory.mktemp("mulan")
    golden = np.load(Path(__file__).parent / "golden" / "mulan.npz")
    tensors = random_tensors(json.loads(str(golden["shapes"])))
    words = "mulan.text.model.embeddings.word_embeddings.weight"
    tensors[words] = np.resize(tensors[words], (150, 48))
    described = mulan_to_json(small_config())
    described["muq_jax"]["roberta"]["vocab_size"] = 150
    (path / "config.json").write_text(json.dumps(described))
    (path / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())
    write_tensors(path / "model.safetensors", tensors)
    return path
