"""Audio files below a folder."""

import os
from pathlib import Path

from muq_jax.audio.decode import AUDIO_EXTENSIONS
from muq_jax.errors import UserError


def audio_files(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the relative paths of the audio files below a folder, sorted, with forward slashes.

    Links to folders are followed. Hidden files (a name that starts with a dot, as macOS's `._song.mp3`) are
    left out.

    Raises:
        UserError: the folder is missing or holds no audio file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        # A link to a folder above would be walked for ever.
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        for name in files:
            if Path(name).suffix.lower() in AUDIO_EXTENSIONS and not name.startswith("."):
                found.append(Path(parent, name).relative_to(folder).as_posix())
    if not found:
        kinds = " ".join(sorted(AUDIO_EXTENSIONS))
        raise UserError(f"{folder}: no audio file in this folder or below; looked for {kinds}")
    return sorted(found)
