"""Features on the disk, so that an encoder hears a recording once however many heads are trained on it.

    FOLDER/space.json         what made the features; features of anything else are refused
    FOLDER/pooled/NAME.npy    float32 [W, L, D], a row a window, of the clips that NAME.json lists; that is
                              written last, so that a block is whole or not there
    FOLDER/frames/KEY.npy     float16 or float32 [L, T, D] of one clip, its windows one after the other

Several processes may fill one folder: a block's name is a digest of its clips.
"""

import dataclasses
import errno
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.errors import UserError

_HEADER = "space.json"
_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Space:
    """What features hang on.

    Attributes:
        encoder: its name.
        digest: of its weights or definition.
        window_seconds: of what it hears at a time.
        drop_short: windows that are not whole are left out.
        trim_silence: silence is cut off, and every window standardised.
        crop_seconds: of each clip, how much is heard.
    """

    encoder: str
    digest: str
    window_seconds: float
    drop_short: bool = False
    trim_silence: bool = False
    crop_seconds: float | None = None

    @property
    def folder_name(self) -> str:
        """A name of its own, whatever the encoder is called."""
        crop = None if self.crop_seconds is None else float(self.crop_seconds)
        flags = (self.drop_short, self.trim_silence)
        # Floats, so that windows of 30 s and of 30.0 s are the same.
        content = json.dumps([_VERSION, self.digest, float(self.window_seconds), *flags, crop])
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", self.encoder).strip("-.")[:40]
        return f"{slug}-{self.window_seconds:g}s-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


@dataclasses.dataclass(frozen=True)
class Pooled:
    """A clip's windows: `vectors` float32 [W, L, D], and `seconds` [W] that each lasts."""

    vectors: np.ndarray
    seconds: np.ndarray


@dataclasses.dataclass(frozen=True)
class StoredPooled:
    """A `Pooled` whose vectors are read from the cache each time."""

    store: "FeatureCache"
    path: Path
    start: int
    seconds: np.ndarray

    @property
    def vectors(self) -> np.ndarray:
        return self.store.read(self.path, slice(self.start, self.start + len(self.seconds)))


class FeatureCache:
    """The features of one space."""

    def __init__(self, folder: Path, space: Space) -> None:
        """Opens or makes the folder.

        Raises:
            UserError: it holds features of something else, or is damaged.
        """
        self._folder = folder
        header = folder / _HEADER
        wanted = {"version": _VERSION, **dataclasses.asdict(space)}
        for name in ("pooled", "frames"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if header.is_file():
            found = _read_json(header)
            for name, value in wanted.items():
                if name != "encoder" and found.get(name) != value:
                    raise UserError(
                        f"{folder} holds features whose {name} is {found.get(name)!r}; those of "
                        f"{space.encoder} have {value!r}, and the two are not mixed. Give another --cache, "
                        "or delete the folder"
                    )
        else:
            _write_json(header, wanted)
        self._blocks: dict[str, tuple[Path, int, list[float]]] = {}
        self._rows: dict[Path, int] = {}
        self._open: tuple[Path, np.ndarray] | None = None
        for index in sorted((folder / "pooled").glob("*.json")):
            self._add(index)

    def has(self, key: str, *, frames: bool) -> bool:
        """Returns whether a clip's features are there."""
        return key in self._blocks and (not frames or self._frames_path(key).is_file())

    def pooled(self, key: str) -> StoredPooled:
        """Returns a clip's vectors, which stay on the disk until they are read."""
        path, start, seconds = self._blocks[key]
        return StoredPooled(self, path, start, np.array(seconds))

    def read(self, path: Path, rows: slice) -> np.ndarray:
        """Returns rows of a block."""
        # One block at a time is open: a process has few file descriptors, and all of NSynth is 16 GB.
        if self._open is None or self._open[0] != path:
            block = _load(path)
            if block.ndim != 3 or len(block) != self._rows[path]:
                wanted = f"[{self._rows[path]}, L, D]"
                raise _damaged(path, f"the shape {block.shape}, where its list says {wanted}")
            self._open = (path, block)
        return np.array(self._open[1][rows])

    def frames(self, key: str) -> np.ndarray:
        """Returns a clip's frames, [L, T, D]."""
        return _load(self._frames_path(key))

    def add(self, keys: Sequence[str], clips: Sequence[Pooled]) -> None:
        """Writes the vectors of some clips."""
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        path = self._folder / "pooled" / f"{name}.npy"
        _write_array(path, np.concatenate([clip.vectors for clip in clips]))
        content = {"keys": list(keys), "seconds": [clip.seconds.tolist() for clip in clips]}
        index = path.with_suffix(".json")
        _write_json(index, content)
        self._add(index)

    def add_frames(self, key: str, frames: np.ndarray) -> None:
        """Writes a clip's frames [L, T, D], in half precision where their size allows it."""
        largest = np.abs(frames).max(axis=(1, 2))
        half = bool(((largest < 3e4) & ((largest > 1e-2) | (largest == 0))).all())
        _write_array(self._frames_path(key), frames.astype(np.float16 if half else np.float32))

    def _add(self, index: Path) -> None:
        content, path, start = _read_json(index), index.with_suffix(".npy"), 0
        try:
            for key, seconds in zip(content["keys"], content["seconds"], strict=True):
                self._blocks[key] = (path, start, [float(s) for s in seconds])
                start += len(seconds)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(index, error) from None
        self._rows[path] = start

    def _frames_path(self, key: str) -> Path:
        return self._folder / "frames" / f"{key}.npy"


class MemoryStore:
    """The same, for features that are not kept."""

    def __init__(self) -> None:
        self._pooled: dict[str, Pooled | StoredPooled] = {}
        self._frames: dict[str, np.ndarray] = {}

    def has(self, key: str, *, frames: bool) -> bool:
        return key in self._pooled and (not frames or key in self._frames)

    def pooled(self, key: str) -> Pooled | StoredPooled:
        return self._pooled[key]

    def frames(self, key: str) -> np.ndarray:
        return self._frames[key]

    def add(self, keys: Sequence[str], clips: Sequence[Pooled | StoredPooled]) -> None:
        self._pooled.update(zip(keys, clips, strict=True))

    def add_frames(self, key: str, frames: np.ndarray) -> None:
        self._frames[key] = frames


def _load(path: Path) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.EACCES):
            raise  # nothing is wrong with the file
        raise _damaged(path, error) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, why: object) -> UserError:
    folder = path.parent if path.name == _HEADER else path.parents[1]
    return UserError(f"{path} is damaged ({why}); delete the folder {folder}, and it is made again")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    os.replace(unfinished, path)


def _write_array(path: Path, array: np.ndarray) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with unfinished.open("wb") as file:
        np.save(file, array)
    os.replace(unfinished, path)
