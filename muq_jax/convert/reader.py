"""Reads and writes the files of a model folder: config.json, and weights in whatever form they came."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.convert import legacy, safetensors_file, torch_file
from muq_jax.errors import UserError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_INDEX = "pytorch_model.bin.index.json"
TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


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
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(
            f"{path} holds a JSON {type(value).__name__}; an object with named values is expected."
        )
    return value


def read_tensors(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every tensor of a model folder by its PyTorch name, in the stored type, mapped from the disk.

    Reads `model.safetensors`, or the files that `model.safetensors.index.json` lists, or else the one file of
    PyTorch's that is there.

    Raises:
        UserError: no weights in the folder, more than one file of PyTorch's, a listed file or tensor missing,
            or a file cut short or damaged.
    """
    return read_files(weight_files(Path(folder)))


def read_files(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Every tensor of `weight_files`; the errors are those of `read_tensors`."""
    return _read_shards(files[0]) if files[0].name in (INDEX, TORCH_INDEX) else read_file(files[0])


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model folder's weights: one file, or an index and the files that it lists.

    Raises:
        UserError: there is none, or more than one file of PyTorch's.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    for index in (folder / INDEX, folder / TORCH_INDEX):
        if index.is_file():
            files = [folder / file for file in sorted(set(_placed(index).values()))]
            if absent := [file.name for file in files if not file.is_file()]:
                raise UserError(
                    f"{index} lists {', '.join(absent[:8])}, not there. Download the model again."
                )
            return [index, *files]
    others = torch_weights(folder)
    if not others:
        wanted = f"{WEIGHTS}, {INDEX} or a file of PyTorch's ({', '.join(TORCH_SUFFIXES)})"
        raise UserError(f"{folder} has no {wanted}: it is not a model folder.")
    if len(others) > 1:
        raise UserError(
            f"{folder} has {' and '.join(path.name for path in others)}, and neither {WEIGHTS} nor an "
            "index; give the path of one of them."
        )
    return others


def torch_weights(folder: Path) -> list[Path]:
    """PyTorch's files in a folder."""
    return sorted(path for path in folder.glob("*") if path.suffix in TORCH_SUFFIXES)


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of one file of weights, safetensors or PyTorch's.

    Raises:
        UserError: the file is missing, cut short or damaged.
    """
    if path.suffix in TORCH_SUFFIXES:
        return (legacy if legacy.is_legacy(path) else torch_file).read_state_dict(path)
    try:
        return safetensors_file.read(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Download it again.") from None
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}). Download or export it again."
        ) from None


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one safetensors file that PyTorch reads as its own."""
    safetensors_file.write(path, tensors)


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    placed = _placed(index)
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(placed.values())):
        found = read_file(index.parent / file)
        if misplaced := sorted(name for name in found if placed.get(name) != file):
            raise UserError(
                f"{index.parent / file} holds {', '.join(misplaced[:8])}, which {index.name} does not say."
            )
        tensors |= found
    if absent := sorted(set(placed) - set(tensors)):
        raise UserError(f"{index} lists {len(absent)} tensors that its files lack: {', '.join(absent[:8])}")
    return tensors


def _placed(index: Path) -> dict[str, str]:
    """Which file of a sharded model holds each tensor."""
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict):
        raise UserError(f"{index}: no 'weight_map' (tensor name to file name).")
    for file in placed.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(f"{index} names the file {file!r}; a plain file name in the folder is expected.")
    return placed
