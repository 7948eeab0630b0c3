r"""MuQ-MuLan: clips and the texts about them in one space (MuQ, arXiv 2501.01108; MuLan, arXiv 2208.12415).

    python -m experiments.train --config=experiments/configs/mulan.py:tiny --workdir=runs/mulan \
        --config.targets.muq=runs/muq --config.data.source=MANIFEST|SHARDS|mtg_jamendo:FOLDER

The audio tower begins as `targets.muq`: a MuQ's work directory, model folder or hub id. Texts are a
manifest's `caption` and `tags`, also of shards that `prepare` made of it; tags become plain lists or
sentences. Where there are both, half of the texts are made of tags; three in ten tags are left out
(`data.text`), and clips are made up to 6 dB louder or softer (`data.gain_db`).

| variant | text encoder | steps | pairs a step | hardware and time |
|---|---|---|---|---|
| smoke | small, 0.1 M | 20 | 8 x 2 s | a CPU, two minutes; trains its own MuQ first |
| tiny | small, 2 M | 750 | 32 x 10 s | 2 CPU cores, 100 minutes |
| base | XLM-R base, frozen | 20,000 | 768 x 10 s in 24 parts | one GPU; not run yet |
| large | XLM-R base, frozen | 2,000 | 7,680 x 10 s in 10 parts | 32 GPUs, 1 to 2 days upstream; not run yet |

`small` is trained from scratch on pieces of words of the corpus itself (`WORKDIR/tokenizer.json`) and needs
no download; a model with it does not load in PyTorch. The others need `targets.text`: a folder or a hub id of
xlm-roberta-base. It stays as it is (`optim.frozen`), as upstream in effect; `--config.optim.frozen="()"`
trains all.

**A large batch on small hardware**: `optim.accumulate` parts are encoded one after the other, and once more
in the backward pass; the loss is over all pairs of the step all the same. BatchNorm's statistics are each
part's.

**Learning rates**: `optim.audio_lr_factor` and `optim.text_lr_factor` slow the encoders down beside what is
new above them; `optim.layer_decay` slows each layer of theirs by so much more than the layer above it.

Expected: validation writes R@1, R@5, R@10, mAP@10 and the median rank, both ways, each beside what chance
gives, and histograms of similarities of pairs and of others. Measured runs are in experiments/RESULTS.md.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from experiments.configs import groups
from muq_jax.nn.transformer import TransformerConfig
from muq_jax.text.sentences import Sentences

VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": dict(
        text_model="small", vocab_size=4096, width=192, num_layers=2, num_heads=4, text_layers=2,
        latent_size=128, max_tokens=96, num_steps=750, batch_size=32, crop_seconds=10, warmup_steps=100,
        peak_lr=5e-4, log_every=20, eval_every=125, checkpoint_every=100, skip_same_text=True,
        frozen=("audio/muq/subsample",),
    ),
    "smoke": dict(
        text_model="small", vocab_size=512, width=32, num_layers=1, num_heads=2, text_layers=1,
        latent_size=32, max_tokens=32, num_steps=20, batch_size=8, crop_seconds=2, warmup_steps=5,
        peak_lr=1e-3, log_every=5, eval_every=10, checkpoint_every=10, train="smoke",
    ),
    "base": dict(
        text_model="xlm-roberta-base", max_tokens=128, num_steps=20_000, batch_size=768, crop_seconds=10,
        peak_lr=1e-4, log_every=20, eval_every=500, checkpoint_every=500, accumulate=24,
        frozen=("text/roberta",), dtype="bfloat16",
    ),
    "large": dict(
        text_model="xlm-roberta-base", max_tokens=128, num_steps=2000, batch_size=7680, crop_seconds=10,
        peak_lr=1e-4, log_every=10, eval_every=100, checkpoint_every=100, accumulate=10,
        frozen=("text/roberta",), dtype="bfloat16", fsdp=-1,
    ),
}  # fmt: skip


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the configuration of a variant, `tiny` by default."""
    sizes = groups.variant_of(arg, VARIANTS)
    small = sizes["text_model"] == "small"

    config = ConfigDict()
    config.seed = 0
    # text: the small encoder's sizes; those of XLM-RoBERTa are the file's own. latent_size: of the space.
    # audio_layer: which hidden state of the MuQ is heard, -1 is the last.
    config.model = ConfigDict()
    config.model.dtype = sizes.get("dtype", "float32")
    config.model.audio_layer = -1
    config.model.latent_size = sizes.get("latent_size", 512)
    config.model.text_model = sizes["text_model"]
    config.model.text = ConfigDict()
    if small:
        for name in ("vocab_size", "width", "num_layers", "num_heads"):
            config.model.text[name] = sizes[name]
    transformer = dataclasses.asdict(TransformerConfig())
    del transformer["width"]  # the text encoder's
    config.model.text_transformer = ConfigDict(transformer)
    if small:
        config.model.text_transformer.num_layers = sizes["text_layers"]
        config.model.text_transformer.num_heads = sizes["num_heads"]
        config.model.text_transformer.head_size = sizes["width"] // sizes["num_heads"]

    # muq: a trained MuQ's work directory, model folder or hub id. train: without it, the variant of muq.py to
    # train first. text: a folder or a hub id of xlm-roberta-base, where that is model.text_model. The digests
    # of what the towers begin with are filled in, so that a run does not go on with others.
    config.targets = ConfigDict()
    config.targets.muq = groups.optional(str)
    config.targets.train = groups.optional(str, sizes.get("train"))
    config.targets.text = groups.optional(str)
    config.targets.sha256 = groups.optional(str)
    config.targets.text_sha256 = groups.optional(str)
    config.targets.tokenizer_sha256 = groups.optional(str)

    # loss: "decoupled" as upstream, "infonce" or "sigmoid". temperature: similarities are multiplied by it;
    # it is learned from here on. skip_same_text: pairs of equal texts do not repel each other.
    # num_layers: so many layers of both encoders have a loss of their own (upstream's hierarchical one).
    config.objective = ConfigDict()
    config.objective.name = "music_text"
    config.objective.loss = "decoupled"
    config.objective.temperature = 10.0
    config.objective.num_layers = 0
    config.objective.skip_same_text = sizes.get("skip_same_text", False)

    config.data = groups.data_group(
        "toy_music:40" if arg == "smoke" else "toy_music",
        batch_size=sizes["batch_size"],
        crop_seconds=sizes["crop_seconds"],
    )
    config.data.gain_db = (-6.0, 6.0)
    # max_tokens: of a text, the marks at its ends among them; what is longer is cut.
    sentences = Sentences(caption_dropout=0.5, tag_dropout=0.3)
    config.data.text = ConfigDict({"max_tokens": sizes["max_tokens"], **dataclasses.asdict(sentences)})

    config.optim = ConfigDict()
    config.optim.peak_lr = sizes["peak_lr"]
    config.optim.schedule = "warmup_linear" if "warmup_steps" in sizes else "constant"
    config.optim.warmup_steps = sizes.get("warmup_steps", 0)
    config.optim.beta1 = 0.9
    config.optim.beta2 = 0.99
    config.optim.eps = 1e-8
    config.optim.weight_decay = 0.0
    config.optim.clip_norm = groups.optional(float, 0.5)
    config.optim.accumulate = sizes.get("accumulate", 1)
    config.optim.frozen = sizes.get("frozen", ())
    config.optim.audio_lr_factor = 1.0
    config.optim.text_lr_factor = 1.0
    config.optim.layer_decay = 1.0

    config.train = groups.train_group(
        sizes["num_steps"],
        log_every=sizes["log_every"],
        eval_every=sizes["eval_every"],
        checkpoint_every=sizes["checkpoint_every"],
    )
    config.mesh = groups.mesh_group(fsdp=sizes.get("fsdp", 1))
    return config
