"""Labels to sentences: the prompts of zero-shot tagging.

The paper's prompts are not published; these are ours.
"""

from collections.abc import Sequence
from pathlib import Path

from muq_jax.errors import UserError

PLACE = "{}"
"""Where a label goes in a template."""

TEMPLATES = ("{}", "a piece of music: {}")

# The fifty tags that are used most, https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset
MAGNATAGATUNE = (
    *("guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano"),
    *("ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing"),
    *("vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal"),
    *("pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice", "new age", "dance", "male voice"),
    *("female vocal", "beats", "harp", "cello", "no voice", "weird", "country", "metal", "female voice"),
    "choral",
)

BACKGROUND = (
    *("music", "a song", "a recording", "an audio track", "sound", "instrumental music", "vocal music"),
    *("pop music", "rock music", "jazz", "classical music", "electronic music", "hip hop", "folk music"),
    *("music from another part of the world", "a soundtrack", "music for dancing", "music for relaxing"),
    *("happy music", "sad music", "calm music", "energetic music", "slow music", "fast music"),
    *("a solo instrument", "a band", "an orchestra", "a singer", "percussion", "noise", "speech", "silence"),
)
"""What a label is compared with: kinds of sound all over the space, of which a few always fit."""


def prompts(label: str, templates: Sequence[str] = TEMPLATES) -> list[str]:
    """Returns a label in every template.

    Raises:
        UserError: there is no template, or one without the place for the label.
    """
    if not templates:
        raise UserError(f"there is no template; expected at least one, such as {TEMPLATES[0]!r}.")
    for template in templates:
        if PLACE not in template:
            raise UserError(f"the template {template!r} has no {PLACE} where the label goes.")
    return [template.replace(PLACE, label) for template in templates]


def read_labels(path: Path) -> list[str]:
    """Returns the labels of a UTF-8 file, one a line; empty lines and lines that begin with # are left out.

    Raises:
        UserError: the file cannot be read, is no text, holds no label, or one twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text in UTF-8; expected a label a line.") from None
    lines = [line.strip() for line in text.splitlines()]
    labels = [line for line in lines if line and not line.startswith("#")]
    if not labels:
        raise UserError(f"{path} holds no label; expected one a line.")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(f"{path} holds {', '.join(twice[:8])} more than once.")
    return labels
