"""Reads and writes the files of a model folder: config.json and safetensors, whole or sharded."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from muq_jax.errors import UserError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON object from a file; UserError where the file is missing, is not JSON or is not an object."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. A model folder holds {CONFIG} and {WEIGHTS}.") from None
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(
            f"{path} holds a JSON {type(value).__name__}; an object with named values is expected."
        )
    return value


def read_tensors(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every tensor of a model folder by its PyTorch name, in the stored type.

    Reads `model.safetensors`, or the files that `model.safetensors.index.json` lists.

    Raises:
        UserError: no weights in the folder, a listed file or tensor missing, or a file cut short or damaged.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return _read_file(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}: it is not a model folder.{_other_weights(folder)}"
        )
    placed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(placed, dict):
        raise UserError(f"{folder / INDEX}: no 'weight_map' (tensor name to file name).")
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(placed.values())):
        if Path(file).name != file:
            raise UserError(
                f"{folder / INDEX} names the file {file!r}; a plain file name in the folder is expected."
            )
        tensors |= _read_file(folder / file)
    if absent := sorted(set(placed) - set(tensors)):
        raise UserError(
            f"{folder}: {INDEX} lists {len(absent)} tensors that its files lack: {', '.join(absent[:8])}"
        )
    return tensors


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one safetensors file that PyTorch reads as its own."""
    save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, path, {"format": "pt"})


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        path.open("rb").close()  # safe_open calls a file that it may not read absent
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist, though the index beside it lists it. Download it again."
        ) from None
    except PermissionError as error:
        raise UserError(f"{path} could not be read: {error.strerror}.") from None
    except (SafetensorError, OSError, struct.error, ValueError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}). Download or export it again."
        ) from None


def _other_weights(folder: Path) -> str:
    others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    return (
        f" It holds {', '.join(others)}: pickled PyTorch weights, save them as safetensors first."
        if others
        else ""
    )
