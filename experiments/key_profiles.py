"""How well a textbook method hears major and minor: what a model that names the mode should beat.

    python -m experiments.key_profiles MANIFEST [--split test] [--label mode]

Chroma of a constant-Q transform, averaged over the track, beside the 24 rotated key profiles of Krumhansl and
Kessler (1982): the best one has the mode. Nothing is fitted. The label's values are `major` and `minor`; rows
without it are left out and counted. Two hours of audio a minute on one CPU core.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

import librosa
import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from muq_jax.audio.decode import SAMPLE_RATE_HZ, load_audio
from muq_jax.data.manifest import read_manifest, select_split
from muq_jax.errors import UserError, mistakes_in

PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


def mode_of(wave: np.ndarray) -> str:
    """Returns "major" or "minor" for a 24 kHz wave [S].

    Raises:
        UserError: it is silent.
    """
    if not wave.any():
        raise UserError("silence has no mode.")
    chroma = librosa.feature.chroma_cqt(y=wave, sr=SAMPLE_RATE_HZ, norm=None).mean(axis=1)

    def best_correlation(mode: str) -> float:
        profile = np.asarray(PROFILES[mode])
        return max(np.corrcoef(chroma, np.roll(profile, tonic))[0, 1] for tonic in range(12))

    return max(PROFILES, key=best_correlation)


def main(argv: Sequence[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m experiments.key_profiles", description=__doc__, formatter_class=raw
    )
    parser.add_argument("manifest", metavar="MANIFEST")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    parser.add_argument("--label", default="mode", help="the column (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        clips = select_split(read_manifest(args.manifest), args.split, args.manifest)
        labelled = [clip for clip in clips if clip.labels.get(args.label) is not None]
        labels = [clip.labels[args.label] for clip in labelled]
        if not labels or not set(labels) <= PROFILES.keys():
            raise UserError(
                f"{args.manifest}: {args.label!r} is not a column of 'major' and 'minor'; found "
                f"{sorted(map(str, set(labels))) or 'no value'}."
            )
        heard = []
        for clip in labelled:
            with mistakes_in(clip.path):
                heard.append(mode_of(load_audio(clip.path)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    commonest, count = Counter(labels).most_common(1)[0]
    print(f"{len(labels)} tracks, {len(clips) - len(labels)} more without {args.label!r}")
    print(f"always {commonest}: accuracy {count / len(labels):.3f}, balanced {1 / len(set(labels)):.3f}")
    print(
        f"key profiles: accuracy {accuracy_score(labels, heard):.3f}, "
        f"balanced {balanced_accuracy_score(labels, heard):.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
