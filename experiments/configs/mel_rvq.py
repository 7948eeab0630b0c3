r"""Mel-RVQ: the tokenizer whose codes MuQ predicts. 8 books of 1,024 codes, fitted to the stacked log-mel.

    python -m experiments.train --config=experiments/configs/mel_rvq.py:tiny --workdir=runs/mel_rvq \
        --config.data.source=FOLDER|MANIFEST|SHARDS

| variant | steps | batch | hardware and time |
|---|---|---|---|
| smoke | 40 | 4 x 1 s | a CPU, seconds; toy_music and upstream's mel statistics |
| tiny | 1,000 | 32 x 5 s | 2 CPU cores, ten minutes (2 steps a second) |
| large | 4,000 | 32 x 5 s | the paper's recipe; one GPU, about an hour upstream |

Expected: the error falls with every book, and every book uses most of its codes: `tiny` on 16 h of music used
983 or more of 1,024 in 50 steps. Measured runs are in experiments/RESULTS.md.
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.configs import groups
from muq_jax.models.config import MelRVQConfig

VARIANTS = {
    "tiny": dict(num_steps=1000, batch_size=32, crop_seconds=5, log_every=50, checkpoint_every=250),
    "smoke": dict(num_steps=40, batch_size=4, crop_seconds=1, log_every=10, checkpoint_every=20),
    "large": dict(num_steps=4000, batch_size=32, crop_seconds=5, log_every=50, checkpoint_every=500),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the configuration of a variant, `tiny` by default."""
    sizes = groups.variant_of(arg, VARIANTS)
    smoke = arg == "smoke"
    default = MelRVQConfig()

    config = ConfigDict()
    config.seed = 0
    config.model = ConfigDict()
    config.model.mel = groups.mel_group(default.mel)
    config.model.stat = groups.stat_field(groups.UPSTREAM_STAT if smoke else None)
    config.model.label_rate = default.label_rate
    config.model.rvq = ConfigDict(dataclasses.asdict(default.rvq))
    config.targets = ConfigDict()
    config.objective = ConfigDict({"name": "mel_rvq"})
    config.data = groups.data_group(
        "toy_music:40" if smoke else "toy_music",
        batch_size=sizes["batch_size"],
        crop_seconds=sizes["crop_seconds"],
    )
    config.optim = ConfigDict()
    config.optim.peak_lr = 1e-3 if smoke else 1e-4
    config.optim.schedule = "constant"
    config.optim.warmup_steps = 0
    config.optim.beta1 = 0.9
    config.optim.beta2 = 0.999
    config.optim.eps = 1e-8
    config.optim.weight_decay = 0.0
    config.optim.clip_norm = groups.optional(float)
    config.optim.accumulate = 1
    config.optim.frozen = ()
    config.train = groups.train_group(
        sizes["num_steps"],
        log_every=sizes["log_every"],
        eval_every=sizes["checkpoint_every"],
        checkpoint_every=sizes["checkpoint_every"],
    )
    config.mesh = groups.mesh_group()
    return config
