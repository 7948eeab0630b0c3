r"""Hidden-RVQ, the tokenizer of MuQ's iterative stage: 8 books of 1,024 codes, fitted to a layer of a MuQ.

    python -m experiments.train --config=experiments/configs/hidden_rvq.py:tiny --workdir=runs/hidden_rvq \
        --config.targets.teacher=runs/muq --config.data.source=FOLDER|MANIFEST|SHARDS

`muq_iter.py` runs this by itself; alone it serves to fit one tokenizer for several models, which then take it
by `--config.targets.rvq=runs/hidden_rvq`. The teacher hears each crop as it comes: no hidden state is stored.
Its variables are kept in the work directory's checkpoints, which hold all that is needed to make labels.

| variant | steps | batch | hardware and time |
|---|---|---|---|
| smoke | 20 | 4 x 2 s | a CPU, seconds; toy_music, and the teacher of muq.py:smoke that it trains first |
| tiny | 1,000 | 16 x 5 s | 2 CPU cores, half an hour while they were shared with others |
| base | 8,100 | 32 x 30 s | one GPU; not run yet |
| large | 8,100 | 32 x 30 s | the paper's stage; not run yet |

Upstream takes hidden_states[9] of 12, the same loss as the Mel-RVQ's, and the checkpoint of step 8,100. Its
batch is not known; 32 is the Mel-RVQ's.

Expected: as for a Mel-RVQ, the error falls with every book and every book uses most of its codes. Measured
runs are in experiments/RESULTS.md.
"""

from ml_collections import ConfigDict

from experiments.configs import groups, mel_rvq

VARIANTS = {
    "tiny": dict(num_steps=1000, batch_size=16, crop_seconds=5, log_every=50, checkpoint_every=250),
    "smoke": dict(
        num_steps=20, batch_size=4, crop_seconds=2, log_every=10, checkpoint_every=10, train="smoke",
    ),
    "base": dict(num_steps=8100, batch_size=32, crop_seconds=30, log_every=50, checkpoint_every=500),
    "large": dict(num_steps=8100, batch_size=32, crop_seconds=30, log_every=50, checkpoint_every=500),
}  # fmt: skip


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the configuration of a variant, `tiny` by default."""
    sizes = groups.variant_of(arg, VARIANTS)
    smoke = arg == "smoke"
    config = mel_rvq.get_config("smoke" if smoke else "tiny")

    # The mel and its statistics are the teacher's, and so is the width of what is quantised.
    rvq = config.model.rvq
    del rvq["input_dim"]
    config.model = ConfigDict({"dtype": "float32", "rvq": rvq})

    # teacher: a trained MuQ's work directory, model folder or hub id. train: without it, the variant of
    # muq.py to train first. layer: 0 to L; None is three quarters of the depth, 9 of 12. sha256: of the
    # teacher's weights, filled in, so that a run does not go on with another teacher.
    config.targets = ConfigDict()
    config.targets.teacher = groups.optional(str)
    config.targets.train = groups.optional(str, sizes.get("train"))
    config.targets.layer = groups.optional(int)
    config.targets.sha256 = groups.optional(str)

    config.objective = ConfigDict({"name": "hidden_rvq"})
    config.data.batch_size = sizes["batch_size"]
    config.data.crop_seconds = float(sizes["crop_seconds"])
    config.train = groups.train_group(
        sizes["num_steps"],
        log_every=sizes["log_every"],
        eval_every=sizes["checkpoint_every"],
        checkpoint_every=sizes["checkpoint_every"],
    )
    return config
