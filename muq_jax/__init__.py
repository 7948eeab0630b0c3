"""MuQ in JAX: music representations learned without labels, on TPUs, GPUs and CPUs.

Dimension letters used in every shape comment: `B` batch, `S` samples, `T` tokens (25 or 50 Hz), `F` mel
bands, `D` width, `H` heads, `K` head size, `Q` codebooks, `V` codes in a book, `C` code size, `L` layers.

Public names are imported on first use, so that `import muq_jax` costs nothing beyond Python itself.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muq_jax.errors import UserError
    from muq_jax.inference.mel_rvq import MelRVQ
    from muq_jax.inference.mulan import MuQMuLan
    from muq_jax.inference.pretrained import MuQ, MusicFM

__version__ = "0.1.0"

_HOMES = {
    "MelRVQ": "muq_jax.inference.mel_rvq",
    "MuQ": "muq_jax.inference.pretrained",
    "MuQMuLan": "muq_jax.inference.mulan",
    "MusicFM": "muq_jax.inference.pretrained",
    "UserError": "muq_jax.errors",
}

__all__ = ["MelRVQ", "MuQ", "MuQMuLan", "MusicFM", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
