"""Where the tokenizer of a MuQ-MuLan is: given, beside its weights, or on the hub."""

import os
from pathlib import Path
from typing import Any

from muq_jax.convert import hub
from muq_jax.text.tokenizer import FILE as TOKENIZER

XLM_ROBERTA = "FacebookAI/xlm-roberta-base"
"""Where the tokenizer of the released MuQ-MuLan is; its own repository has none."""


def find_tokenizer(
    folder: Path,
    given: str | os.PathLike[str] | None = None,
    *,
    from_hub: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path | None:
    """Returns the `tokenizer.json` of a MuQ-MuLan; None if there is none to be had without the network.

    Args:
        folder: the model's.
        given: a file, a folder that holds one, or the id of a repository on the hub that has one.
        from_hub: whether the model came from the hub; then its tokenizer may, too.
        cache_dir, local_files_only: of `hub.fetch_file`.

    Raises:
        UserError: it is on the hub, and could not be had.
    """
    options: dict[str, Any] = dict(cache_dir=cache_dir, local_files_only=local_files_only)
    if given is not None:
        path, name = Path(given), os.fspath(given)
        if path.is_dir():
            return path / TOKENIZER
        is_file = path.exists() or path.suffix or not hub.is_id(name)
        return path if is_file else hub.fetch_file(name, TOKENIZER, **options)
    if (folder / TOKENIZER).is_file():
        return folder / TOKENIZER
    return hub.fetch_file(XLM_ROBERTA, TOKENIZER, **options) if from_hub else None
