"""Models on the Hugging Face hub: fetched once into its cache, then read from there like any folder."""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from muq_jax.convert.licence import CARD
from muq_jax.errors import UserError

EVERYTHING_BUT_PICKLES = ["*.json", "*.safetensors", "LICENSE*", "README.md"]
PICKLES = ["*.bin", "*.pt", "*.pth", "*.ckpt"]


def is_id(name: str) -> bool:
    """Whether a model on the hub can have this name: `owner/name`."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


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
    download = _downloader("snapshot_download", f"There is no folder {repo_id}. To load it")
    options: dict[str, Any] = dict(cache_dir=cache_dir, revision=revision, local_files_only=local_files_only)
    try:
        folder = Path(download(repo_id, allow_patterns=EVERYTHING_BUT_PICKLES, **options))
        if not any(folder.glob("*.safetensors")):
            folder = Path(download(repo_id, allow_patterns=PICKLES, **options))
    except Exception as error:  # the hub's, the network's and the disk's: a dozen kinds, all with one answer
        raise UserError(
            f"There is no folder {repo_id}, and the model could not be had from the Hugging Face hub: "
            f"{_looked(repo_id, **options)}; {_first_line(error)} Check the name, the network and, for a "
            f"gated model, HF_TOKEN; or download it elsewhere (hf download {repo_id} --local-dir FOLDER) and "
            "give FOLDER."
        ) from error
    if not any(path for pattern in ("*.safetensors", *PICKLES) for path in folder.glob(pattern)):
        asked = f"{repo_id}, revision {revision or 'main'}"
        where = "the cache" if local_files_only else "the hub's answer"
        raise UserError(
            f"{asked}: there are no weights in {where}, only {_listing(folder)}. Check the name; if a "
            "download was cut short, load it once with the network."
        )
    return folder


def fetch_file(
    repo_id: str,
    name: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """Returns one file of a repository on the hub, downloading it if it is not in the cache.

    Args:
        repo_id: `owner/name`.
        name: of the file.
        cache_dir, local_files_only: as for `fetch`.

    Raises:
        UserError: as for `fetch`.
    """
    download = _downloader("hf_hub_download", f"To load {name} of {repo_id}")
    options: dict[str, Any] = dict(cache_dir=cache_dir, local_files_only=local_files_only)
    try:
        return Path(download(repo_id, name, **options))
    except Exception as error:  # as above
        raise UserError(
            f"{name} could not be had from the Hugging Face hub: {_looked(repo_id, None, **options)}; "
            f"{_first_line(error)} Check the name and the network; or download it elsewhere (hf download "
            f"{repo_id} {name} --local-dir FOLDER) and give FOLDER/{name}."
        ) from error


def _downloader(function: str, to_load: str) -> Callable[..., str]:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f'{to_load} from the Hugging Face hub: pip install "muq-jax[hub]". Or download it and give its '
            "place on the disk."
        ) from None
    return getattr(huggingface_hub, function)


def _looked(
    repo_id: str, revision: str | None, cache_dir: str | os.PathLike[str] | None, local_files_only: bool
) -> str:
    where = f"the cache {cache_dir}" if cache_dir else "the hub's cache (HF_HOME)"
    asked = f"{repo_id}, revision {revision or 'main'}"
    return f"looked for {asked} in {where}{'' if local_files_only else ' and on the hub'}"


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
            card = folder / CARD
            text = card.read_text(encoding="utf-8")
            card.write_text(text.replace(f'"{folder.name}"', f'"{repo_id}"'), encoding="utf-8")
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
    line = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    return f"{type(error).__name__}: {line}."
