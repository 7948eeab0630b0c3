"""Model folders: `config.json`, `model.safetensors`, a card and a licence, written whole or not at all."""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax import __version__
from muq_jax.convert import hub, musicfm
from muq_jax.convert.licence import CARD, Licence, licence_of
from muq_jax.convert.reader import (
    CONFIG,
    INDEX,
    TORCH_SUFFIXES,
    WEIGHTS,
    read_file,
    read_files,
    read_json,
    torch_weights,
    weight_files,
    write_tensors,
)
from muq_jax.errors import UserError, is_full_disk
from muq_jax.models.mulan import SMALL

CLASSES = {"muq": "MuQ", "mulan": "MuQMuLan", "musicfm": "MusicFM", "mel_rvq": "MelRVQ"}
"""The public class of each `model_type`."""

_KEYS = {
    "muq": {"w2v2_config", "encoder_dim", "conv_dim"},
    "mulan": {"mulan", "audio_model", "text_model"},
}
"""By which upstream's configurations are known."""

REPORT = "conversion.json"
"""What was converted from what, and how that was proved; beside the weights."""

_DAY_SECONDS = 86_400

_FILES = re.compile(
    "|".join(map(re.escape, (CONFIG, WEIGHTS, INDEX, CARD, "tokenizer.json", REPORT)))
    + r"|model-\d+-of-\d+\.safetensors|LICENSE.*"
)
"""What a model folder holds; a folder with anything else is never replaced."""

_CARD = """\
---
library_name: muq_jax
{licence}tags: [music, audio, feature-extraction]
---
# {name}

A {model} written by muq_jax {version}. The licence is the one of the weights and data that it was made from.

{facts}- params sha256: `{digest}`

```python
import muq_jax

model = muq_jax.{model}.from_pretrained("{name}")
```
"""


def local(name: str | os.PathLike[str]) -> Path | None:
    """Returns the folder, or the file of weights in one, of that name; None if it may be an id on the hub.

    Raises:
        UserError: there is none, and no model on the hub has such a name; says what to do, also about a save
            that was killed.
    """
    path = Path(name)
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{os.fspath(name)[:80]!r}: {reason}. Give a model folder.") from None
    if not os.fspath(name):
        raise UserError("the name is empty. Give a model folder.")
    if path.is_dir():
        return path
    if (left := _left_behind(path.absolute())) is not None:
        raise UserError(
            f"There is no folder {path}: a save into it was killed at its very end. {left} is the model that "
            f"was there before; rename it to {path.name}."
        )
    if path.exists():
        if path.suffix in (*TORCH_SUFFIXES, ".safetensors"):
            return path
        raise UserError(f"{path} is a file; give the folder that holds {CONFIG} and {WEIGHTS}.")
    if hub.is_id(os.fspath(name)):
        return None
    raise UserError(f"There is no folder {path}. Give a model folder, with {CONFIG} and {WEIGHTS}.")


def is_work_directory(folder: Path) -> bool:
    """Whether a folder is a training run's work directory, with checkpoints instead of safetensors."""
    return (folder / "checkpoints").is_dir()


def model_type(config: Mapping[str, Any]) -> str | None:
    """Returns the kind of model that a `config.json` describes; None if that cannot be told.

    Upstream's files do not say; they are known by their keys.
    """
    if "model_type" in config:
        return str(config["model_type"])
    return next((name for name, keys in _KEYS.items() if keys <= config.keys()), None)


def read(folder: Path, *expected: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns a model folder's configuration and its tensors by PyTorch name.

    Args:
        folder: of `find`.
        expected: the kinds of model that will do.

    Raises:
        UserError: a file is missing or damaged, or the model is of another kind.
    """
    config = describe(folder)
    found = model_type(config)
    if found not in expected:
        say = f"holds a model of type {found!r}" if found else "does not say its model_type"
        use = f" Load it with muq_jax.{CLASSES[found]}." if found in CLASSES else ""
        raise UserError(f"{folder / CONFIG} {say}; expected {' or '.join(expected)}.{use}")
    return config, read_files(files_of_weights(folder))


def describe(path: Path) -> dict[str, Any]:
    """Returns the configuration of a model folder, or of a file of weights in one.

    Raises:
        UserError: there is no `config.json`, and the weights are not of a model that is released without.
    """
    folder = path.parent if path.is_file() else path
    if not (folder / CONFIG).is_file():
        torch_files = [path] if path.is_file() else torch_weights(folder)
        if len(torch_files) > 1:
            names = ", ".join(file.name for file in torch_files)
            raise UserError(
                f"{folder} has no {CONFIG}, and of weights {names}; give the path of one of them."
            )
        if len(torch_files) == 1 and musicfm.is_musicfm(tensors := read_file(torch_files[0])):
            return musicfm.released_config(tensors, torch_files[0])
    return read_json(folder / CONFIG)


def files_of_weights(path: Path) -> list[Path]:
    """Returns the files that hold a model folder's weights, or the file itself.

    Raises:
        UserError: the folder holds none, or several of PyTorch's.
    """
    return [path] if path.is_file() else weight_files(path)


def write(
    folder: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    digest: str,
    licence: Licence | None = None,
    beside: Mapping[str, bytes] | None = None,
    facts: Sequence[str] = (),
    check: Callable[[Path], None] | None = None,
) -> None:
    """Writes a model folder beside its place and then moves it there; a model that was there is replaced.

    Args:
        folder: where to; its parents are made.
        config: of `config.json`, with `model_type`.
        tensors: by PyTorch name.
        digest: the `params sha256`, for the card.
        licence: of the weights; without one, that of a model that is replaced stays.
        beside: other files by name, such as a tokenizer.
        facts: sentences for the card, such as what the model was trained on.
        check: is given the folder before it is in its place; what it raises leaves everything as it was.

    Raises:
        UserError: `folder` holds something that is not a model, or the disk is full.
    """
    try:
        folder = Path(folder).resolve()  # a link to a folder stays one
        _check_replaceable(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} cannot be written: {error}.") from None
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    try:
        left = _left_behind(folder)
        if left is not None:
            left.rename(folder)
        _sweep(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        (unfinished / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if licence is None or licence.title is None:
            licence = licence_of(folder)
        card = _CARD.format(
            name=os.fsencode(folder.name).decode(errors="backslashreplace"),
            model=CLASSES[config["model_type"]],
            version=__version__,
            digest=digest,
            licence=f"license: {licence.name}\n" if licence.name else "",
            facts="".join(f"- {fact}\n" for fact in (*facts, *_limits(config))),
        )
        (unfinished / CARD).write_text(card, encoding="utf-8")
        kept = _proof(folder, digest)
        for name, text in {**kept, **licence.files, **(beside or {})}.items():
            (unfinished / name).write_bytes(text)
        write_tensors(unfinished / WEIGHTS, tensors)
        for path in unfinished.iterdir():
            # A power cut after the swap would otherwise leave empty files where a model was.
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        if check is not None:
            check(unfinished)
        _swap(unfinished, folder)
    except OSError as error:
        size = sum(array.nbytes for array in tensors.values()) / 2**20
        reason = f"the disk is full, {size:.0f} MiB are needed" if is_full_disk(error) else str(error)
        raise UserError(f"{folder} could not be written: {reason}. Nothing was changed there.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _limits(config: Mapping[str, Any]) -> list[str]:
    """What a card has to say of a model that the PyTorch package cannot load."""
    if config.get("text_model", {}).get("name") != SMALL:
        return []
    return ["its small text encoder is muq_jax's own: the PyTorch package `muq` does not load it"]


def _proof(folder: Path, digest: str) -> dict[str, bytes]:
    """The report of how weights were converted, where those that are replaced are the same."""
    path = folder / REPORT
    with contextlib.suppress(UserError):  # a damaged one proves nothing
        if path.is_file() and read_json(path).get("params_sha256") == digest:
            return {REPORT: path.read_bytes()}
    return {}


def _check_replaceable(folder: Path) -> None:
    """Raises a UserError if there is anything but a model folder, which alone may be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; a model is written into a folder of its own.")
    if is_work_directory(folder):
        raise UserError(f"{folder} is a training run's work directory; give an empty or a new folder.")
    entries = sorted(folder.iterdir())
    is_model = (folder / CONFIG).is_file()
    foreign = [e for e in entries if not (is_model and e.is_file() and _FILES.fullmatch(e.name))]
    if foreign:
        raise UserError(
            f"{folder} holds {foreign[0].name}, which is no file of a model; give an empty or a new folder."
        )


def _swap(new: Path, place: Path) -> None:
    """Moves a folder into its place; what was there goes first, since a rename replaces no full folder."""
    old = new.with_suffix(".replaced")
    try:
        if place.exists():
            place.rename(old)
        new.rename(place)
    except BaseException:
        if old.exists() and not place.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sweep(place: Path) -> None:
    """Removes what killed saves into this place left half-written, gigabytes of it, more than a day ago."""
    name = re.compile(rf"\.{re.escape(place.name)}\.\d+\.unfinished")
    for path in place.parent.iterdir() if place.parent.is_dir() else ():
        if name.fullmatch(path.name) and time.time() - path.stat().st_mtime > _DAY_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _left_behind(place: Path) -> Path | None:
    """Returns the model that `_swap` had moved away from an empty place when its process was killed."""
    if place.exists() or not place.parent.is_dir():
        return None
    name = re.compile(rf"\.{re.escape(place.name)}\.\d+\.replaced")
    left = [path for path in place.parent.iterdir() if name.fullmatch(path.name)]
    return max(left, key=lambda path: path.stat().st_mtime, default=None)
