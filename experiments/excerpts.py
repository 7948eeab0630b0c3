"""Pieces cut into excerpts, each a file: what a search is to find again.

From `corpus/audio.jsonl` every piece of music, from `clips/clips.jsonl` every recording once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from experiments.levels import at_level
from experiments.ranking import Fields
from muq_jax.audio.decode import SAMPLE_RATE_HZ, load_audio
from muq_jax.data.manifest import Clip, read_manifest, select_split

# Three excerpts of 25 s. In the gap held notes and reverb end, so that no two excerpts share a sound.
EXCERPT_SECONDS, GAP_SECONDS = 7.0, 2.0
CLIPS = "clips"
"""The split of what comes from `clips/clips.jsonl`."""


def cut(wave: np.ndarray, level_db: float | None = None) -> list[np.ndarray]:
    """Returns the excerpts [S] of a wave [S] at 24 kHz, or all of it where it is shorter than one.

    Args:
        wave: of any length.
        level_db: RMS that each excerpt is brought to, in dB below full scale; None leaves it.
    """
    size = round(EXCERPT_SECONDS * SAMPLE_RATE_HZ)
    step = size + round(GAP_SECONDS * SAMPLE_RATE_HZ)
    excerpts = [wave[start : start + size] for start in range(0, max(1, len(wave) - size + 1), step)]
    if level_db is None:
        return excerpts
    return [at_level(excerpt, level_db) for excerpt in excerpts]


def one_of_each_recording(clips: Sequence[Clip]) -> list[Clip]:
    """Returns the longest clip of each recording; the others hold the same seconds in other formats."""
    kept: dict[str, Clip] = {}
    for clip in sorted(clips, key=lambda clip: -clip.labels.get("duration_s", 0.0)):
        kept.setdefault(clip.labels.get("description", clip.id), clip)
    return list(kept.values())


def write_excerpts(data: Path, folder: Path, level_db: float | None) -> dict[str, Clip]:
    """Writes `PIECE/NUMBER.wav` for every excerpt and returns the pieces by their names.

    Raises:
        UserError: a manifest or a file is missing or unusable, or there is no training or no test split.
    """
    manifest = data / "corpus" / "audio.jsonl"
    corpus = read_manifest(manifest)
    for split in ("train", "test"):
        select_split(corpus, split, str(manifest))
    clips = one_of_each_recording(read_manifest(data / "clips" / "clips.jsonl"))
    pieces = {f"corpus/{clip.id}": clip for clip in corpus} | {f"clips/{clip.id}": clip for clip in clips}
    for name, clip in pieces.items():
        (folder / name).mkdir(parents=True)
        for number, excerpt in enumerate(cut(load_audio(clip.path), level_db)):
            # Float, since a few pieces exceed full scale.
            soundfile.write(folder / name / f"{number:03}.wav", excerpt, SAMPLE_RATE_HZ, "FLOAT")
    return pieces


def fields_of(names: Sequence[str], pieces: Mapping[str, Clip]) -> Fields:
    """Returns what is known of each excerpt: `piece`, `split`, `source`, `kind`, `instruments`, [N] each."""
    rows = []
    for name in names:
        piece = name.rsplit("/", 1)[0]
        clip, labels = pieces[piece], pieces[piece].labels
        source = str(labels.get("source"))
        instruments = f"{source} {sorted(set(labels.get('programs') or ()))}"
        # A clip is a kind of its own, so that the rows of each kind show it by itself.
        kind = str(labels.get("genre", clip.id))
        rows.append((piece, clip.split or CLIPS, source, kind, instruments))
    return dict(zip(("piece", "split", "source", "kind", "instruments"), np.array(rows).T, strict=True))
