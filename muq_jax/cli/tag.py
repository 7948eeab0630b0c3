"""`tag MODEL AUDIO...`."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from muq_jax.cli import DONE, FAILED, SOME_FILES_FAILED

EXAMPLE = "python -m muq_jax tag models/mulan ~/music --labels moods.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a MuQ-MuLan: a model folder or an id on the hub")
    parser.add_argument(
        "audio", metavar="AUDIO", nargs="+", help="files and folders, or stores of embed by the same model"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="a label a line (default: MagnaTagATune's top 50)"
    )
    parser.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="a sentence with {} where the label goes; give several, and a label is the mean of them "
        "(default: '{}' and 'a piece of music: {}')",
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json, where the model has none")
    parser.add_argument(
        "--top", type=int, default=5, help="how many labels are shown for a file (default: %(default)s)"
    )
    parser.add_argument(
        "--batch_size", type=int, help="clips embedded at a time (default: 4 a device, on a CPU 1)"
    )
    parser.add_argument("--workers", type=int, default=2, help="threads that decode (default: 2)")
    parser.add_argument("--json", action="store_true", help="a line of JSON a file")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from muq_jax.errors import UserError
    from muq_jax.inference.embed import Failed
    from muq_jax.inference.tag import tag
    from muq_jax.text.templates import MAGNATAGATUNE, TEMPLATES, read_labels

    if args.top < 1:
        raise UserError(f"top must be at least 1, found {args.top}")
    found = tag(
        args.model,
        args.audio,
        labels=read_labels(args.labels) if args.labels else MAGNATAGATUNE,
        templates=args.template or TEMPLATES,
        tokenizer=args.tokenizer,
        batch_size=args.batch_size,
        workers=args.workers,
    )
    done, failed = 0, 0
    if not args.json:
        tqdm.write("score: deviations from background prompts\n score  similarity")
    for result in found:
        if isinstance(result, Failed):
            failed += 1
            tqdm.write(result.reason, file=sys.stderr)
            continue
        done += 1
        best = np.argsort(-result.scores, kind="stable")[: args.top]
        rows = [(result.labels[i], float(result.scores[i]), float(result.similarities[i])) for i in best]
        if args.json:
            tags = [
                {"label": label, "score": score, "similarity": similarity}
                for label, score, similarity in rows
            ]
            tqdm.write(json.dumps({"id": result.name, "tags": tags}, ensure_ascii=False))
        else:
            lines = [f"{score:6.2f}  {similarity:10.3f}  {label}" for label, score, similarity in rows]
            tqdm.write("\n".join([result.name, *lines]))
    if not failed:
        return DONE
    print(f"{failed} of {done + failed} files failed", file=sys.stderr)
    return SOME_FILES_FAILED if done else FAILED
