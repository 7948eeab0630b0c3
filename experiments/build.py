"""From a configuration to what `muq_jax.train` takes: where objective, data and optimizer are wired."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.configs import mel_rvq
from muq_jax import parallel
from muq_jax.audio.mel import MelConfig
from muq_jax.convert import mel_rvq as mel_rvq_names
from muq_jax.convert import muq as muq_names
from muq_jax.data.pipeline import make_batches, make_eval_batches
from muq_jax.data.sources import Source, make_source
from muq_jax.data.splits import split_names
from muq_jax.data.statistics import load_statistics, mel_statistics
from muq_jax.data.transforms import Augment
from muq_jax.errors import UserError
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.inference.pretrained import DTYPES
from muq_jax.models.config import MelRVQConfig, MuQConfig
from muq_jax.models.config_json import mel_rvq_to_json, to_upstream_json
from muq_jax.models.muq import MuQModel
from muq_jax.nn.conformer import ConformerConfig
from muq_jax.objectives.masked_prediction import MaskedPrediction
from muq_jax.objectives.objective import Objective
from muq_jax.objectives.rvq import MelRVQObjective
from muq_jax.objectives.targets import MelRVQTargets, RandomProjectionTargets, Targets
from muq_jax.quantize.random_projection import RandomProjectionConfig
from muq_jax.quantize.rvq import RVQConfig
from muq_jax.train.flops import mel_rvq_training_flops, muq_training_flops
from muq_jax.train.loop import LoopConfig, Task
from muq_jax.train.optim import OptimConfig
from muq_jax.train.state import TrainState

TARGETS = ("mel_rvq", "random_projection")
VALID_SPLITS = ("val", "valid", "validation")

Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Trainee:
    """What a configuration trains.

    Attributes:
        objective: the model and its loss.
        num_codes: V; what chance gets wrong.
        flops_per_clip: of a training step on one crop.
        model_config: the model's `config.json`, saved with every checkpoint.
        to_torch: from a training state to the tensors in use, under PyTorch's names; all hosts take part.
    """

    objective: Objective
    num_codes: int
    flops_per_clip: float
    model_config: Mapping[str, Any]
    to_torch: Callable[[TrainState], Tensors]


def make_task(config: ConfigDict, trainee: Trainee, mesh: Mesh) -> Task:
    """Returns the task of a resolved configuration."""
    data = config.data
    reading = dict(
        batch_size=data.batch_size,
        crop_samples=crop_samples(config),
        rows=parallel.host_rows(mesh, data.batch_size),
        num_workers=data.num_workers,
        num_threads=data.num_threads,
    )
    augment = Augment(data.gain_db, data.random_channel)
    train = partial(make_batches, train_source(config), seed=config.seed, augment=augment, **reading)
    valid = valid_source(config)
    masked = config.objective.name == "masked_prediction"
    return Task(
        objective=trainee.objective,
        optim=optim_config(config),
        train_batches=lambda start: train(start_step=start),
        valid_batches=None if valid is None else partial(make_eval_batches, valid, **reading),
        flops_per_step=trainee.flops_per_clip * data.batch_size,
        levels={"chance": float(np.log(trainee.num_codes))} if masked else {},
        meta={"model": dict(trainee.model_config)},
    )


def optim_config(config: ConfigDict) -> OptimConfig:
    """Returns the optimizer's configuration; the schedule ends with the run."""
    fields = config.optim.to_dict()
    del fields["accumulate"]
    fields["frozen"] = tuple(fields["frozen"])
    return OptimConfig(**fields, total_steps=config.train.num_steps)


def loop_config(config: ConfigDict) -> LoopConfig:
    """Returns the loop's configuration."""
    fields = config.train.to_dict()
    del fields["deterministic"]
    return LoopConfig(**fields, accumulate=config.optim.accumulate, seed=config.seed)


def make_trainee(config: ConfigDict, rvq: MelRVQ | None) -> Trainee:
    """Returns what `config.objective.name` trains.

    Args:
        config: resolved: `model.stat` is known.
        rvq: the trained Mel-RVQ that makes the targets, where there is one.

    Raises:
        UserError: no such objective; numbers that no batch can be made from.
    """
    _check_batches(config)
    name = config.objective.name
    if name not in TRAINEES:
        raise UserError(f"objective.name={name!r}: expected one of {', '.join(TRAINEES)}.")
    return TRAINEES[name](config, rvq)


def _check_batches(config: ConfigDict) -> None:
    data = config.data
    for name, value, lowest, highest in (
        ("data.batch_size", data.batch_size, 1, None),
        # The mel's window, and two whole tokens.
        ("data.crop_seconds", data.crop_seconds, 0.1, None),
        ("data.num_threads", data.num_threads, 0, None),
        ("data.num_workers", data.num_workers, 0, None),
        ("seed", config.seed, 0, 2**32 - 1),
    ):
        if not value >= lowest or (highest is not None and value > highest):
            raise UserError(
                f"{name}={value}: expected {lowest} {'or more' if highest is None else f'to {highest}'}."
            )


def train_source(config: ConfigDict) -> Source:
    """Returns the training split of `data.source`, or all of it where it has no splits."""
    splits = split_names(config.data.source)
    return make_source(
        config.data.source, split="train" if splits else None, keep_channels=config.data.random_channel
    )


def valid_source(config: ConfigDict) -> Source | None:
    """Returns the validation clips: of `data.valid_source`, else of `data.source`; None where it has none."""
    spec = config.data.valid_source or config.data.source
    splits = split_names(spec)
    split = next((split for split in VALID_SPLITS if split in splits), None)
    if split is None and not config.data.valid_source:
        return None
    return make_source(spec, split=split)


def resolve_stat(config: ConfigDict) -> tuple[float, float]:
    """Returns the mel's mean and standard deviation: of the shards, else `model.stat`, else measured here."""
    given, stats = config.model.stat, load_statistics(config.data.source)
    if given is not None and (len(given) != 2 or not given[1] > 0):
        raise UserError(
            f"model.stat={given}: expected the mean and the standard deviation of the mel in dB, such as "
            "(6.77,18.4)."
        )
    if stats is None and given is not None:
        return float(given[0]), float(given[1])
    stats = stats or mel_statistics(train_source(config))
    return float(stats["mean"]), float(stats["std"])


def _mel_config(config: ConfigDict) -> MelConfig:
    mean, std = config.model.stat
    return MelConfig(**config.model.mel.to_dict(), mean=mean, std=std)


def crop_samples(config: ConfigDict) -> int:
    return round(config.data.crop_seconds * config.model.mel.sample_rate_hz)


def mel_rvq_config(config: ConfigDict) -> MelRVQConfig:
    """Returns the model of a configuration of `mel_rvq.py`."""
    return MelRVQConfig(_mel_config(config), RVQConfig(**config.model.rvq.to_dict()), config.model.label_rate)


def rvq_config(config: ConfigDict) -> ConfigDict:
    """Returns the configuration of the Mel-RVQ that a MuQ's own configuration asks to be fitted first.

    Raises:
        UserError: it does not ask.
    """
    if config.targets.fit is None:
        raise UserError(
            "targets.rvq is not set: MuQ learns to predict the codes of a trained Mel-RVQ. Fit one with\n"
            "  python -m experiments.train --config=experiments/configs/mel_rvq.py:large --workdir=RVQ_DIR "
            f"--config.data.source={config.data.source}\n"
            "and add --config.targets.rvq=RVQ_DIR, or let this run fit one first by "
            "--config.targets.fit=tiny."
        )
    rvq = mel_rvq.get_config(config.targets.fit)
    rvq.seed = config.seed
    rvq.mesh = config.mesh
    rvq.model.mel = config.model.mel
    rvq.model.stat = config.model.stat
    rvq.model.label_rate = config.model.label_rate
    frames_per_token = 100 // config.model.label_rate
    rvq.model.rvq.input_dim = config.model.mel.num_mels * frames_per_token
    for name in ("source", "valid_source", "gain_db", "random_channel", "num_workers", "num_threads"):
        rvq.data[name] = config.data[name]
    return rvq


def _make_mel_rvq(config: ConfigDict, rvq: MelRVQ | None) -> Trainee:
    model = mel_rvq_config(config)

    def to_torch(state: TrainState) -> Tensors:
        variables = parallel.fetch({"params": state.params, **state.model_state})
        return mel_rvq_names.to_torch_names(variables, model)

    return Trainee(
        objective=MelRVQObjective(model),
        num_codes=model.rvq.num_codes,
        flops_per_clip=mel_rvq_training_flops(model, crop_samples(config)),
        model_config=mel_rvq_to_json(model),
        to_torch=to_torch,
    )


@dataclasses.dataclass(frozen=True)
class TrainedTargets(MelRVQTargets):
    """Codes of a Mel-RVQ that is trained already: its variables are given, not drawn."""

    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def init(self, key: jax.Array) -> dict[str, Any]:
        return dict(self.variables)


def _make_masked_prediction(config: ConfigDict, rvq: MelRVQ | None) -> Trainee:
    if config.model.dtype not in DTYPES:
        raise UserError(f"model.dtype={config.model.dtype!r}: expected one of {', '.join(DTYPES)}.")
    if config.targets.name not in TARGETS:
        raise UserError(f"targets.name={config.targets.name!r}: expected one of {', '.join(TARGETS)}.")
    fields = config.model.to_dict()
    objective = config.objective.to_dict()
    del objective["name"]
    model = MuQConfig(
        mel=_mel_config(config),
        conformer=ConformerConfig(**fields["conformer"]),
        rvq=rvq.config.rvq if rvq else None,
        **{name: fields[name] for name in ("conv_channels", "label_rate", "num_books", "num_codes")},
        **objective,
    )
    targets: Targets
    if rvq is not None:
        targets = TrainedTargets(rvq.config, variables=rvq.variables)
    else:
        sizes = RandomProjectionConfig(
            num_books=model.num_books,
            num_codes=model.num_codes,
            input_dim=model.mel.num_mels * model.frames_per_token,
        )
        targets = RandomProjectionTargets(sizes, model.mel, model.frames_per_token)

    def to_torch(state: TrainState) -> Tensors:
        collections = {
            name: state.model_state[name] for name in ("batch_stats", "rvq") if name in state.model_state
        }
        return muq_names.to_torch_names(parallel.fetch({"params": state.params, **collections}), model)

    return Trainee(
        objective=MaskedPrediction(MuQModel(model, config.model.dtype), targets),
        num_codes=model.num_codes,
        flops_per_clip=muq_training_flops(
            model, crop_samples(config), frozen_subsampling="subsample" in config.optim.frozen
        ),
        model_config=to_upstream_json(model),
        to_torch=to_torch,
    )


TRAINEES: Mapping[str, Callable[[ConfigDict, MelRVQ | None], Trainee]] = {
    "mel_rvq": _make_mel_rvq,
    "masked_prediction": _make_masked_prediction,
}
