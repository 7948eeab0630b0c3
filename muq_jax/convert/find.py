"""A model's name to the folder that holds it, wherever it has to be fetched from."""

import os
from pathlib import Path
from typing import Any

from muq_jax.convert import folder as model_folder
from muq_jax.convert import hub, port
from muq_jax.convert.reader import CONFIG

_CONVERTED = "muq_jax"


def find(
    folder_or_hub_id: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Returns the folder of that name or, where there is none, the one of that model on the hub.

    A model that the hub has as PyTorch's pickles is converted and proved on its first use; the model folder
    that comes of it lies in the hub's cache, beside what it was made from.

    Args:
        folder_or_hub_id: a folder or a file of weights in one, which never touch the network, or
            `owner/name`.
        cache_dir, revision, local_files_only: of `hub.fetch`.

    Raises:
        UserError: there is neither, or what the hub has cannot be converted.
    """
    path = model_folder.local(folder_or_hub_id)
    if path is not None:
        return path
    options: dict[str, Any] = dict(cache_dir=cache_dir, revision=revision, local_files_only=local_files_only)
    fetched = hub.fetch(os.fspath(folder_or_hub_id), **options)
    if any(fetched.glob("*.safetensors")):
        return fetched
    repository = fetched.parents[1]  # of .../models--owner--name/snapshots/COMMIT
    converted = repository / _CONVERTED / fetched.name / os.fspath(folder_or_hub_id).rpartition("/")[2]
    if not (converted / CONFIG).is_file():
        if not os.access(repository, os.W_OK):
            return fetched  # another's cache; the pickles are read each time
        port.port(fetched, converted)
    return converted
