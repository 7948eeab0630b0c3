"""What a run is built on: a tokenizer or a teacher, trained already or by a run of its own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments import build
from experiments.build import Maker
from experiments.configs import hidden_rvq, mel_rvq, muq
from experiments.configs.groups import UPSTREAM_STAT
from experiments.towers import Towers, make_towers, sizes_of_towers
from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.checkpoint import newest_step
from muq_jax.convert.folder import is_work_directory
from muq_jax.convert.reader import CONFIG, read_json
from muq_jax.convert.workdir import read_hidden_rvq
from muq_jax.errors import UserError, mistakes_in
from muq_jax.inference.load import params_sha256
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.inference.pretrained import MuQ
from muq_jax.models.config import MuQConfig
from muq_jax.models.config_json import from_upstream_json
from muq_jax.models.hidden_rvq import HiddenRVQ, default_layer

_DATA = ("source", "valid_source", "gain_db", "random_channel", "num_workers", "num_threads")
"""What a stage's data has from the run that it serves."""


class Before(NamedTuple):
    """What comes before a run.

    Attributes:
        maker: what makes the targets; where a run has to train it first, its sizes alone.
        config: the configuration of that run; None where nothing has to be trained.
        folder: its work directory below this run's.
        load: reads the maker from there.
    """

    maker: Maker = None
    config: ConfigDict | None = None
    folder: str = ""
    load: Callable[[Path], Maker] = lambda folder: None


def before(config: ConfigDict, stored_stat: Any = None, stored: Path | None = None) -> Before:
    """Returns what comes before a run, and resolves in `config` what follows from it.

    Args:
        config: the run's; its mel statistics, layer and the digests of what it builds on are filled in.
        stored_stat: the statistics that the run began with, where it has begun.
        stored: its work directory, where it has begun.

    Raises:
        UserError: a tokenizer or teacher that cannot serve, or none where one is needed.
    """
    if config.objective.name == "hidden_rvq":
        return _before_hidden_rvq(config)
    if config.objective.name == "music_text":
        return _before_music_text(config, stored)
    name = config.targets.get("name")
    if name == "hidden_rvq":
        return _before_muq_iter(config)
    if name == "mel_rvq" and config.targets.rvq is not None:
        rvq = fitted_rvq(Path(config.targets.rvq))
        # The codes are learned from a mel normalised like this, and a model folder has one pair for both.
        config.model.stat = (rvq.config.mel.mean, rvq.config.mel.std)
        return Before(rvq)
    if config.model.stat is None and stored_stat is not None:
        config.model.stat = tuple(stored_stat)
    config.model.stat = build.resolve_stat(config)
    if name != "mel_rvq":
        return Before()
    stage = mel_rvq_stage(config)
    return Before(MelRVQ(build.mel_rvq_config(stage), {}), stage, "mel_rvq", MelRVQ.from_pretrained)


def fitted_rvq(folder: Path) -> MelRVQ:
    """Returns the Mel-RVQ of a model folder or a work directory.

    Raises:
        UserError: there is none, or its own run has not come to its end.
    """
    _check_finished(folder, f"targets.rvq={folder}: this Mel-RVQ is fitted", "mel_rvq")
    return MelRVQ.from_pretrained(folder)


def mel_rvq_stage(config: ConfigDict) -> ConfigDict:
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
    rvq.model.mel = config.model.mel
    rvq.model.stat = config.model.stat
    rvq.model.label_rate = config.model.label_rate
    frames_per_token = 100 // config.model.label_rate
    rvq.model.rvq.input_dim = config.model.mel.num_mels * frames_per_token
    return _serving(rvq, config)


def _before_muq_iter(config: ConfigDict) -> Before:
    """The Hidden-RVQ whose codes a MuQ of the iterative stage predicts."""
    targets = config.targets
    if targets.rvq is not None:
        if targets.teacher is not None or targets.layer is not None:
            raise UserError(
                "targets.rvq brings its own teacher and layer: leave out targets.teacher and targets.layer, "
                "or leave out targets.rvq to have a tokenizer fitted to them."
            )
        found = Before(fitted_hidden_rvq(Path(targets.rvq)))
    else:
        stage = _hidden_rvq_stage(config)
        sizes = _before_hidden_rvq(stage)
        targets.layer = stage.targets.layer
        found = Before(
            HiddenRVQ(build.hidden_rvq_config(stage, _teacher_config(sizes.maker)), {}),
            stage,
            "hidden_rvq",
            fitted_hidden_rvq,
        )
    assert isinstance(found.maker, HiddenRVQ)
    teacher = found.maker.config.teacher
    if teacher.label_rate != config.model.label_rate:
        raise UserError(
            f"the teacher makes {teacher.label_rate} tokens a second, "
            f"model.label_rate={config.model.label_rate}: set "
            f"--config.model.label_rate={teacher.label_rate}, or take another targets.teacher."
        )
    config.model.stat = (teacher.mel.mean, teacher.mel.std)
    return found


def _hidden_rvq_stage(config: ConfigDict) -> ConfigDict:
    """The configuration of the Hidden-RVQ that a MuQ's own configuration asks to be fitted first."""
    if config.targets.fit is None:
        raise UserError(
            "targets.rvq is not set: the iterative stage predicts the codes of a Hidden-RVQ. Let this run "
            "fit one first by --config.targets.fit=tiny, or fit it with experiments/configs/hidden_rvq.py."
        )
    stage = hidden_rvq.get_config(config.targets.fit)
    stage.targets.teacher, stage.targets.layer = config.targets.teacher, config.targets.layer
    stage.model.dtype = config.model.dtype
    stage.data.crop_seconds = config.data.crop_seconds
    return _serving(stage, config)


def fitted_hidden_rvq(folder: Path) -> HiddenRVQ:
    """Returns what a run of hidden_rvq.py has fitted.

    Raises:
        UserError: there is none, or its run has not come to its end.
    """
    if not is_work_directory(folder):
        raise UserError(
            f"targets.rvq={folder}: expected the work directory of a run of "
            "experiments/configs/hidden_rvq.py."
        )
    _check_finished(folder, f"targets.rvq={folder}: this Hidden-RVQ is fitted", "hidden_rvq")
    return HiddenRVQ(*read_hidden_rvq(folder))


def _before_hidden_rvq(config: ConfigDict) -> Before:
    """The teacher to whose layer a Hidden-RVQ is fitted."""
    found = _before_muq(config, "teacher", "the iterative stage learns from a layer of a trained MuQ")
    if config.targets.layer is None:
        config.targets.layer = default_layer(_teacher_config(found.maker).conformer.num_layers)
    return found


def _before_music_text(config: ConfigDict, stored: Path | None) -> Before:
    """The MuQ and the text encoder with which a MuQ-MuLan begins."""
    found = _before_muq(config, "muq", "the audio tower of a MuQ-MuLan begins as a trained MuQ")
    assert isinstance(found.maker, MuQ)
    towers = make_towers(config, found.maker, stored)

    def load(folder: Path) -> Towers:
        muq = found.load(folder)
        assert isinstance(muq, MuQ)
        return towers._replace(muq=muq)

    return found._replace(maker=towers, load=load)


def untrained_towers(config: ConfigDict) -> Towers:
    """Returns the towers of a MuQ-MuLan as their sizes alone, to see what a step of theirs costs.

    Its MuQ is the given one, or the variant of muq.py that would be trained first, by default `large`.

    Raises:
        UserError: there is no such MuQ or text encoder.
    """
    if config.targets.muq is not None:
        return sizes_of_towers(config, _trained_muq(config.targets.muq, "muq").config)
    stage = muq.get_config(config.targets.train or "large")
    stage.model.stat, stage.targets.fit = UPSTREAM_STAT, stage.targets.fit or "large"
    rvq = MelRVQ(build.mel_rvq_config(mel_rvq_stage(stage)), {})
    sizes = build.make_trainee(stage, rvq).model_config
    return sizes_of_towers(config, from_upstream_json(dict(sizes)))


def _before_muq(config: ConfigDict, field: str, why: str) -> Before:
    """The trained MuQ that a field of `targets` names, or that is to be trained first."""
    targets = config.targets
    if targets[field] is not None:
        trained = _trained_muq(targets[field], field)
        targets.sha256 = params_sha256(trained)
        return Before(trained)
    if targets.train is None:
        raise UserError(
            f"targets.{field} is not set: {why}. Train one with\n"
            "  python -m experiments.train --config=experiments/configs/muq.py:tiny --workdir=runs/muq "
            f"--config.data.source={config.data.source}\n"
            f"and add --config.targets.{field}=runs/muq; a model folder or a hub id will do, too."
        )
    stage = muq.get_config(targets.train)
    _serving(stage, config)
    sizes = build.make_trainee(stage, before(stage).maker).model_config
    return Before(MuQ(from_upstream_json(dict(sizes)), {}), stage, field, partial(_trained_muq, field=field))


def _trained_muq(name: Any, field: str) -> MuQ:
    """Returns a MuQ to build on.

    Raises:
        UserError: it is no MuQ, hears another rate than what data gives, or its run has not come to its end.
    """
    where = f"targets.{field}={name}"
    export = "or export it as it is with `convert`"
    _check_finished(Path(name), f"{where}: this MuQ is trained", "masked_prediction", export)
    with mistakes_in(where):
        found = MuQ.from_pretrained(name)
    if found.sample_rate_hz != SAMPLE_RATE_HZ:
        raise UserError(
            f"{where}: this MuQ hears {found.sample_rate_hz} Hz, the data is read at {SAMPLE_RATE_HZ} Hz. "
            "Take another one."
        )
    return found


def _check_finished(folder: Path, what: str, objective: str, other: str = "") -> None:
    if not (folder.is_dir() and is_work_directory(folder) and (folder / CONFIG).is_file()):
        return
    described, step = read_json(folder / CONFIG), newest_step(folder)
    if step is None or described.get("objective", {}).get("name") != objective:
        return
    num_steps = described["train"]["num_steps"]
    if step < num_steps:
        raise UserError(
            f"{what} to step {step} of {num_steps} only. Run its command again until it says that it is done"
            f"{', ' + other if other else ''}."
        )


def _teacher_config(teacher: Maker) -> MuQConfig:
    assert isinstance(teacher, MuQ)
    return teacher.config


def _serving(stage: ConfigDict, config: ConfigDict) -> ConfigDict:
    """Returns the configuration of a stage, on the data, devices and seed of the run that it serves."""
    stage.seed = config.seed
    stage.mesh = config.mesh
    for name in _DATA:
        stage.data[name] = config.data[name]
    return stage
