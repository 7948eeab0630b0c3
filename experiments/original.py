"""The PyTorch original beside ours: how it is imported, configured, and given random weights.

Needs the environment of requirements-torch.txt; what the tests without torch use of it does not.
"""

import contextlib
import json
import sys
import types
import zlib
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np

Arrays = dict[str, np.ndarray]


def import_original() -> Any:
    """Returns the package `muq`, imported beside a CPU build of torch.

    Two of its imports cannot be met there, and neither takes part in what it computes. torchaudio's wheel
    holds a native extension that is linked with CUDA; muq uses only torchaudio's Python transforms, so the
    loader is told what a build without the extension would say. From x_clip muq takes one integer, the
    default vocabulary size of a class that it never builds; the package itself would replace the installed
    torch.
    """
    if "torchaudio" not in sys.modules:
        loader: Any = types.ModuleType("torchaudio._extension")
        loader._IS_TORCHAUDIO_EXT_AVAILABLE = False
        loader._IS_ALIGN_AVAILABLE = False
        loader._check_cuda_version = lambda: None
        loader.fail_if_no_align = lambda function: function
        sys.modules["torchaudio._extension"] = loader
    if "x_clip" not in sys.modules:
        package: Any = types.ModuleType("x_clip")
        package.__path__ = []
        package.tokenizer = types.ModuleType("x_clip.tokenizer")
        package.tokenizer.tokenizer = types.SimpleNamespace(vocab_size=49_408)
        sys.modules["x_clip"] = package
        sys.modules["x_clip.tokenizer"] = package.tokenizer
    import muq

    return muq


def upstream_config(
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    ffn: int = 128,
    conv: int = 8,
    books: int = 2,
    dropout: float = 0.1,
    **overrides: Any,
) -> dict[str, Any]:
    """Upstream's config.json for a MuQ of the given sizes; `upstream_config(1024, 12, 16, 4096, 512, 8)` is
    MuQ-large."""
    conformer = dict(
        activation_dropout=dropout,
        attention_dropout=dropout,
        conformer_conv_dropout=dropout,
        hidden_dropout=dropout,
        conv_depthwise_kernel_size=31,
        feat_extract_activation="gelu",
        hidden_act="swish",
        hidden_size=width,
        intermediate_size=ffn,
        layer_norm_eps=1e-5,
        layerdrop=0.0,
        max_source_positions=5000,
        num_attention_heads=heads,
        num_conv_pos_embedding_groups=16,
        num_conv_pos_embeddings=128,
        num_hidden_layers=layers,
        position_embeddings_type="rotary",
        rotary_embedding_base=10_000,
    )
    config = dict(
        label_rate=25,
        num_codebooks=1,
        codebook_dim=16,
        codebook_size=1024 * books,
        features=["melspec_2048"],
        hop_length=240,
        n_mels=128,
        conv_dim=conv,
        encoder_dim=width,
        encoder_depth=layers,
        mask_hop=0.4,
        mask_prob=0.6,
        is_flash=False,
        stat={"melspec_2048_mean": 6.768444971712967, "melspec_2048_std": 18.417922652295623},
        w2v2_config=conformer,
        use_rvq_target=True,
        rvq_n_codebooks=books,
        rvq_multi_layer_num=1,
    )
    return config | overrides


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Arrays:
    """Weights of a plausible scale for a state dict, each drawn from its own name and the seed.

    Running statistics and gains are away from 0 and 1, so that a tensor put in the wrong place shows. Rotary
    frequencies, which are computed, are what they must be.
    """
    return {name: _random_tensor(name, tuple(shape), seed) for name, shape in shapes.items()}


def _random_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("inv_freq"):
        return (10_000.0 ** -(np.arange(shape[0]) / shape[0])).astype(np.float32)
    if name.endswith("stale_counter"):
        return np.zeros(shape, np.float32)
    noise = np.random.RandomState(zlib.crc32(name.encode(), seed)).standard_normal(shape)
    if name.endswith("running_var") or name.endswith(("weight_g", "original0")):
        array = 1.0 + 0.2 * np.abs(noise)
    elif "norm.weight" in name.lower() or (".bn" in name and name.endswith(".weight")):
        array = 1.0 + 0.1 * noise
    elif name.endswith(("_gamma", "q_scale", "k_scale")):
        array = 1.0 + 0.1 * noise
    elif "codebook" in name:
        array = noise
    elif len(shape) == 1:
        array = 0.1 * noise
    else:
        array = noise / np.sqrt(np.prod(shape[1:]))
    return array.astype(np.float32)


def shapes_of(module: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a PyTorch module's state dict, without the constant of the rotary positions."""
    return {k: tuple(v.shape) for k, v in module.state_dict().items() if not k.endswith("inv_freq")}


def load_random(module: Any, seed: int = 0) -> dict[str, tuple[int, ...]]:
    """Puts the weights of `random_tensors` into a PyTorch module, in eval mode; returns their shapes."""
    import torch

    shapes = shapes_of(module)
    tensors = {name: torch.from_numpy(array) for name, array in random_tensors(shapes, seed).items()}
    left_out, unknown = module.load_state_dict(tensors, strict=False)
    assert not unknown and all(name.endswith("inv_freq") for name in left_out)
    module.eval()
    return shapes


def load(module: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """Returns a PyTorch module with these weights, every one of them, in eval mode."""
    import torch

    copies = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    module.load_state_dict(copies, strict=True)
    return module.eval()


def make_muq(config: dict[str, Any]) -> Any:
    """The PyTorch MuQ of a configuration, with PyTorch's own initialisation."""
    ours = ("model_type", "muq_jax_version", "muq_jax")  # upstream's loader drops them, its class does not
    upstream = {key: value for key, value in config.items() if key not in ours}
    return import_original().MuQ(json.loads(json.dumps(upstream)))


def build(config: dict[str, Any], seed: int = 0) -> Any:
    """The PyTorch MuQ of a configuration, with the weights of `random_tensors`, in eval mode."""
    model = make_muq(config)
    load_random(model, seed)
    return model


def upstream_mulan_config(
    model_dim: int = 64,
    audio: int = 40,
    audio_layers: int = 0,
    text: int = 48,
    text_layers: int = 2,
    heads: int = 2,
    head_size: int = 16,
    latent: int = 32,
) -> dict[str, Any]:
    """Upstream's config.json for a MuQ-MuLan above towers of those widths; the one of MuQ-MuLan-large is
    `upstream_mulan_config(1024, 768, 0, 768, 8, 8, 64, 512)`."""
    layers = dict(heads=heads, dim_head=head_size, attn_dropout=0.0, ff_dropout=0.0, ff_mult=4)
    return dict(
        mulan=dict(
            sr=24_000,
            clip_secs=10,
            dim_latent=latent,
            decoupled_contrastive_learning=True,
            hierarchical_contrastive_loss=False,
            hierarchical_contrastive_loss_layers=None,
            sigmoid_contrastive_loss=False,
            rank_contrast=True,
        ),
        audio_model=dict(name="OpenMuQ/MuQ-large-msd-iter", model_dim=model_dim, use_layer_idx=-1),
        text_model=dict(name="xlm-roberta-base", model_dim=None, use_layer_idx=-1),
        audio_transformer=dict(dim=audio, tf_depth=audio_layers, **layers),
        text_transformer=dict(dim=text, tf_depth=text_layers, max_seq_len=1024, **layers),
    )


def roberta_config(
    vocab: int = 101, width: int = 48, layers: int = 3, heads: int = 4, ffn: int = 96, positions: int = 40
) -> dict[str, Any]:
    """`transformers`' configuration of an XLM-RoBERTa; `roberta_config(250_002, 768, 12, 12, 3072, 514)` is
    xlm-roberta-base."""
    return dict(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ffn,
        hidden_act="gelu",
        max_position_embeddings=positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )


def make_mulan(config: dict[str, Any], muq: dict[str, Any], roberta: dict[str, Any]) -> Any:
    """The PyTorch MuQMuLan of these configurations, with PyTorch's own initialisation.

    Its constructor would fetch two released models; it is given towers of these sizes instead. Its texts are
    space-separated token ids.
    """
    original = import_original()
    import torch
    from transformers import BatchEncoding, XLMRobertaConfig, XLMRobertaModel

    def tokenizer(texts: list[str], **_: Any) -> Any:
        rows = [[int(word) for word in text.split()] for text in texts]
        longest, pad = max(map(len, rows)), roberta["pad_token_id"]
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        return BatchEncoding(dict(input_ids=ids, attention_mask=(ids != pad).long()))

    towers = {
        original.MuQ: lambda *_, **__: make_muq(muq),
        XLMRobertaModel: lambda *_, **__: XLMRobertaModel(XLMRobertaConfig(**roberta)),
    }
    with contextlib.ExitStack() as stack:
        for owner, make in towers.items():
            stack.enter_context(mock.patch.object(owner, "from_pretrained", make))
        model = original.MuQMuLan(config)
    model.mulan.text._tokenizer = tokenizer
    return model


def build_mulan(config: dict[str, Any], muq: dict[str, Any], roberta: dict[str, Any], seed: int = 0) -> Any:
    """The PyTorch MuQMuLan of these configurations, with the weights of `random_tensors`, in eval mode."""
    model = make_mulan(config, muq, roberta)
    load_random(model, seed)
    return model


def as_wave(pcm: np.ndarray) -> np.ndarray:
    """float32 samples of a golden's int16 samples; both sides compute exactly this."""
    return pcm.astype(np.float32) / 32768
