"""Any weights that the tables know, to a model folder that is proved before it is there."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax import __version__
from muq_jax.convert import folder as model_folder
from muq_jax.convert import hub, mel_rvq, rules, safetensors_file, verify
from muq_jax.convert.find_tokenizer import find_tokenizer
from muq_jax.convert.kinds import KINDS, Kind
from muq_jax.convert.licence import Licence, licence_of
from muq_jax.convert.reader import CONFIG, WEIGHTS, read_files
from muq_jax.convert.rules import Tensors
from muq_jax.errors import UserError, mistakes_in
from muq_jax.text.tokenizer import FILE as TOKENIZER
from muq_jax.text.tokenizer import Tokenizer

NOT_COMPARED = "not compared with the original"


@dataclass(frozen=True)
class Source:
    """Weights to be converted.

    Attributes:
        kind, config: what they are of.
        tensors: by PyTorch name, everything that the file holds.
        described: name and hash of where they came from, for the report.
        licence: of the weights.
        beside: a tokenizer that lay with them, by name.
        run: what is known of the run that made them, for the card.
    """

    kind: Kind
    config: Any
    tensors: Mapping[str, np.ndarray]
    described: dict[str, str]
    licence: Licence
    beside: dict[str, bytes]
    run: tuple[str, ...] = ()


def port(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    activations: str | os.PathLike[str] | None = None,
    licence: str | None = None,
) -> dict[str, Any]:
    """Writes a model folder from weights of PyTorch's or from a run, if everything that is checked holds.

    Args:
        source: a folder with `config.json` and weights, a file of weights in one, the work directory of a
            run, or an id on the hub.
        destination: the model folder to write.
        tokenizer: a `tokenizer.json` for a MuQ-MuLan; by default the one that lies beside the weights, or
            that belongs to a model on the hub.
        activations: of `experiments/record_activations.py`, to be compared with.
        licence: of the weights, for the card, such as "cc-by-nc-4.0"; by default what lies beside them says.

    Returns:
        The report, which lies as `conversion.json` beside the weights.

    Raises:
        UserError: the weights cannot be read, do not fit, are damaged, or are not what was recorded; nothing
            is written.
    """
    found = read_source(source, tokenizer)
    report, used = _prove(found, str(source), activations)
    table = found.kind.table(found.config)
    whole = rules.complete(used, table, rules.unused_of(found.tensors, table))
    beside = found.beside | {model_folder.REPORT: (json.dumps(report, indent=2) + "\n").encode()}
    described = found.kind.write_config(found.config)
    if licence is not None and not re.fullmatch(r"[\w.+-]+", licence):
        raise UserError(f"licence is {licence!r}; expected an identifier such as cc-by-nc-4.0.")
    terms = dataclasses.replace(found.licence, name=licence or found.licence.name)
    digest = report["params_sha256"]

    def check(folder: Path) -> None:
        found_there = rules.params_sha256(safetensors_file.Stored(folder / WEIGHTS, used))
        if found_there != digest:
            raise UserError(f"{folder / WEIGHTS} does not hold what was written to it; nothing was changed.")

    model_folder.write(destination, described, whole, digest, terms, beside, found.run, check)
    return report


def prove(
    source: str | os.PathLike[str], activations: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Returns the report that `port` would give, and writes nothing.

    Args and errors are those of `port`.
    """
    return _prove(read_source(source), str(source), activations)[0]


def _prove(
    found: Source, name: str, activations: str | os.PathLike[str] | None
) -> tuple[dict[str, Any], Tensors]:
    """The report, and the tensors in use."""
    table, template = found.kind.table(found.config), found.kind.template(found.config)
    used = rules.checked(found.tensors, table, template, name)
    if changed := verify.round_trip(used, table):
        raise UserError(f"{name}: {', '.join(changed[:8])} came back changed from our layout.")
    unused = rules.unused_of(found.tensors, table)
    report: dict[str, Any] = {
        "model_type": found.kind.name,
        "muq_jax_version": __version__,
        "source": found.described,
        "params_sha256": rules.params_sha256(used),
        "tensors_in_use": len(used),
        "tensors_unread": {
            entry.torch: entry.reason + ("" if entry.torch in unused else "; not in the source")
            for entry in table.unused
            if entry.shape is not None or any(map(entry.covers, found.tensors))
        },
        "round_trip": "equal",
        **_quantizer(found, used),
        **_by_running(found, used, name, activations),
    }
    return report, used


def read_source(source: str | os.PathLike[str], tokenizer: str | os.PathLike[str] | None = None) -> Source:
    """Returns the weights in a folder, a file beside its config.json, a run, or on the hub.

    Args:
        source, tokenizer: of `port`.

    Raises:
        UserError: there are none, they are damaged, or of no known kind.
    """
    there = model_folder.local(source)
    path = there or hub.fetch(str(source))
    if model_folder.is_work_directory(path):
        found = _read_run(path)
    else:
        found = _read_folder(path)
    if found.kind.name == "mulan":
        folder = path.parent if path.is_file() else path
        file = find_tokenizer(folder, tokenizer, from_hub=there is None)
        if file is not None:
            sizes = found.config.roberta
            read = Tokenizer(file, pad_id=sizes.pad_id, vocab_size=sizes.vocab_size)
            found.beside[TOKENIZER] = read.source
    elif tokenizer is not None:
        raise UserError(f"{source} is a {found.kind.name}, which reads no text: give no tokenizer.")
    return found


def _read_folder(path: Path) -> Source:
    folder = path.parent if path.is_file() else path
    data = model_folder.describe(path)
    name = model_folder.model_type(data)
    if name not in KINDS:
        raise UserError(
            f"{folder / CONFIG} describes {f'a model of type {name!r}' if name else 'no known model'}; known "
            f"are {', '.join(KINDS)}."
        )
    files = model_folder.files_of_weights(path)
    described = {file.name: _sha256(file) for file in files}
    with mistakes_in(folder):
        config = KINDS[name].read_config(data)
    return Source(KINDS[name], config, read_files(files), described, licence_of(folder), {})


def _read_run(folder: Path) -> Source:
    from muq_jax.convert import workdir  # late: Orbax takes as long to import as JAX

    run = workdir.read_run(folder)
    kind = KINDS[run.model_type]
    tensors = rules.to_torch(run.variables, kind.table(run.config)) | run.drawn
    described = {"run": folder.name, "step": str(run.step)}
    return Source(kind, run.config, tensors, described, Licence(), {}, run.facts)


def _quantizer(found: Source, used: Tensors) -> dict[str, str]:
    """The part of the report on the Mel-RVQ that a MuQ carries."""
    if found.kind.name != "muq" or found.config.rvq is None:
        return {}
    looks_untrained = mel_rvq.looks_untrained(mel_rvq.from_torch_names(used, found.config.mel_rvq))
    return {"mel_rvq": "looks untrained: its codes mean nothing" if looks_untrained else "trained"}


def _by_running(
    found: Source, used: Tensors, name: str, activations: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """The part of the report for which the model has to run.

    Raises:
        UserError: texts have one vector, or something differs from the original by more than its bound.
    """
    if activations is None and found.kind.name != "mulan":
        return {"original": NOT_COMPARED}
    table, template = found.kind.table(found.config), found.kind.template(found.config)
    report: dict[str, Any] = {}
    if found.kind.name == "mulan":
        text = rules.Table(tuple(rule for rule in table.rules if rule.path.startswith("params/text/")))
        nearest = verify.nearest_texts(found.config, rules.arranged(used, text, template))
        if not nearest < verify.SAME_TEXT:
            raise UserError(f"{name}: different texts have a cosine of {nearest:.6f}: a dead text tower.")
        report["nearest_texts_cosine"] = nearest
    if activations is None:
        return report | {"original": NOT_COMPARED}
    variables = rules.arranged(used, table, template)
    differences = verify.against(activations, found.kind.name, found.config, variables)
    wrong = [f"{d.what}: {d.size} (bound: {d.bound})" for d in differences if not d.within]
    if wrong:
        raise UserError(f"{name} differs from {activations} by more than rounding: {'; '.join(wrong[:8])}.")
    return report | {"original": {difference.what: difference.size._asdict() for difference in differences}}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
