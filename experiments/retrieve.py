"""Measures whether search finds the other excerpts of the same piece.

    python -m experiments.retrieve MODEL DATA --out FOLDER [--level_db -30]

DATA holds `corpus/audio.jsonl` and `clips/clips.jsonl`. Every piece is cut into excerpts, each a file that is
embedded by itself; each excerpt then asks for the others of its piece. MODEL is compared with encoders of its
own configuration that were never trained, with plain log-mel statistics and with random orders. FOLDER gets
the excerpts (700 MB), the stores and `results.json`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments import excerpts
from experiments.commands import write_json
from experiments.ranking import METRICS, Fields, Question, piece_scores
from muq_jax.audio.decode import load_audio
from muq_jax.audio.framing import MIN_SAMPLES
from muq_jax.errors import UserError
from muq_jax.inference.embed_to_store import embed_to_store
from muq_jax.inference.pretrained import MuQ
from muq_jax.inference.store import load_vectors
from muq_jax.probe.encoders import LOG_MEL, log_mel, untrained
from muq_jax.probe.metrics import bootstrap_interval
from muq_jax.probe.table import UNTRAINED

MUQ, CHANCE = "MuQ", "chance"
CORPUS, CLIPS = ("train", "val", "test"), (excerpts.CLIPS,)

QUESTIONS = (
    Question("test split", ("test",), ("test",)),
    Question("test split, among the same source", ("test",), ("test",), "source"),
    Question("test split, among the whole corpus", ("test",), CORPUS),
    Question("whole corpus", CORPUS, CORPUS),
    Question("whole corpus, among the same instruments", CORPUS, CORPUS, "instruments"),
    Question("real clips", CLIPS, CLIPS),
    Question("real clips, among them and the whole corpus", CLIPS, CLIPS + CORPUS),
)


def stored_vectors(model: str | Path, audio: Path, store: Path) -> tuple[list[str], np.ndarray]:
    """Embeds the excerpts; returns their names and [layers, N, D].

    Raises:
        UserError: no such model, or an excerpt that cannot be heard.
    """
    # A window of an excerpt's length gives what the default of 30 s gives (within 5e-7) in a third of the
    # time.
    done = embed_to_store(model, [audio], store, layers="all", window_seconds=excerpts.EXCERPT_SECONDS)
    if done.failures:
        raise UserError(f"{done.failures[0].id}: {done.failures[0].reason}")
    found = load_vectors(store)
    count = len(found.space.layers)
    return found.ids[::count], np.stack([found.matrix[layer::count] for layer in range(count)])


def log_mel_vectors(audio: Path, names: Sequence[str]) -> np.ndarray:
    """Returns the log-mel statistics of the excerpts, [1, N, D]."""
    floor = log_mel()
    vectors = []
    for name in tqdm(names, f"features {LOG_MEL}", leave=False, disable=None):
        wave = load_audio(audio / name)
        wave = np.pad(wave, (0, max(0, MIN_SAMPLES - wave.size)))
        vectors.append(floor.pooled(wave[None], np.array([wave.size])))
    return np.concatenate(vectors).swapaxes(0, 1)


def standardised(matrix: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Returns [..., N, D] with the training excerpts' mean 0 and deviation 1 in every dimension."""
    train = matrix[..., split == "train", :]
    return (matrix - train.mean(-2, keepdims=True)) / (train.std(-2, keepdims=True) + 1e-9)


def answers(
    question: Question, encoders: Mapping[str, Sequence[np.ndarray]], fields: Fields
) -> list[dict[str, Any]]:
    """Returns a row for every encoder, of all pieces and of each kind; none where no piece asks.

    Args:
        question: who asks and what is searched.
        encoders: [N, D] of every instance (an initialisation, a random order) of every encoder.
        fields: of the N excerpts.
    """
    scores = {}
    for name, instances in encoders.items():
        each = [piece_scores(matrix, fields, question) for matrix in instances]
        pieces = list(each[0])
        scores[name] = np.mean([list(by_piece.values()) for by_piece in each], axis=0)
    kind_of = dict(zip(fields["piece"].tolist(), fields["kind"].tolist(), strict=True))
    kinds = np.array([kind_of[piece] for piece in pieces])
    rows = []
    for kind in ["all", *np.unique(kinds).tolist()] if pieces else []:
        chosen = (kinds == kind) | (kind == "all")
        for name, table in scores.items():
            row = {"question": question.name, "kind": kind, "pieces": int(chosen.sum()), "encoder": name}
            row |= dict(zip(METRICS, table[chosen].mean(axis=0).tolist(), strict=True))
            row["MAP interval"] = bootstrap_interval([table[chosen, -1]])[1:]
            for other in (UNTRAINED, LOG_MEL) if name.startswith(MUQ) else ():
                difference = table[chosen, -1] - scores[name.replace(MUQ, other)][chosen, -1]
                row[f"MAP minus {other}"] = bootstrap_interval([difference])
            rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Returns a metric as a table, an encoder a column; intervals and differences are left to the JSON."""
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    head = [metric, "kind", "pieces", *encoders]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for start in range(0, len(rows), len(encoders)):
        line = rows[start : start + len(encoders)]
        cells = [f"{row[metric]:.2f}" for row in line]
        lines.append("| {question} | {kind} | {pieces} | ".format(**line[0]) + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("model", help="a model folder or a work directory")
    parser.add_argument("data", type=Path, help="the folder that holds corpus/ and clips/")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--seeds", type=int, default=3, help="untrained encoders (default: %(default)s)")
    parser.add_argument("--level_db", type=float, help="RMS that every excerpt is brought to")
    options = parser.parse_args(argv)
    out, audio = options.out, options.out / "excerpts"
    if out.exists():
        raise UserError(f"{out} exists; give a new folder.")
    if options.seeds < 1:
        raise UserError(f"seeds must be at least 1, found {options.seeds}")
    if options.level_db is not None and not -80 <= options.level_db <= 0:
        raise UserError(f"level_db must be from -80 to 0, found {options.level_db}")
    model = MuQ.from_pretrained(options.model)
    pieces = excerpts.write_excerpts(options.data, audio, options.level_db)

    names, trained = stored_vectors(options.model, audio, out / "store")
    random_weights = []
    for seed in range(options.seeds):
        folder = out / f"untrained_{seed}"
        untrained(model, seed).save_pretrained(folder)
        random_weights.append(stored_vectors(folder, audio, folder / "store")[1])
    fields = excerpts.fields_of(names, pieces)
    heard = {LOG_MEL: [log_mel_vectors(audio, names)], UNTRAINED: random_weights, MUQ: [trained]}
    rng = np.random.default_rng(0)
    encoders = {
        CHANCE: [rng.standard_normal((1, len(names), 8)) for _ in range(20)],
        **heard,
        **{f"{n}, standardised": [standardised(x, fields["split"]) for x in heard[n]] for n in heard},
    }

    rows = []
    last = {name: [x[-1] for x in instances] for name, instances in encoders.items()}
    for question in QUESTIONS:
        rows += answers(question, last, fields)
    for layer in range(len(trained)):
        # The log-mel and the random orders have one layer.
        of_layer = {name: [x[layer % len(x)] for x in instances] for name, instances in encoders.items()}
        rows += answers(Question(f"val split, layer {layer}", ("val",), ("val",)), of_layer, fields)
    write_json(out / "results.json", {"model": options.model, "level_db": options.level_db, "rows": rows})
    for metric in METRICS:
        print(markdown([row for row in rows if row["kind"] == "all"], metric) + "\n")
    asked = {question.name for question in QUESTIONS}
    print(markdown([row for row in rows if row["question"] in asked], "MAP"))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
