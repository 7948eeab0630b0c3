"""A folder of features that another model made, so that it can stand in the same table.

    FOLDER/features.json    {"name": "their-model", "frame_rate_hz": 75}; the rate is needed for frames only
    FOLDER/ID.npy           of the clip ID: float [D] or [L, D], pooled; or [L, T, D], every frame's vector

An ID may hold slashes, as a relative path does. Frames are pooled by their mean where a task needs one
vector.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from muq_jax.errors import UserError
from muq_jax.inference.embed_to_store import fingerprint

HEADER = "features.json"


def is_ready_features(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder says that it holds ready features."""
    return (Path(folder) / HEADER).is_file()


class ReadyFeatures:
    """Features by the ids of clips.

    Attributes:
        name: as tables show it.
        digest: of the header and the files.
        frame_rate_hz: None where the header says none.
        standardise: as of `encoders.Encoder`: whoever made them, their scale is unknown.
    """

    standardise = True

    def __init__(self, folder: str | os.PathLike[str], name: str | None = None) -> None:
        """Reads the header.

        Raises:
            UserError: it is damaged.
        """
        self._folder = Path(folder)
        path = self._folder / HEADER
        try:
            text = path.read_text(encoding="utf-8")
            header = json.loads(text)
            theirs, rate = header.get("name"), header.get("frame_rate_hz")
            if not isinstance(theirs, str | None):
                raise ValueError(f"the name is {theirs!r:.80}")
            self.frame_rate_hz: float | None = None if rate is None else float(rate)
        except (OSError, ValueError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
            expected = '{"name": "their-model", "frame_rate_hz": 75}'
            raise UserError(f"{path}: {error}; expected an object such as {expected}") from None
        self.name: str = name or theirs or self._folder.resolve().name
        if self.frame_rate_hz is not None and not 0 < self.frame_rate_hz < 1e6:
            raise UserError(f"{path}: frame_rate_hz is {rate!r}; expected frames a second")
        digest = hashlib.sha256(text.encode())
        for file in sorted(self._folder.rglob("*.npy")):
            digest.update(
                f"{file.relative_to(self._folder)} {fingerprint(file)}\n".encode("utf-8", "surrogatepass")
            )
        self.digest = digest.hexdigest()

    def pooled(self, id: str) -> np.ndarray:
        """Returns [L, D] of a clip.

        Raises:
            UserError: there are none, or they are no features.
        """
        features = self._load(id)
        return features.mean(axis=1) if features.ndim == 3 else np.atleast_2d(features)

    def frames(self, id: str) -> np.ndarray:
        """Returns [L, T, D] of a clip.

        Raises:
            UserError: there are none, or one vector alone, or the header does not say their rate.
        """
        features = self._load(id)
        if features.ndim != 3 or self.frame_rate_hz is None:
            raise UserError(
                f"{self._folder}: the features of {id!r} have the shape {features.shape}, and "
                f"frame_rate_hz of {HEADER} is {self.frame_rate_hz}; this task needs [L, T, D] and a rate"
            )
        return features

    def _load(self, id: str) -> np.ndarray:
        path = self._folder / f"{id}.npy"
        try:
            with path.open("rb") as file:  # numpy.load would open archives, too
                features = np.lib.format.read_array(file)
        except FileNotFoundError:
            raise UserError(f"{path}: no features of the clip {id!r}; expected {id}.npy") from None
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read ({error}); make it again with numpy.save") from None
        if features.dtype.kind != "f" or features.ndim not in (1, 2, 3) or not features.size:
            raise UserError(
                f"{path}: {features.dtype} of shape {features.shape}; expected floats [D], [L, D] or "
                "[L, T, D]"
            )
        with np.errstate(over="ignore"):
            features = features.astype(np.float32)
        if not np.isfinite(features).all():
            raise UserError(f"{path}: holds values that are NaN, infinite, or too large for float32")
        return features
