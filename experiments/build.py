"""From a configuration to what `muq_jax.train` takes: where objective, data and optimizer are wired."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.clips import crop_samples, train_source, valid_source
from experiments.configs.muq_iter import LABELS
from experiments.towers import (
    LR_FIELDS,
    LrFactors,
    Towers,
    given_towers,
    lr_factors,
    mulan_config,
    text_reader,
)
from muq_jax import parallel
from muq_jax.audio.mel import MelConfig
from muq_jax.convert import mel_rvq as mel_rvq_names
from muq_jax.convert import mulan as mulan_names
from muq_jax.convert import muq as muq_names
from muq_jax.convert import rules
from muq_jax.data.labels import LabelledSource
from muq_jax.data.pipeline import make_batches, make_eval_batches
from muq_jax.data.statistics import load_statistics, mel_statistics
from muq_jax.data.texts import TextReader, check_texts
from muq_jax.data.transforms import Augment
from muq_jax.errors import UserError
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.inference.pretrained import DTYPES, MuQ
from muq_jax.models.config import MelRVQConfig, MuQConfig
from muq_jax.models.config_json import mel_rvq_to_json, to_upstream_json
from muq_jax.models.hidden_rvq import HiddenRVQ, HiddenRVQConfig, hidden_rvq_to_json
from muq_jax.models.mulan_json import mulan_to_json
from muq_jax.models.muq import MuQModel
from muq_jax.nn.conformer import ConformerConfig
from muq_jax.objectives.masked_prediction import MaskedPrediction
from muq_jax.objectives.metric import Mean
from muq_jax.objectives.music_text import MusicText, summarize
from muq_jax.objectives.objective import Objective
from muq_jax.objectives.rvq import HiddenRVQObjective, MelRVQObjective
from muq_jax.objectives.targets import (
    HiddenRVQTargets,
    MelRVQTargets,
    RandomProjectionTargets,
    StoredTargets,
    Targets,
)
from muq_jax.quantize.random_projection import RandomProjectionConfig
from muq_jax.quantize.rvq import RVQConfig
from muq_jax.text.tokenizer import FILE as TOKENIZER
from muq_jax.train.flops import (
    mel_rvq_training_flops,
    mulan_training_flops,
    muq_forward_flops,
    muq_training_flops,
    rvq_training_flops,
)
from muq_jax.train.loop import LoopConfig, Task
from muq_jax.train.optim import OptimConfig
from muq_jax.train.state import TrainState

TARGETS = ("mel_rvq", "random_projection", "hidden_rvq")

Tensors = dict[str, np.ndarray]

Maker = MelRVQ | HiddenRVQ | MuQ | Towers | None
"""What a run builds on: the tokenizer of its targets, the teacher whose layer is quantised, or two towers."""


@dataclasses.dataclass(frozen=True)
class Trainee:
    """What a configuration trains.

    Attributes:
        objective: the model and its loss.
        levels: constants beside the metrics, such as the loss of chance.
        flops_per_clip: of a training step on one crop.
        model_config: the model's `config.json`, saved with every checkpoint.
        to_torch: from a training state to the tensors in use, under PyTorch's names; all hosts take part.
        given: what is trained already; of `train.state.init_state`.
        stored: makes the codes that are to be stored before training; None where they are made in the step.
        token_samples: crops start on multiples of it: a token's where codes are stored.
        texts: reads the texts that belong to the clips; None where there are none.
        lr_factors: of `OptimConfig`.
        summarize: of `Task`.
        beside: files of the work directory by name, such as a tokenizer.
    """

    objective: Objective
    levels: Mapping[str, float]
    flops_per_clip: float
    model_config: Mapping[str, Any]
    to_torch: Callable[[TrainState], Tensors]
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stored: HiddenRVQ | None = None
    token_samples: int = 1
    texts: TextReader | None = None
    lr_factors: LrFactors = ()
    summarize: Callable[[Mapping[str, np.ndarray]], dict[str, Mean]] | None = None
    beside: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


def make_task(config: ConfigDict, trainee: Trainee, mesh: Mesh, labels: Path | None = None) -> Task:
    """Returns the task of a resolved configuration; `labels` is where its codes are stored, if they are.

    Raises:
        UserError: there is no such data, or texts are to be read and a clip has none.
    """
    data = config.data
    if trainee.texts is not None and data.batch_size < 2:
        raise UserError(
            f"data.batch_size={data.batch_size}: every clip is told apart from the others of its step; "
            "expected 2 or more."
        )
    reading = dict(
        batch_size=data.batch_size,
        crop_samples=crop_samples(config),
        token_samples=trainee.token_samples,
        texts=trainee.texts,
        rows=parallel.host_rows(mesh, data.batch_size),
        num_workers=data.num_workers,
        num_threads=data.num_threads,
    )
    augment = Augment(data.gain_db, data.random_channel)
    source, valid = train_source(config), valid_source(config)
    if trainee.texts is not None:
        for clips in filter(None, (source, valid)):
            check_texts(clips)
    if labels is not None and trainee.stored is not None:
        sizes = dict(token_samples=trainee.token_samples, num_books=trainee.stored.config.rvq.num_books)
        source = LabelledSource(source, labels / "train", **sizes)
        valid = valid and LabelledSource(valid, labels / "valid", **sizes)
    train = partial(make_batches, source, seed=config.seed, augment=augment, **reading)
    return Task(
        objective=trainee.objective,
        optim=optim_config(config, trainee.lr_factors),
        train_batches=lambda start: train(start_step=start),
        valid_batches=None if valid is None else partial(make_eval_batches, valid, **reading),
        flops_per_step=trainee.flops_per_clip * data.batch_size,
        levels=trainee.levels,
        meta={"model": dict(trainee.model_config)},
        given=trainee.given,
        summarize=trainee.summarize,
    )


def optim_config(config: ConfigDict, lr_factors: LrFactors = ()) -> OptimConfig:
    """Returns the optimizer's configuration; the schedule ends with the run."""
    fields = config.optim.to_dict()
    del fields["accumulate"]
    fields["frozen"] = tuple(fields["frozen"])
    for name in LR_FIELDS:
        fields.pop(name, None)
    return OptimConfig(**fields, total_steps=config.train.num_steps, lr_factors=lr_factors)


def loop_config(config: ConfigDict) -> LoopConfig:
    """Returns the loop's configuration."""
    fields = config.train.to_dict()
    del fields["deterministic"]
    # A contrastive loss is over all pairs of a step: its objective alone knows how to take them in parts.
    accumulate = 1 if config.objective.name == "music_text" else config.optim.accumulate
    return LoopConfig(**fields, accumulate=accumulate, seed=config.seed)


def make_trainee(config: ConfigDict, maker: Maker) -> Trainee:
    """Returns what `config.objective.name` trains.

    Args:
        config: resolved: `model.stat` is known.
        maker: the trained model that makes the targets or teaches, where there is one.

    Raises:
        UserError: no such objective; numbers that no batch can be made from.
    """
    _check_batches(config)
    name = config.objective.name
    if name not in TRAINEES:
        raise UserError(f"objective.name={name!r}: expected one of {', '.join(TRAINEES)}.")
    return TRAINEES[name](config, maker)


def _check_batches(config: ConfigDict) -> None:
    data = config.data
    for name, value, lowest, highest in (
        ("data.batch_size", data.batch_size, 1, None),
        # The mel's window, and two whole tokens.
        ("data.crop_seconds", data.crop_seconds, 0.1, None),
        ("optim.accumulate", config.optim.accumulate, 1, None),
        ("data.num_threads", data.num_threads, 0, None),
        ("data.num_workers", data.num_workers, 0, None),
        ("seed", config.seed, 0, 2**32 - 1),
    ):
        if not value >= lowest or (highest is not None and value > highest):
            raise UserError(
                f"{name}={value}: expected {lowest} {'or more' if highest is None else f'to {highest}'}."
            )
    if data.batch_size % config.optim.accumulate:
        raise UserError(
            f"data.batch_size={data.batch_size} does not divide into "
            f"optim.accumulate={config.optim.accumulate} parts: take a multiple of that."
        )


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


def mel_rvq_config(config: ConfigDict) -> MelRVQConfig:
    """Returns the model of a configuration of `mel_rvq.py`."""
    return MelRVQConfig(_mel_config(config), RVQConfig(**config.model.rvq.to_dict()), config.model.label_rate)


def _make_mel_rvq(config: ConfigDict, maker: Maker) -> Trainee:
    model = mel_rvq_config(config)

    def to_torch(state: TrainState) -> Tensors:
        variables = parallel.fetch({"params": state.params, **state.model_state})
        return mel_rvq_names.to_torch_names(variables, model)

    return Trainee(
        objective=MelRVQObjective(model),
        levels={},
        flops_per_clip=mel_rvq_training_flops(model, crop_samples(config)),
        model_config=mel_rvq_to_json(model),
        to_torch=to_torch,
    )


def hidden_rvq_config(config: ConfigDict, teacher: MuQConfig) -> HiddenRVQConfig:
    """Returns the model of a configuration of `hidden_rvq.py` with this teacher."""
    if config.model.dtype not in DTYPES:
        raise UserError(f"model.dtype={config.model.dtype!r}: expected one of {', '.join(DTYPES)}.")
    rvq = RVQConfig(**config.model.rvq.to_dict(), input_dim=teacher.conformer.width)
    # Its own tokenizer is no part of what teaches.
    teacher = dataclasses.replace(teacher, rvq=None)
    return HiddenRVQConfig(teacher, config.targets.layer, rvq, config.model.dtype)


def _make_hidden_rvq(config: ConfigDict, maker: Maker) -> Trainee:
    assert isinstance(maker, MuQ)
    model, samples = hidden_rvq_config(config, maker.config), crop_samples(config)
    teacher = {name: maker.variables[name] for name in ("params", "batch_stats") if name in maker.variables}

    def to_torch(state: TrainState) -> Tensors:
        variables = {"params": state.params, "codebook_state": state.model_state["codebook_state"]}
        return rules.to_torch(parallel.fetch(variables), mel_rvq_names.mel_rvq_table(model.rvq))

    return Trainee(
        objective=HiddenRVQObjective(model),
        levels={},
        flops_per_clip=muq_forward_flops(model.teacher, samples)
        + rvq_training_flops(model.rvq, samples // model.token_samples),
        model_config=hidden_rvq_to_json(model),
        to_torch=to_torch,
        given={"teacher": teacher},
    )


def _make_masked_prediction(config: ConfigDict, maker: Maker) -> Trainee:
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
        rvq=maker.config.rvq if isinstance(maker, MelRVQ) else None,
        **{name: fields[name] for name in ("conv_channels", "label_rate", "num_books", "num_codes")},
        **objective,
    )
    targets = _make_targets(config, model, maker)
    stored = maker if isinstance(targets, StoredTargets) and isinstance(maker, HiddenRVQ) else None
    given = {}
    if isinstance(maker, MelRVQ | HiddenRVQ) and not isinstance(targets, StoredTargets):
        given[targets.collection] = maker.variables
    samples = crop_samples(config)
    flops = muq_training_flops(model, samples, frozen_subsampling="subsample" in config.optim.frozen)
    if isinstance(targets, HiddenRVQTargets):
        flops += muq_forward_flops(targets.config.teacher, samples)

    def to_torch(state: TrainState) -> Tensors:
        collections = {
            name: state.model_state[name] for name in ("batch_stats", "rvq") if name in state.model_state
        }
        return muq_names.to_torch_names(parallel.fetch({"params": state.params, **collections}), model)

    return Trainee(
        objective=MaskedPrediction(MuQModel(model, config.model.dtype), targets),
        levels={"chance": float(np.log(model.num_codes))},
        flops_per_clip=flops,
        model_config=to_upstream_json(model),
        to_torch=to_torch,
        given=given,
        stored=stored,
        token_samples=1 if stored is None else stored.config.token_samples,
    )


def _make_targets(config: ConfigDict, model: MuQConfig, maker: Maker) -> Targets | StoredTargets:
    if isinstance(maker, MelRVQ):
        return MelRVQTargets(maker.config)
    if isinstance(maker, HiddenRVQ):
        labels = config.targets.labels
        if labels not in LABELS:
            raise UserError(f"targets.labels={labels!r}: expected one of {', '.join(LABELS)}.")
        computed = HiddenRVQTargets(maker.config)
        if labels == "computed":
            return computed
        if config.data.gain_db is not None or config.data.random_channel:
            raise UserError(
                "targets.labels=stored has the codes of the clips as they are; with data.gain_db or "
                "data.random_channel, which change them, use --config.targets.labels=computed."
            )
        return StoredTargets(computed)
    sizes = RandomProjectionConfig(
        num_books=model.num_books,
        num_codes=model.num_codes,
        input_dim=model.mel.num_mels * model.frames_per_token,
    )
    return RandomProjectionTargets(sizes, model.mel, model.frames_per_token)


def _make_music_text(config: ConfigDict, maker: Maker) -> Trainee:
    assert isinstance(maker, Towers)
    if config.model.dtype not in DTYPES:
        raise UserError(f"model.dtype={config.model.dtype!r}: expected one of {', '.join(DTYPES)}.")
    model = mulan_config(config, maker)
    objective = MusicText(
        model,
        config.model.dtype,
        loss_name=config.objective.loss,
        temperature=config.objective.temperature,
        num_parts=config.optim.accumulate,
        skip_same_text=config.objective.skip_same_text,
        num_layers=config.objective.num_layers,
    )

    def to_torch(state: TrainState) -> Tensors:
        variables = parallel.fetch({"params": state.params, **state.model_state})
        return mulan_names.to_torch_names(variables, model)

    samples, reads = crop_samples(config), text_reader(config, maker)
    return Trainee(
        objective=objective,
        levels={},
        flops_per_clip=mulan_training_flops(model, samples, reads.max_tokens, frozen=config.optim.frozen),
        model_config=mulan_to_json(model),
        to_torch=to_torch,
        given=given_towers(maker),
        texts=reads,
        lr_factors=lr_factors(config, model),
        summarize=summarize,
        beside={TOKENIZER: maker.tokenizer},
    )


TRAINEES: Mapping[str, Callable[[ConfigDict, Maker], Trainee]] = {
    "mel_rvq": _make_mel_rvq,
    "hidden_rvq": _make_hidden_rvq,
    "masked_prediction": _make_masked_prediction,
    "music_text": _make_music_text,
}
