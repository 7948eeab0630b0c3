"""The page of a whole small run: corpus, tokens, pretraining, probes, one track."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.inference.pretrained import MuQ
from muq_jax.models.mel_rvq import stacked_mel
from muq_jax.report.clip import similarity_block, token_blocks
from muq_jax.report.page import Card, Section, facts_table, write_page
from muq_jax.report.probing import probe_blocks, probe_cards, verdict
from muq_jax.report.sound import Spans
from muq_jax.report.training import (
    about_section,
    health_section,
    prediction_blocks,
    prediction_cards,
    rvq_blocks,
)
from muq_jax.train.metrics import Row

EXCERPT_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Probe:
    """What the probe found: rows of `probe.table`, and the name of the encoder that the page is about."""

    rows: Sequence[Mapping[str, Any]]
    layers: Sequence[Mapping[str, Any]]
    encoder: str

    @property
    def best_layer(self) -> int:
        """The layer with the best validation score, mean over the tasks."""
        scores: dict[int, list[float]] = {}
        for row in self.layers:
            if row["encoder"] == self.encoder:
                scores.setdefault(row["layer"], []).append(row["validation"])
        return max(scores, key=lambda layer: np.mean(scores[layer]))


@dataclasses.dataclass(frozen=True)
class Track:
    """The piece of music that the page shows: float32 [S] at 24 kHz, and its chords where they are known."""

    wave: np.ndarray
    chords: Spans = ()


def report_quickstart(
    path: Path,
    *,
    corpus: Mapping[str, str],
    models: tuple[MelRVQ, MuQ],
    metrics: tuple[Sequence[Row], Sequence[Row]],
    probe: Probe | None,
    why_no_probe: str,
    track: Track,
    excerpts: Sequence[np.ndarray],
    configs: Mapping[str, str],
    facts: Mapping[str, str],
) -> None:
    """Writes the page.

    Args:
        corpus: what there is to say about the music, by name.
        models, metrics: the Mel-RVQ's and the MuQ's.
        why_no_probe: said where there is no probe.
        excerpts: float32 [S] at 24 kHz, some of the corpus.
        configs: resolved configurations by name.
        facts: how the run was made.
    """
    (rvq, muq), (rvq_rows, muq_rows) = models, metrics
    mel = muq.config.mel
    excerpt = track.wave[: EXCERPT_SECONDS * muq.sample_rate_hz]
    named = (track.chords, "chords" if track.chords else "")
    layer = probe.best_layer if probe else muq.config.conformer.num_layers // 2
    heard = facts_table({**corpus, "mel": f"mean {mel.mean:.2f} dB, deviation {mel.std:.2f} dB"})
    known = probe_blocks(probe.rows, probe.layers, probe.encoder) if probe else [why_no_probe]
    similar = [
        "How alike any two moments of a track are to the model. Bright squares are parts that sound alike; "
        "bright lines beside the diagonal are repeats.",
        similarity_block(muq, track.wave, layer, *named),
    ]
    num_params = sum(leaf.size for leaf in jax.tree.leaves(muq.params))
    write_page(
        path,
        title="MuQ in ten minutes",
        lead="A small MuQ, pretrained from scratch: what its tokens keep of the music, how well it predicts "
        "what it does not hear, and what its features know although they never saw a label.",
        cards=[
            *prediction_cards(muq_rows),
            *(probe_cards(probe.rows, probe.encoder) if probe else [Card("no labels", "probe skipped")]),
        ],
        sections=[
            health_section({"Mel-RVQ": rvq_rows, "MuQ": muq_rows}),
            Section("The music", [heard]),
            Section(
                "Tokens: the Mel-RVQ",
                [
                    *rvq_blocks(rvq_rows, plain_mean_error(rvq, excerpts)),
                    *token_blocks(rvq, excerpt, *named),
                ],
            ),
            Section("Pretraining: masked prediction", prediction_blocks(muq_rows)),
            Section("What the features know", known),
            Section("One track, heard by the model", similar),
            about_section(configs, {**facts, "parameters of the MuQ": f"{num_params / 1e6:.2f} M"}),
        ],
    )


def plain_mean_error(rvq: MelRVQ, waves: Sequence[np.ndarray]) -> float:
    """The error of always answering the mean of the corpus: the mean |normalised mel| of these clips."""
    config = rvq.config
    mels = [
        stacked_mel(jnp.asarray(w[None]), mel=config.mel, frames_per_token=config.frames_per_token)
        for w in waves
    ]
    return float(np.mean([np.abs(mel).mean() for mel, _ in mels]))


def summary(muq_rows: Sequence[Row], probe: Probe | None) -> str:
    """The main numbers as lines of text."""
    lines = [f"{card.value:>8}  {card.meaning}" for card in prediction_cards(muq_rows)]
    if probe:
        lines += [f"{card.value:>8}  {card.meaning}" for card in probe_cards(probe.rows, probe.encoder)]
        lines.append(verdict(probe.rows, probe.encoder))
    return "\n".join(lines)
