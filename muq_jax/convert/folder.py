"""Model folders: `config.json`, `model.safetensors` and a card, written whole or not at all."""

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from muq_jax import __version__
from muq_jax.convert.reader import CONFIG, WEIGHTS, read_json, read_tensors, write_tensors
from muq_jax.errors import UserError

CLASSES = {"muq": "MuQ", "mel_rvq": "MelRVQ"}
"""The public class of each `model_type`."""

_CARD = """\
---
library_name: muq_jax
tags: [music, audio, feature-extraction]
---
# {name}

A {model} written by muq_jax {version}. The licence is the one of the weights and data that it was made from.

    params sha256: {digest}

```python
import muq_jax

model = muq_jax.{model}.from_pretrained("{name}")
```
"""


def find(folder_or_hub_id: str | os.PathLike[str]) -> Path:
    """Returns the folder of that name.

    Raises:
        UserError: there is none; says what to do about a hub id.
    """
    path = Path(folder_or_hub_id)
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{path} is a file; give the folder that holds {CONFIG} and {WEIGHTS}.")
    text = os.fspath(folder_or_hub_id)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text):
        raise UserError(
            f"There is no folder {text}. If it is a model on the Hugging Face hub, download it first "
            f"(`hf download {text} --local-dir {text}`) and run this again where the folder {text} lies."
        )
    raise UserError(f"There is no folder {text}. Give a model folder, with {CONFIG} and {WEIGHTS}.")


def is_work_directory(folder: Path) -> bool:
    """Whether a folder is a training run's work directory, with checkpoints instead of safetensors."""
    return (folder / "checkpoints").is_dir()


def model_type(config: Mapping[str, Any]) -> str | None:
    """Returns the kind of model that a `config.json` describes; None if that cannot be told.

    Upstream's files do not say; MuQ's are known by their keys.
    """
    if "model_type" in config:
        return config["model_type"]
    return "muq" if {"w2v2_config", "encoder_dim", "conv_dim"} <= config.keys() else None


def read(folder: Path, *expected: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns a model folder's configuration and its tensors by PyTorch name.

    Args:
        folder: of `find`.
        expected: the kinds of model that will do.

    Raises:
        UserError: a file is missing or damaged, or the model is of another kind.
    """
    config = read_json(folder / CONFIG)
    found = model_type(config)
    if found not in expected:
        say = f"holds a model of type {found!r}" if found else "does not say its model_type"
        use = f" Load it with muq_jax.{CLASSES[found]}." if found in CLASSES else ""
        raise UserError(f"{folder / CONFIG} {say}; expected {' or '.join(expected)}.{use}")
    return config, read_tensors(folder)


def write(
    folder: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], digest: str
) -> None:
    """Writes a model folder beside its place and then moves it there; a model that was there is replaced.

    Args:
        folder: where to; its parents are made.
        config: of `config.json`, with `model_type`.
        tensors: by PyTorch name.
        digest: the `params sha256`, for the card.

    Raises:
        UserError: `folder` holds something that is not a model, or the disk is full.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; a model is written into a folder of its own.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds files that are no model; give an empty or a new folder.")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        _write_text(unfinished / CONFIG, json.dumps(config, indent=2) + "\n")
        card = _CARD.format(
            name=folder.name, model=CLASSES[config["model_type"]], version=__version__, digest=digest
        )
        _write_text(unfinished / "README.md", card)
        write_tensors(unfinished / WEIGHTS, tensors)
        _swap(unfinished, folder)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)
        size = sum(array.nbytes for array in tensors.values()) / 2**20
        reason = f"the disk is full, {size:.0f} MiB are needed" if full else str(error)
        raise UserError(f"{folder} could not be written: {reason}. Nothing was changed there.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _swap(new: Path, place: Path) -> None:
    """Moves a folder into its place; what was there goes first, since a rename replaces no full folder."""
    old = new.with_suffix(".replaced")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
