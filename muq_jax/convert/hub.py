"""Models on the Hugging Face hub: fetched once into its cache, then read from there like any folder."""

import os
import tempfile
from pathlib import Path
from typing import Any, Protocol

from muq_jax.errors import UserError

EVERYTHING_BUT_PICKLES = ["*.json", "*.safetensors", "LICENSE*", "README.md"]
PICKLES = ["*.bin", "*.pt", "*.pth", "*.ckpt"]


def fetch(
    repo_id: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Returns the folder of a model in the hub's cache, downloading what is not there yet.

    PyTorch's pickles are downloaded only where there are no safetensors. The hub's own settings hold
    (`HF_HOME`, `HF_ENDPOINT` for a mirror, `HF_HUB_OFFLINE`, `HF_TOKEN`).

    Args:
        repo_id: `owner/name`.
        cache_dir: the cache; the hub's own by default.
        revision: a branch, tag or commit.
        local_files_only: take what the cache holds and ask nobody.

    Raises:
        UserError: the extra `hub` is not installed, or the model cannot be had; says what was looked for and
            where.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"There is no folder {repo_id}. To load it from the Hugging Face hub: "
            'pip install "muq-jax[hub]". Or download it and give its folder.'
        ) from None
    where = f"the cache {cache_dir}" if cache_dir else "the hub's cache (HF_HOME)"
    asked = f"{repo_id}, revision {revision or 'main'}"
    options: dict[str, Any] = dict(cache_dir=cache_dir, revision=revision, local_files_only=local_files_only)
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=EVERYTHING_BUT_PICKLES, **options))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repo_id, allow_patterns=PICKLES, **options))
    except Exception as error:  # the hub's, the network's and the disk's: a dozen kinds, all with one answer
        looked = where if local_files_only else f"{where} and on the hub"
        raise UserError(
            f"There is no folder {repo_id}, and the model could not be had from the Hugging Face hub: looked "
            f"for {asked} in {looked}; {_first_line(error)} Check the name, the network and, for a gated "
            "model, HF_TOKEN; or download it elsewhere "
            f"(hf download {repo_id} --local-dir FOLDER) and give FOLDER."
        ) from error
    if not any(path for pattern in ("*.safetensors", *PICKLES) for path in folder.glob(pattern)):
        raise UserError(f"{asked} on the hub has no weights; found {_listing(folder)}.")
    return folder


class Saveable(Protocol):
    """A model of `inference`."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None: ...


def push(model: Saveable, repo_id: str, *, private: bool = True, revision: str | None = None) -> str:
    """Uploads a model as `save_pretrained` writes it and returns its address on the hub.

    Args:
        model: anything with `save_pretrained`.
        repo_id: `owner/name`; made if it is not there.
        private: whether a new repository is.
        revision: the branch, "main" by default.

    Raises:
        UserError: the extra `hub` is not installed, or the hub refused.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError('push_to_hub needs the extra hub: pip install "muq-jax[hub]".') from None
    api = HfApi()
    try:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / repo_id.rpartition("/")[2]
            model.save_pretrained(folder)
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision)
    except UserError:
        raise
    except Exception as error:  # as above
        raise UserError(
            f"{repo_id} could not be written on the Hugging Face hub; {_first_line(error)} Log in with "
            "`hf auth login`, or set HF_TOKEN."
        ) from error
    return f"{api.endpoint}/{repo_id}"


def _listing(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
