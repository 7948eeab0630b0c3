r"""MuQ: predict the Mel-RVQ codes of masked audio (MuQ, arXiv 2501.01108).

    python -m experiments.train --config=experiments/configs/muq.py:tiny --workdir=runs/muq \
        --config.data.source=FOLDER|MANIFEST|SHARDS --config.targets.rvq=runs/mel_rvq

| variant | parameters | steps | batch | hardware and time |
|---|---|---|---|---|
| smoke | 0.4 M | 30 | 4 x 2 s | a CPU, a minute; toy_music and upstream's mel statistics |
| tiny | 7 M | 6,000 | 8 x 5 s | 2 CPU cores, an hour (1.9 steps a second with RESULTS.md's settings) |
| base | 83 M | 100,000 | 64 x 30 s | one GPU; not run yet |
| large | 325 M | 400,000 | 192 x 30 s | the paper's recipe; 32 GPUs, 3 to 7 days upstream |
| large_v5p_128 | 325 M | 400,000 | 192 x 30 s | `large` on a TPU v5p-128: 64 chips, 3 clips each |
| large_v5e_256 | 325 M | 300,000 | 256 x 30 s | a TPU v5e-256, 1 clip a chip: 192 do not divide by 256 |
| large_8xh100 | 325 M | 400,000 | 192 x 30 s | 8 H100 of 80 GB, 24 clips each in two turns |

None of the last four has been run yet. What a step of them needs, and what it cannot be faster than, by the
TPU's own compiler, is in experiments/BENCHMARKS.md; for GPUs nothing has been compiled. They compute in
bfloat16, with float32 parameters, and cut the parameters over up to 16 devices (`mesh`). On every host:

    python -m experiments.train --config=experiments/configs/muq.py:large_v5e_256 --workdir=SHARED/muq \
        --config.data.source=SHARDS --config.targets.rvq=RVQ_DIR

`large_v5e_256` sees the clips of the paper's run in 300,000 larger steps: warm-up and length are scaled by
192 / 256, the learning rate by the root of 256 / 192, to 5.8e-4. That is a rule of thumb, not a result.

Without `targets.rvq`, `smoke` and `tiny` fit a Mel-RVQ on the same data first, in WORKDIR/mel_rvq.

`tiny` learns at 3e-4, without dropout, and its front end stays as it was initialised (`optim.frozen`): a step
then takes 0.6 of the time at nearly the same loss, and the pitch of low notes is not lost in the first hour,
as it is where the front end is trained. The instrument of a note is learned more slowly.
`--config.optim.frozen="()"` trains it.

Expected: the cross-entropy starts at chance (ln 1,024 = 6.93), passes the code frequencies' within 200 steps
and goes on falling below it: `tiny` on 16 h of music ends at 4.82 on validation, the frequencies alone are at
6.34. Masked accuracy is low by nature: upstream calls 40 % unusual. Measured runs are in
experiments/RESULTS.md.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from experiments.configs import groups
from muq_jax.models.config import PRESETS

VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": dict(
        num_steps=6000, batch_size=8, crop_seconds=5, warmup_steps=100, peak_lr=3e-4,
        log_every=50, eval_every=500, checkpoint_every=250, fit="tiny", dropout=0.0,
        frozen=("subsample",),
    ),
    "smoke": dict(
        num_steps=30, batch_size=4, crop_seconds=2, warmup_steps=5, peak_lr=1e-3,
        log_every=5, eval_every=15, checkpoint_every=10, fit="smoke",
    ),
    "base": dict(
        num_steps=100_000, batch_size=64, crop_seconds=30, warmup_steps=8000, peak_lr=5e-4,
        log_every=100, eval_every=2000, checkpoint_every=1000, fit=None,
    ),
    "large": dict(
        num_steps=400_000, batch_size=192, crop_seconds=30, warmup_steps=32_000, peak_lr=5e-4,
        log_every=100, eval_every=5000, checkpoint_every=1000, fit=None, dtype="bfloat16", fsdp=-1,
    ),
}  # fmt: skip
VARIANTS |= {
    "large_v5p_128": VARIANTS["large"],
    "large_v5e_256": VARIANTS["large"]
    | dict(batch_size=256, num_steps=300_000, warmup_steps=24_000, peak_lr=5.8e-4),
    "large_8xh100": VARIANTS["large"] | dict(accumulate=2),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the configuration of a variant, `tiny` by default."""
    sizes = groups.variant_of(arg, VARIANTS)
    name = arg or next(iter(VARIANTS))
    preset = PRESETS[name.partition("_")[0]]
    smoke = name == "smoke"

    config = ConfigDict()
    config.seed = 0
    config.model = ConfigDict()
    config.model.dtype = sizes.get("dtype", "float32")
    config.model.mel = groups.mel_group(preset.mel)
    config.model.stat = groups.stat_field(groups.UPSTREAM_STAT if smoke else None)
    config.model.label_rate = preset.label_rate
    config.model.conv_channels = preset.conv_channels
    config.model.conformer = ConfigDict(dataclasses.asdict(preset.conformer))
    if "dropout" in sizes:
        for where in ("hidden", "attention", "activation", "conv"):
            config.model.conformer[f"{where}_dropout"] = sizes["dropout"]
    config.model.num_books = preset.num_books
    config.model.num_codes = preset.num_codes

    # name: "mel_rvq", or "random_projection" (BEST-RQ, MusicFM), whose sizes are model.num_books and
    # num_codes. rvq: a Mel-RVQ's work directory or model folder. fit: without it, the variant of mel_rvq.py
    # to run first. Upstream's plain vector quantiser is a Mel-RVQ of one book, fitted by mel_rvq.py with
    # model.rvq.num_books=1, code_dim=8 and stale_tolerance=1000; model.num_books is then 1 here, too.
    config.targets = ConfigDict()
    config.targets.name = "mel_rvq"
    config.targets.rvq = groups.optional(str)
    config.targets.fit = groups.optional(str, sizes["fit"])

    config.objective = ConfigDict()
    config.objective.name = "masked_prediction"
    config.objective.mask_seconds = preset.mask_seconds
    config.objective.mask_prob = preset.mask_prob
    config.objective.mask_noise_std = preset.mask_noise_std
    config.objective.mel_reconstruction_weight = preset.mel_reconstruction_weight

    config.data = groups.data_group(
        "toy_music:40" if smoke else "toy_music",
        batch_size=sizes["batch_size"],
        crop_seconds=sizes["crop_seconds"],
    )

    config.optim = ConfigDict()
    config.optim.peak_lr = sizes["peak_lr"]
    config.optim.schedule = "warmup_linear"
    config.optim.warmup_steps = sizes["warmup_steps"]
    config.optim.beta1 = 0.9
    config.optim.beta2 = 0.98
    config.optim.eps = 1e-6
    config.optim.weight_decay = 0.01
    config.optim.clip_norm = groups.optional(float, 10.0)
    config.optim.accumulate = sizes.get("accumulate", 1)
    config.optim.frozen = sizes.get("frozen", ())

    config.train = groups.train_group(
        sizes["num_steps"],
        log_every=sizes["log_every"],
        eval_every=sizes["eval_every"],
        checkpoint_every=sizes["checkpoint_every"],
    )
    config.mesh = groups.mesh_group(fsdp=sizes.get("fsdp", 1))
    return config
