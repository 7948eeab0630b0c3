"""Probes encoders on real music: kind, key, instrument family; instrument and pitch class of recorded notes.

    python -m experiments.probe_real CORPUS [--models FOLDER_OR_WORKDIR ...] [--out probe.json]

CORPUS holds `corpus/audio.jsonl` and `notes/notes.jsonl`. Every model is compared with encoders of its own
configuration that were never trained (`--seeds` initialisations), with plain log-mel statistics and with the
most frequent class; the splits are as given. 2 h of audio: some minutes for a tiny model on 2 CPU cores.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.data.manifest import Clip, read_manifest
from muq_jax.data.toy_composition import TONICS
from muq_jax.errors import UserError
from muq_jax.inference.pretrained import MuQ
from muq_jax.probe.features import (
    LOG_MEL,
    LabelledClip,
    hidden_state_means,
    labelled_clip,
    log_mel_statistics,
    untrained,
)
from muq_jax.probe.run import UNTRAINED, Result, Task, run_task
from muq_jax.probe.table import markdown_table, save_results, table_rows

# General MIDI's families of eight programs; drums are not among them.
FAMILIES = (
    *("piano", "chromatic percussion", "organ", "guitar", "bass", "strings", "ensemble", "brass"),
    *("reed", "pipe", "synth lead", "synth pad", "synth effects", "ethnic", "percussive", "sound effects"),
)

# Manifest below CORPUS, seconds used of each clip, its tasks.
CORPORA: tuple[tuple[str, float, tuple[Task, ...]], ...] = (
    (
        "corpus/audio.jsonl",
        25.0,
        (
            Task("kind of music", "genre"),
            Task("key", "key", ("accuracy", "weighted key score")),
            Task("instrument family", "instrument family"),
        ),
    ),
    (
        "notes/notes.jsonl",
        4.0,
        (Task("note instrument", "instrument_class"), Task("note pitch class", "pitch class")),
    ),
)


def labels_of(clip: Clip) -> Mapping[str, str | None]:
    """Returns the labels that the tasks use, from the manifest's fields."""
    row = clip.labels
    return {
        **{name: row.get(name) for name in ("genre", "key", "instrument_class")},
        "instrument family": FAMILIES[row["programs"][0] // 8] if row.get("programs") else None,
        "pitch class": TONICS[row["pitch"] % 12] if "pitch" in row else None,
    }


def all_features(
    clips: list[LabelledClip], clip_seconds: float, models: Mapping[str, MuQ], num_seeds: int
) -> dict[str, list[np.ndarray]]:
    """Returns every encoder's features; the untrained has the first model's sizes and an instance a seed."""
    features = {LOG_MEL: [log_mel_statistics(clips, clip_seconds=clip_seconds)]}
    for name, model in models.items():
        if UNTRAINED not in features:
            fresh = [untrained(model, seed) for seed in range(num_seeds)]
            features[UNTRAINED] = [
                hidden_state_means(encoder, clips, clip_seconds=clip_seconds, name=UNTRAINED)
                for encoder in fresh
            ]
        features[name] = [hidden_state_means(model, clips, clip_seconds=clip_seconds, name=name)]
    return features


def main(argv: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("corpus", type=Path, help="the folder that holds corpus/ and notes/")
    parser.add_argument("--models", nargs="*", default=[], help="model folders or work directories")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args(argv)
    models = {name: MuQ.from_pretrained(name) for name in options.models}
    results: list[Result] = []
    for manifest, clip_seconds, tasks in CORPORA:
        clips = [labelled_clip(clip, labels_of(clip)) for clip in read_manifest(options.corpus / manifest)]
        features = all_features(clips, clip_seconds, models, options.seeds)
        for task in tasks:
            results += run_task(task, clips, features, num_seeds=options.seeds)
            print(markdown_table(table_rows(results[-len(features) - 1 :])), flush=True)
    facts: dict[str, Any] = {"corpus": str(options.corpus), "models": options.models}
    if options.out:
        save_results(options.out, results, **facts)
    print("\n" + markdown_table(table_rows(results)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
