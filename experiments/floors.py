"""What log-mel statistics and a ridge classifier reach on a suite: the least that a representation should
beat.

    python -m experiments.floors experiments/suites/real_music.json [--data FOLDER]

Mean, deviation and mean change of a 64-band log-mel; the ridge is fitted on train and val together and scored
on test, once for each penalty, so nothing is chosen. Half a minute of two CPU cores, once the features are
made.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from muq_jax.cli.probe import cache_folder
from muq_jax.errors import UserError
from muq_jax.probe.encoders import log_mel
from muq_jax.probe.extract import features_of
from muq_jax.probe.run import cut_of
from muq_jax.probe.suite import Entry, read_suite
from muq_jax.probe.sweep import Protocol

PENALTIES = (1.0, 10.0, 100.0, 300.0)


def floors(entry: Entry, cache: Path) -> tuple[int, float, list[float]]:
    """Returns the number of test clips, the share of train's most frequent class, and an accuracy a
    penalty."""
    dataset = entry.task.read(entry.data)
    features = features_of(dataset.items, log_mel(), cut_of(entry.task, entry.protocol), cache)
    inputs = np.stack([clip.vectors.mean(axis=(0, 1)) for clip in features.pooled])
    labels = np.array([item.label for item in features.items])
    tested = np.array([item.split == "test" for item in features.items])
    found = []
    for penalty in PENALTIES:
        head = make_pipeline(StandardScaler(), RidgeClassifier(penalty)).fit(inputs[~tested], labels[~tested])
        found.append(float((head.predict(inputs[tested]) == labels[tested]).mean()))
    commonest = Counter(labels[~tested].tolist()).most_common(1)[0][0]
    return int(tested.sum()), float((labels[tested] == commonest).mean()), found


def main(argv: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m experiments.floors", description=__doc__, formatter_class=raw
    )
    parser.add_argument("suite", type=Path)
    parser.add_argument("--data", help="what the suite's paths are relative to")
    parser.add_argument("--cache", help="where features are kept (default: the user's cache folder)")
    options = parser.parse_args(argv)
    suite = read_suite(options.suite, Protocol("v1"), options.data)
    print(f"| task | test clips | most frequent | {' | '.join(f'penalty {p:g}' for p in PENALTIES)} |")
    print("|---" * (3 + len(PENALTIES)) + "|")
    for entry in suite.entries:
        if entry.task.kind == "classification":
            count, share, scores = floors(entry, cache_folder(options.cache))
            cells = " | ".join(f"{score:.2f}" for score in scores)
            print(f"| {entry.task.title} | {count} | {share:.2f} | {cells} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
