"""Any model by its name, and what makes its vectors comparable."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from muq_jax.audio.files import audio_files
from muq_jax.convert import folder as model_folder
from muq_jax.convert import rules
from muq_jax.convert.find import find
from muq_jax.convert.kinds import KINDS
from muq_jax.errors import UserError
from muq_jax.inference.embed import POOLS
from muq_jax.inference.hearers import MuLanHearer, MuQHearer
from muq_jax.inference.mulan import MuQMuLan
from muq_jax.inference.pretrained import MuQ, MusicFM
from muq_jax.inference.store import Space
from muq_jax.inference.windows import window_tokens

_HIDDEN_STATES: dict[str, type[MuQ]] = {"muq": MuQ, "musicfm": MusicFM}


# Batches of whole windows are made, however short the files are.
_MAX_SECONDS = 3600

Name: TypeAlias = str | os.PathLike[str]


def load_model(name: Name | MuQ | MuQMuLan, tokenizer: Name | None = None) -> MuQ | MuQMuLan:
    """Returns the model in a folder, a run's work directory or the hub, whatever kind it is.

    Args:
        name: as for `from_pretrained`; a model that is loaded already is returned as it is.
        tokenizer: of a MuQ-MuLan that has none beside it.

    Raises:
        UserError: there is none, or one that has no vectors of audio.
    """
    if isinstance(name, MuQ | MuQMuLan):
        return name
    source = find(name)
    if model_folder.is_work_directory(source):
        from muq_jax.convert.workdir import trained_type  # late: Orbax takes as long to import as JAX

        if trained_type(source) == "mulan":
            return MuQMuLan.from_pretrained(source, tokenizer=tokenizer)
        return MuQ.from_pretrained(source)
    kind = model_folder.model_type(model_folder.describe(source))
    if kind == "mulan":
        return MuQMuLan.from_pretrained(name, tokenizer=tokenizer)
    if kind not in _HIDDEN_STATES:
        known = ", ".join([*_HIDDEN_STATES, "mulan"])
        raise UserError(f"{name} is of type {kind!r}; vectors of audio are made by {known}.")
    return _HIDDEN_STATES[kind].from_pretrained(source)


def params_sha256(model: MuQ | MuQMuLan) -> str:
    """Returns the digest of a model's weights, equal wherever they are kept."""
    kind = KINDS[model.model_type]
    return rules.params_sha256(rules.to_torch(model.variables, kind.table(model.config)))


def space_of(
    model: MuQ | MuQMuLan,
    layers: str | int | Sequence[int] = "last",
    window_seconds: float | None = None,
    pool: str = "mean",
) -> Space:
    """Returns the space of the vectors that a model gives with these settings.

    Args:
        model: of `load_model`.
        layers: of the hidden states; a MuQ-MuLan has one vector and takes "last" alone.
        window_seconds: of a window, 30 by default; a MuQ-MuLan's clips have the length that its
            configuration says.
        pool: of `embed.POOLS`; a MuQ-MuLan's clips have a mean alone.

    Raises:
        UserError: what this model does not have.
    """
    if pool not in POOLS:
        raise UserError(f"pool is {pool!r}; expected one of {', '.join(POOLS)}.")
    numbers: tuple[int, ...] = ()
    if isinstance(model, MuQMuLan):
        if layers != "last" or window_seconds is not None or pool != "mean":
            raise UserError(
                "a MuQ-MuLan gives the mean of its clips' vectors: no layers, window or pool to choose."
            )
        window_seconds = float(model.config.clip_seconds)
    else:
        numbers = model.layer_numbers(layers)
        window_seconds = 30.0 if window_seconds is None else window_seconds
        window_tokens(window_seconds, model.frame_rate_hz)
        if window_seconds > _MAX_SECONDS:
            raise UserError(f"window_seconds is {window_seconds}; a window here has at most {_MAX_SECONDS}.")
    return Space(params_sha256(model), model.model_type, numbers, pool, window_seconds)


def make_hearer(model: MuQ | MuQMuLan, space: Space) -> MuQHearer | MuLanHearer:
    """Returns a model, on all local devices, as `embed_files` uses it for vectors of its space."""
    if isinstance(model, MuQMuLan):
        return MuLanHearer(model)
    return MuQHearer(model, space.layers, space.window_seconds)


def named_files(audio: Sequence[str | os.PathLike[str]]) -> list[tuple[str, Path]]:
    """Returns names and paths of files, and of the audio files below folders, in order of their names.

    The name is the path below the folder that is given, and a file's own where a file is given. Where two
    would have one name, those of all folders begin with the folder's own name. Bytes of a name that are not
    UTF-8 are written out in it, since tables hold UTF-8.

    Raises:
        UserError: nothing there, a folder without audio, or two files of one name.
    """
    found: dict[Path, tuple[Path, str]] = {}
    for given in map(Path, audio):
        if not given.exists():
            raise UserError(f"{given}: no such file or folder")
        for relative in audio_files(given) if given.is_dir() else [""]:
            path = given / relative
            found.setdefault(path.parent.resolve() / path.name, (given, relative))
    names = {path: _printable(relative or path.name) for path, (_, relative) in found.items()}
    if len(set(names.values())) < len(names):
        names = {
            path: _printable(f"{given.resolve().name}/{relative}" if relative else path.name)
            for path, (given, relative) in found.items()
        }
    paths: dict[str, Path] = {}
    for path, name in names.items():
        if name in paths:
            raise UserError(f"{paths[name]} and {path} would both be {name}; give the folder above both.")
        paths[name] = path
    return sorted(paths.items())


def _printable(name: str) -> str:
    return os.fsencode(name).decode(errors="backslashreplace")
