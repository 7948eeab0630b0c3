"""What the configurations share: the groups that do not depend on what is trained."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict, FieldReference

from muq_jax.audio.mel import MelConfig

# Mean and standard deviation in dB of the log-mel over the Million Song Dataset, as in the released model.
UPSTREAM_STAT = (6.768444971712967, 18.417922652295623)


def variant_of(arg: str | None, variants: dict[str, Any]) -> Any:
    """Returns the entry that `--config=FILE.py:ARG` names; the first one without ARG.

    Raises:
        ValueError: there is none of that name.
    """
    if arg and arg not in variants:
        raise ValueError(f"no variant {arg!r}; expected one of {', '.join(variants)}")
    return variants[arg or next(iter(variants))]


def mel_group(config: MelConfig) -> ConfigDict:
    """The front end's sizes; its statistics are measured, see `stat` beside it."""
    fields = dataclasses.asdict(config)
    return ConfigDict({name: value for name, value in fields.items() if name not in ("mean", "std")})


def optional(kind: type, value: Any = None) -> FieldReference:
    """A field that is `value` and may be set to None or another value of its kind."""
    return FieldReference(value, field_type=kind)


def stat_field(stat: tuple[float, float] | None) -> FieldReference:
    """(mean, standard deviation) of the mel in dB where the data is no shards; None: measured once."""
    return optional(tuple, stat)


def data_group(source: str, *, batch_size: int, crop_seconds: float) -> ConfigDict:
    """Where clips come from.

    Fields:
        source: FOLDER | MANIFEST | SHARDS | toy_music[:CLIPS] | mtg_jamendo:FOLDER | tfds:NAME, or a
            mixture of these with weights: runs/rock=0.7,runs/folk=0.3.
        valid_source: None is the split "val" ("valid", "validation") of `source`, if it has one.
        batch_size: clips a step, of all hosts together.
        crop_seconds: length of the crop that is heard of a clip.
        gain_db: (lowest, highest) gain, drawn for each crop; None leaves the level.
        random_channel: one channel at random instead of their mean, as upstream's training; needs audio
            files.
        num_workers: processes that make batches; with 0 it is threads of this one.
        num_threads: batches made at a time by each process.
    """
    data = ConfigDict()
    data.source = source
    data.valid_source = optional(str)
    data.batch_size = batch_size
    data.crop_seconds = float(crop_seconds)
    data.gain_db = optional(tuple)
    data.random_channel = False
    data.num_workers = 0
    data.num_threads = 4
    return data


def train_group(num_steps: int, *, log_every: int, eval_every: int, checkpoint_every: int) -> ConfigDict:
    """How long and how often, in steps.

    Fields beside those of `LoopConfig`:
        deterministic: only operations that repeat bit by bit on a GPU.
    """
    train = ConfigDict()
    train.num_steps = num_steps
    train.log_every = log_every
    train.eval_every = eval_every
    train.checkpoint_every = checkpoint_every
    train.keep_checkpoints = 2
    train.max_nonfinite = 20
    train.deterministic = False
    # Also how long a host waits for the coordinator at the start.
    train.timeout_seconds = 900.0
    return train


def mesh_group(*, fsdp: int = 1) -> ConfigDict:
    """Devices that share one copy of the parameters (fsdp), times copies (data); -1 takes the rest.

    Where both are -1, fsdp is chosen from the number of devices, see `parallel.make_mesh`.
    """
    return ConfigDict({"data": -1, "fsdp": fsdp})
