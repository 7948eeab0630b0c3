"""Writes a manifest's tracks once more, all at one level: what a model still finds is not their loudness.

    python -m experiments.levels MANIFEST FOLDER [--split test] [--level_db -30]

FOLDER, a new one, gets the tracks as float WAV at 24 kHz, mono, and `manifest.jsonl`, which keeps everything
else that is said about them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from muq_jax.audio.decode import SAMPLE_RATE_HZ, load_audio
from muq_jax.data.manifest import read_manifest, select_split
from muq_jax.errors import UserError

LEVEL_DB = -30.0
_LOWEST = 1e-4  # below -80 dB there is nothing to bring up


def at_level(wave: np.ndarray, level_db: float) -> np.ndarray:
    """Returns a float32 wave [S] with an RMS of `level_db`, in dB below full scale."""
    rms = max(float(np.sqrt(np.mean(np.square(wave)))), _LOWEST)
    return np.float32(10 ** (level_db / 20) / rms) * wave


def write_at_level(manifest: str | Path, folder: Path, split: str | None, level_db: float) -> int:
    """Writes the tracks of a split, or of all, and their manifest; returns how many there are.

    Raises:
        UserError: no such manifest, split or audio file, or the folder exists.
    """
    clips = select_split(read_manifest(manifest), split, str(manifest))
    if folder.exists():
        raise UserError(f"{folder} exists; give a new folder.")
    (folder / "audio").mkdir(parents=True)
    rows = []
    for number, clip in enumerate(clips):
        name = f"audio/{number:06}.wav"
        wave = at_level(load_audio(clip.path), level_db)
        # Float, since peaks may be beyond full scale.
        soundfile.write(folder / name, wave, SAMPLE_RATE_HZ, "FLOAT")
        rows.append({"path": name, "id": clip.id, "split": clip.split, **clip.labels})
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.levels", description=__doc__)
    parser.add_argument("manifest", metavar="MANIFEST")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--split", help="only this one (default: all)")
    parser.add_argument("--level_db", type=float, default=LEVEL_DB, help="RMS in dB (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        count = write_at_level(args.manifest, args.folder, args.split, args.level_db)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{count} tracks at {args.level_db:g} dB: {args.folder / 'manifest.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
