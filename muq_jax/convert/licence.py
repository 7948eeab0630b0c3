"""Under what terms weights may be used: read beside them, shown once, carried along."""

import dataclasses
import functools
import logging
import re
from collections.abc import Mapping
from pathlib import Path

CARD = "README.md"

# A model card begins with a block of settings between two lines of dashes.
_SETTINGS = re.compile(r"---\s*\n(.*?)\n---", re.DOTALL)
_NAME = r"""^%s:[ \t]*["']?([^\s"'#]+)"""

_log = logging.getLogger("muq_jax")


@dataclasses.dataclass(frozen=True)
class Licence:
    """What lies beside weights.

    Attributes:
        name: as the card says it, such as "cc-by-nc-4.0"; None where it does not.
        files: texts by file name, `LICENSE` and the like.
    """

    name: str | None = None
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str | None:
        """The name, or the first line of the text; None where nothing says."""
        text = next(iter(self.files.values()), b"").decode(errors="replace").strip()
        return self.name or (text.splitlines()[0].strip() if text else None)


def licence_of(path: Path) -> Licence:
    """Returns the licence of the weights in a folder, or of a file's."""
    folder = path.parent if path.is_file() else path
    files = {file.name: file.read_bytes() for file in sorted(folder.glob("LICENSE*")) if file.is_file()}
    card = folder / CARD
    settings = _SETTINGS.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    name = _value(settings[1], "license") if settings else None
    if settings and name == "other":
        name = _value(settings[1], "license_name") or name
    return Licence(name, files)


def _value(settings: str, key: str) -> str | None:
    found = re.search(_NAME % key, settings, re.MULTILINE)
    return found[1] if found else None


def shown(path: Path) -> Licence:
    """Returns `licence_of`, having told of it if nobody has yet: on stderr, unless logging is set up."""
    found = licence_of(path)
    if found.title:
        _show(path, found.title)
    return found


@functools.cache
def _show(path: Path, title: str) -> None:
    _log.warning("weights in %s: licence %s", path, title)
