"""Reads PyTorch files from before torch 1.6, which are no zip archives, through torch (the extra `torch`)."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from muq_jax.convert.torch_file import unwrapped
from muq_jax.errors import UserError

# How such a file begins: its format's number, pickled.
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def is_legacy(path: Path) -> bool:
    """Whether a file is one that torch before 1.6 wrote."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of such a file by name; torch is told to load weights and to run nothing.

    Raises:
        UserError: torch is not installed, refuses the file, or the file holds no state dict.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} was written by a torch before 1.6, in a format that only torch reads: "
            'pip install "muq-jax[torch]". Or save it again with a newer torch.'
        ) from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle of anything can fail in any way
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} was not read by torch {torch.__version__}: {first}") from error
    tensors = unwrapped(path, found, torch.Tensor)
    return {name: _array(tensor.detach().contiguous(), torch) for name, tensor in tensors.items()}


def _array(tensor: Any, torch: Any) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        # torch knows no numpy type for it.
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
