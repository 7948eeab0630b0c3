"""Work directories of `experiments/train.py` as sources of models: their newest whole checkpoint."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muq_jax import checkpoint
from muq_jax.convert import mel_rvq as mel_rvq_table
from muq_jax.convert import mulan as mulan_table
from muq_jax.convert import muq as muq_table
from muq_jax.convert.reader import CONFIG, read_json
from muq_jax.convert.rules import Tensors, Tree, flatten, params_sha256, to_torch
from muq_jax.errors import UserError
from muq_jax.models.config import MelRVQConfig, MuQConfig
from muq_jax.models.config_json import from_upstream_json, mel_rvq_from_json
from muq_jax.models.hidden_rvq import MODEL_TYPE, HiddenRVQConfig, hidden_rvq_from_json
from muq_jax.models.mulan import MuLanConfig
from muq_jax.models.mulan_json import mulan_from_json


@dataclass(frozen=True)
class Run:
    """What a run has trained.

    Attributes:
        model_type, config, variables: the model.
        drawn: what else an export of it holds, by PyTorch name: the random projection of its targets.
        step: of the newest whole checkpoint.
        facts: sentences for a model's card.
    """

    model_type: str
    config: Any
    variables: Tree
    drawn: Tensors
    step: int
    facts: tuple[str, ...]


def read_run(folder: Path, *expected: str) -> Run:
    """Returns what a run has trained.

    Args:
        folder: its work directory.
        expected: the kinds of model that will do; a MuQ, a MuQ-MuLan or a Mel-RVQ by default.

    Raises:
        UserError: the run has no whole checkpoint, or trains another kind of model.
    """
    step = newest_step(folder)
    kind = trained_type(folder, step)
    if kind in _READERS and kind in (expected or (kind,)):
        config, variables = _READERS[kind](folder, step)
        return Run(kind, config, variables, {}, step, _facts(folder, step))
    return Run("muq", *read_muq(folder, step), step, _facts(folder, step))


def trained_type(folder: Path, step: int | None = None) -> str | None:
    """Returns the `model_type` of what a run trains; None where its checkpoint does not say.

    Raises:
        UserError: the run has no whole checkpoint.
    """
    step = newest_step(folder) if step is None else step
    return checkpoint.load_meta(folder, step).get("model", {}).get("model_type")


def read_muq(folder: Path, step: int | None = None) -> tuple[MuQConfig, Tree, Tensors]:
    """Returns configuration and variables of the MuQ that a run has trained, and what else an export holds.

    That is, by PyTorch name, the random projection that made the run's targets, if it did.

    Raises:
        UserError: the run has no whole checkpoint, or trains another kind of model.
    """
    described, items = _load(folder, step, "muq")
    config = from_upstream_json(described)
    variables = {"params": items["params"], "batch_stats": items["model_state"]["batch_stats"]}
    if config.rvq is not None:
        variables["rvq"] = items["model_state"]["rvq"]
    # One of the iterative stage has neither a Mel-RVQ nor a projection: what taught it is no part of it.
    targets = items["model_state"].get("targets")
    drawn = {} if targets is None else muq_table.drawn_targets(targets)
    return config, _checked(variables, muq_table.template(config), folder), drawn


def read_mel_rvq(folder: Path, step: int | None = None) -> tuple[MelRVQConfig, Tree]:
    """Returns configuration and variables of the Mel-RVQ that a run has trained, or that its MuQ carries.

    Raises:
        UserError: the run has no whole checkpoint, or its model has no Mel-RVQ.
    """
    described, items = _load(folder, step, "mel_rvq", "muq")
    if described["model_type"] == "muq":
        config, variables = from_upstream_json(described).mel_rvq, items["model_state"]["rvq"]
    else:
        config = mel_rvq_from_json(described)
        state = items["model_state"]["codebook_state"]
        variables = {"params": items["params"], "codebook_state": state}
    return config, _checked(variables, mel_rvq_table.template(config), folder)


def read_mulan(folder: Path, step: int | None = None) -> tuple[MuLanConfig, Tree]:
    """Returns configuration and variables of the MuQ-MuLan that a run has trained.

    Raises:
        UserError: the run has no whole checkpoint, or trains another kind of model.
    """
    described, items = _load(folder, step, "mulan")
    config = mulan_from_json(described)
    params = {name: items["params"][name] for name in ("audio", "text", "log_temperature")}
    variables = {"params": params, **items["model_state"]}
    return config, _checked(variables, mulan_table.template(config), folder)


_READERS: dict[str, Callable[[Path, int | None], tuple[Any, Tree]]] = {
    "mel_rvq": read_mel_rvq,
    "mulan": read_mulan,
}


def read_hidden_rvq(folder: Path, step: int | None = None) -> tuple[HiddenRVQConfig, Tree]:
    """Returns configuration and variables of the Hidden-RVQ that a run has fitted, its teacher's among them.

    Raises:
        UserError: the run has no whole checkpoint, or trains something else.
    """
    described, items = _load(folder, step, MODEL_TYPE)
    config = hidden_rvq_from_json(described)
    return config, {"teacher": items["model_state"]["teacher"], "params": items["params"]}


def read_hidden_codebooks(folder: Path) -> tuple[Tree, str] | None:
    """Returns the variables of the quantiser alone that a run has fitted to a teacher, and their digest.

    None where the run trains something else.

    Raises:
        UserError: the run has no whole checkpoint.
    """
    step = newest_step(folder)
    if checkpoint.load_meta(folder, step).get("model", {}).get("model_type") != MODEL_TYPE:
        return None
    described, items = _load(folder, step, MODEL_TYPE)
    state = items["model_state"]["codebook_state"]
    variables = {"params": items["params"], "codebook_state": state}
    table = mel_rvq_table.mel_rvq_table(hidden_rvq_from_json(described).rvq)
    return variables, params_sha256(to_torch(variables, table))


def _load(folder: Path, step: int | None, *expected: str) -> tuple[dict[str, Any], dict[str, Any]]:
    step = newest_step(folder) if step is None else step
    described = checkpoint.load_meta(folder, step).get("model", {})
    found = described.get("model_type")
    if found not in expected:
        raise UserError(f"{folder} trains a model of type {found!r}; expected {' or '.join(expected)}.")
    return described, checkpoint.load_items(folder, step)


def _checked(variables: Tree, template: Tree, folder: Path) -> Tree:
    found = {path: array.shape for path, array in flatten(variables)}
    wanted = {path: array.shape for path, array in flatten(template)}
    if found != wanted:
        odd = sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))
        raise UserError(f"{folder}: the checkpoint does not fit its configuration at {', '.join(odd[:8])}.")
    return variables


def newest_step(folder: Path) -> int:
    """Returns the step of a run's newest whole checkpoint.

    Raises:
        UserError: there is none yet.
    """
    step = checkpoint.newest_step(folder)
    if step is None:
        raise UserError(f"{folder} has no whole checkpoint yet; let the run reach its first one.")
    return step


def _facts(folder: Path, step: int) -> tuple[str, ...]:
    """What a card says of a run: its data, its length and its newest losses."""
    facts = []
    if (folder / CONFIG).is_file():
        data = read_json(folder / CONFIG).get("data", {})
        source = Path(str(data.get("source"))).name  # a folder's place is its owner's own business
        clips = f"{data.get('batch_size')} clips of {data.get('crop_seconds')} s"
        facts.append(f"trained on {source}, {step} steps of {clips}")
    newest: dict[str, dict[str, Any]] = {}
    metrics = folder / "metrics.jsonl"
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line cut short by a kill
        if row.get("step", step + 1) <= step:
            newest[row.get("split")] = row
    for split, name in (("train", "training"), ("valid", "validation")):
        loss = newest.get(split, {}).get("loss")
        if loss is not None:
            facts.append(f"{name} loss {loss:.3f} at step {newest[split]['step']}")
    return tuple(facts)
