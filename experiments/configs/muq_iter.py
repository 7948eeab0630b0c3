r"""MuQ's iterative stage: predict the codes of a trained MuQ's layer (MuQ, arXiv 2501.01108).

    python -m experiments.train --config=experiments/configs/muq_iter.py:tiny --workdir=runs/muq_iter \
        --config.targets.teacher=runs/muq --config.data.source=FOLDER|MANIFEST|SHARDS \
        [--config.targets.labels=stored]

One command, three stages, each of which goes on where it was stopped or killed:

1. WORKDIR/hidden_rvq: a fresh residual quantiser is fitted to layer 9 of 12 of the teacher (three quarters of
   any other depth), as `hidden_rvq.py` says; `--config.targets.rvq=DIR` takes one that was fitted by that
   configuration with settings of its own, such as more steps or a batch that more devices divide.
2. WORKDIR/labels, with `targets.labels=stored` alone: the codes of the whole corpus.
3. WORKDIR: a MuQ of fresh parameters learns to predict the codes. It ends as any run of `muq.py` does.

| variant | parameters | steps | batch | hardware and time |
|---|---|---|---|---|
| smoke | 0.4 M | 30 | 4 x 2 s | a CPU, two minutes; trains its own teacher first |
| tiny | 7 M | 6,000 | 8 x 5 s | 2 CPU cores, an hour and a half |
| base | 83 M | 100,000 | 64 x 30 s | one GPU; not run yet |
| large | 325 M | 400,000 | 192 x 30 s | the paper's recipe, that of its first stage; not run yet |

**computed** (the default): the teacher hears each crop, clean, in the training step itself. It costs a
forward pass a step and needs nothing beside the corpus; its weights are sharded like the model's, and lie in
the checkpoints with it.

**stored**: the teacher hears every clip once, in windows of `data.crop_seconds` that follow each other from
the clip's start; the last one is what is left. A crop starts on a token and takes the codes of its tokens.
Where it coincides with a window, stored and computed codes are the same; any other crop has codes of two
windows, which the teacher heard with other surroundings: of a crop of 5 s, half a window off, 38 % were those
that it has by itself (experiments/RESULTS.md). Upstream trains on the windows themselves, 30 s on a 30 s
grid: so does this on shards whose pieces are as long as a crop (`prepare --piece_seconds`). Labels are of the
clips as they are: `data.gain_db` and `data.random_channel` need computed ones.

The model hears with the teacher's mel and its statistics. It carries no Mel-RVQ, since it learned no codes of
a mel: `MelRVQ.from_pretrained` says so. In PyTorch its folder loads with `strict=True`, as a model whose
`use_rvq_target` is false. (Upstream's own iterative release says true, and may hold a quantiser that was
never trained.)

Expected: the cross-entropy starts at chance (ln 1,024 = 6.93) and falls below the code frequencies'. It is
not comparable with the first stage's: other codes. Measured runs are in experiments/RESULTS.md.
"""

from ml_collections import ConfigDict

from experiments.configs import groups, muq

LABELS = ("computed", "stored")


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the configuration of a variant, `tiny` by default: that of `muq.py` with other targets."""
    config = muq.get_config(arg)
    config.model.stat = None

    # rvq: the work directory of hidden_rvq.py. fit: without it, the variant to run first, with the teacher
    # and the layer given here. labels: "computed" or "stored".
    config.targets = ConfigDict()
    config.targets.name = "hidden_rvq"
    config.targets.rvq = groups.optional(str)
    config.targets.fit = groups.optional(str, (arg or "tiny").partition("_")[0])
    config.targets.teacher = groups.optional(str)
    config.targets.layer = groups.optional(int)
    config.targets.labels = "computed"
    return config
