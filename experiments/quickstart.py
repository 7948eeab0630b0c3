"""MuQ from end to end in ten minutes on two CPU cores: Mel-RVQ, pretraining, features, probes, a report.

    python -m experiments.quickstart [--audio FOLDER] [--workdir runs/quickstart]

Without --audio it listens to `toy_music`, which our own code composes and synthesises. In the work directory,
`mel_rvq/` and `muq/` are work directories of `experiments/train.py`, `model/` is the model folder,
`features/` what the encoders made of the probe's clips, and `report/index.html` shows what was learned.
Ctrl-C stops; the same command goes on. Exit status: 0 done, 1 failed, 2 wrong usage, 75 interrupted.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import commands, train
from experiments.configs import mel_rvq as mel_rvq_config
from experiments.configs import muq as muq_config
from experiments.quickstart_corpus import Corpus, own_corpus, toy_corpus
from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.cli import DONE, INTERRUPTED
from muq_jax.convert.reader import CONFIG
from muq_jax.data.sources import make_source
from muq_jax.errors import UserError
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.inference.pretrained import MuQ
from muq_jax.probe.encoders import MuQEncoder, log_mel, untrained
from muq_jax.probe.run import run_task
from muq_jax.probe.sweep import Protocol
from muq_jax.probe.table import UNTRAINED, layer_rows, markdown_table, table_rows
from muq_jax.report.quickstart import Probe, Track, report_quickstart, summary
from muq_jax.report.training import REPORT
from muq_jax.train.metrics import METRICS_FILE, read_rows

TRAINED = "MuQ, this run"
SETTINGS_FILE, FEATURES = "quickstart.json", "features"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything; sizes of the model are in `muq_configuration`."""

    variant: str
    toy_clips: int
    probe_clips: int
    rvq_steps: int
    rvq_batch: int
    muq_steps: int
    muq_batch: int
    crop_seconds: float
    probe_seconds: float
    probe_seeds: int


FULL = Size(
    variant="tiny",
    toy_clips=800,
    probe_clips=360,
    rvq_steps=500,
    rvq_batch=16,
    muq_steps=900,
    muq_batch=8,
    crop_seconds=4.0,
    probe_seconds=8.0,
    probe_seeds=3,
)
SMOKE = Size(
    variant="smoke",
    toy_clips=40,
    probe_clips=120,
    rvq_steps=20,
    rvq_batch=4,
    muq_steps=20,
    muq_batch=4,
    crop_seconds=2.0,
    probe_seconds=2.0,
    probe_seeds=1,
)


def run(workdir: Path, audio: Path | None, size: Size) -> int:
    """Does whatever of the quickstart is not done yet and returns an exit status.

    Raises:
        UserError: no usable audio, or the work directory belongs to another quickstart.
    """
    settings = {"audio": None if audio is None else str(audio.resolve()), **dataclasses.asdict(size)}
    finished = _finished(workdir, settings)
    if finished:
        _say(f"already done: open {workdir / REPORT}\n\n{finished['summary']}")
        return DONE
    began = time.monotonic()
    if audio:
        corpus = own_corpus(audio, workdir, size.probe_seconds)
    else:
        corpus = toy_corpus(size.toy_clips, size.probe_clips, size.probe_seconds)
    for name, fact in corpus.facts.items():
        _say(f"{name}: {fact}")

    _say(f"\n1/4 fit a Mel-RVQ, {size.rvq_steps} steps: it makes the tokens")
    if train.run(rvq_configuration(size, corpus), workdir / "mel_rvq").status == "interrupted":
        return INTERRUPTED
    _say(
        f"\n2/4 pretrain a small MuQ, {size.muq_steps} steps: it predicts the tokens of what it does not hear"
    )
    if train.run(muq_configuration(size, corpus, workdir), workdir / "muq").status == "interrupted":
        return INTERRUPTED

    muq = MuQ.from_pretrained(workdir / "muq")
    muq.save_pretrained(workdir / "model")
    _say(f"\n3/4 {'features and probes' if corpus.probes else corpus.why_no_probe}")
    probe = _probe(corpus, muq, size, workdir / FEATURES) if corpus.probes else None
    _say("\n4/4 report")
    minutes = (time.monotonic() - began) / 60
    facts = {
        "command": "python -m experiments.quickstart" + (" --audio FOLDER" if audio else ""),
        "time": f"{minutes:.1f} min since the last start",
    }
    numbers = _report(workdir, corpus, muq, probe, facts)
    content = {
        "settings": settings,
        "summary": numbers,
        "probe": dataclasses.asdict(probe) if probe else None,
    }
    commands.write_json(workdir / SETTINGS_FILE, content)
    _say(f"\n{numbers}\n\n{minutes:.1f} min. Open {workdir / REPORT}; the model is in {workdir / 'model'}")
    return DONE


def rvq_configuration(size: Size, corpus: Corpus) -> ConfigDict:
    """`mel_rvq.py` with fewer steps, made up for by a higher learning rate."""
    config = mel_rvq_config.get_config(size.variant)
    config.model.stat = corpus.stat
    config.data.source = corpus.source
    config.data.batch_size = size.rvq_batch
    config.data.crop_seconds = size.crop_seconds
    config.optim.peak_lr = 3e-3
    config.train.num_steps = size.rvq_steps
    config.train.log_every = max(1, size.rvq_steps // 10)
    config.train.eval_every = max(1, size.rvq_steps // 2)
    config.train.checkpoint_every = max(1, size.rvq_steps // 5)
    return config


def muq_configuration(size: Size, corpus: Corpus, workdir: Path) -> ConfigDict:
    """`muq.py` made small: in minutes, 2 M parameters see more music than the 7 M of `tiny` would."""
    config = muq_config.get_config(size.variant)
    config.targets.rvq = str(workdir / "mel_rvq")
    config.data.source = corpus.source
    config.data.batch_size = size.muq_batch
    config.data.crop_seconds = size.crop_seconds
    if size.variant == "tiny":
        # The convolutions over the whole mel cost the most: 32 channels would double the time of a step.
        config.model.conv_channels = 16
        config.model.conformer.width = 128
        config.model.conformer.num_layers = 3
        config.model.conformer.ffn_width = 512
        # So small a front end costs little to train, and in minutes a frozen one serves worse.
        config.optim.frozen = ()
    config.optim.peak_lr = 7e-4
    config.optim.warmup_steps = size.muq_steps // 10
    config.train.num_steps = size.muq_steps
    config.train.log_every = max(1, size.muq_steps // 20)
    config.train.eval_every = max(1, size.muq_steps // 5)
    config.train.checkpoint_every = max(1, size.muq_steps // 5)
    return config


def _finished(workdir: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What a finished quickstart with these settings left in the work directory; None if there is none.

    Raises:
        UserError: one with other settings did.
    """
    path = workdir / SETTINGS_FILE
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["settings"] != settings:
        raise UserError(
            f"{workdir}: holds a quickstart with other settings (audio: {content['settings']['audio']}, "
            f"{content['settings']['muq_steps']} steps); give another --workdir"
        )
    return content


def _probe(corpus: Corpus, muq: MuQ, size: Size, cache: Path) -> Probe:
    encoders = (log_mel(), MuQEncoder(untrained(muq, seed=0), UNTRAINED), MuQEncoder(muq, TRAINED))
    protocol = Protocol("ridge", seeds=tuple(range(size.probe_seeds)))
    # In a small folder of one's own, a split may hold one class alone: it is said, and the probe goes on.
    results = [
        run_task(task, dataset, encoder, protocol, cache, own=False)
        for task, dataset in corpus.probes
        for encoder in encoders
    ]
    for problem in dict.fromkeys(p for result in results for p in result.content["problems"]):
        _say(f"note: {problem}")
    _say(markdown_table(table_rows(results)))
    return Probe(table_rows(results), layer_rows(results), TRAINED)


def _report(workdir: Path, corpus: Corpus, muq: MuQ, probe: Probe | None, facts: dict[str, str]) -> str:
    """Writes the page and returns the main numbers as text."""
    rvq_rows, muq_rows = (read_rows(workdir / name / METRICS_FILE) for name in ("mel_rvq", "muq"))
    report_quickstart(
        workdir / REPORT,
        corpus=corpus.facts,
        models=(MelRVQ.from_pretrained(workdir / "mel_rvq"), muq),
        metrics=(rvq_rows, muq_rows),
        probe=probe,
        why_no_probe=corpus.why_no_probe,
        track=Track(corpus.track, corpus.chords),
        excerpts=_excerpts(corpus),
        configs={f"{name}/{CONFIG}": (workdir / name / CONFIG).read_text() for name in ("mel_rvq", "muq")},
        facts=facts,
    )
    return summary(muq_rows, probe)


def _excerpts(corpus: Corpus) -> list[np.ndarray]:
    """The beginnings of some clips."""
    source = make_source(corpus.source)
    picks = np.linspace(0, len(source) - 1, min(len(source), 24)).astype(int)
    samples = 4 * SAMPLE_RATE_HZ
    waves = [source[int(pick)]["wave"][:samples] for pick in picks]
    return [np.pad(wave, (0, samples - wave.size)) if wave.size < samples else wave for wave in waves]


def _say(text: str) -> None:
    """Prints at once, into a log file too."""
    print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m experiments.quickstart", description=__doc__, formatter_class=raw
    )
    parser.add_argument(
        "--audio", type=Path, metavar="FOLDER", help="a folder of your own music (default: toy_music)"
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/quickstart"), help="default: %(default)s")
    parser.add_argument(
        "--smoke", action="store_true", help="the shortest form: everything runs, nothing is learned"
    )
    options = parser.parse_args(argv)
    commands.set_up_logging("  %(message)s")
    size = SMOKE if options.smoke else FULL
    return commands.run_command(lambda: run(options.workdir, options.audio, size), options.workdir)


if __name__ == "__main__":
    sys.exit(main())
