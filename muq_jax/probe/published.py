"""Scores that papers have published under MARBLE's two protocols and zero-shot, beside one's own."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

Place = tuple[str, str]
"""A task's name and a metric's."""


class Score(NamedTuple):
    """A share of 1 (R² may be below 0) and what the source prints after ±, if anything."""

    value: float
    spread: float | None = None


@dataclasses.dataclass(frozen=True)
class Published:
    """One row of a published table; every encoder is frozen.

    Attributes:
        model: as the source names it.
        protocol: "v1" or "v2", which differ in split, head and training, or "zero_shot", where nothing is
            learned; their scores do not mix.
        source: paper, of whose MARBLE table this is a row (MERT-v2's is in its model card), or its table of
            zero-shot tagging.
        verified: whether the row was read off its source; otherwise it was written down from memory.
        scores: by task and metric.
        average: as printed, over all of the row's scores.
        note: what a reader must know of the row.
    """

    model: str
    protocol: str
    source: str
    verified: bool
    scores: Mapping[Place, Score]
    average: float | None = None
    note: str = ""


_MUQ_PLACES = (
    ("gtzan_genre", "accuracy"),
    ("giantsteps_key", "weighted_key_score"),
    ("emomusic", "r2_valence"),
    ("emomusic", "r2_arousal"),
    ("vocalset_singer", "accuracy"),
    ("vocalset_technique", "accuracy"),
    ("harmonix_structure", "frame_accuracy"),
    ("magnatagatune", "roc_auc"),
    ("magnatagatune", "average_precision"),
    ("nsynth_instrument", "accuracy"),
    ("nsynth_pitch", "accuracy"),
)
_BEAT = ("gtzan_beat", "beat_f")
_JAMENDO_PLACES = tuple(
    (f"mtg_jamendo_{subset}", metric)
    for subset in ("instrument", "mood", "genre", "top50")
    for metric in ("roc_auc", "average_precision")
)
_CHORDS = ("chords1217", "frame_accuracy")

PLACES: tuple[Place, ...] = (*_MUQ_PLACES, _BEAT, *_JAMENDO_PLACES, _CHORDS)
"""Every task and metric that a table has, in the order of MuQ's table; then what it lacks."""

# The order of MERT's table, in which instrument comes before pitch and technique before singer.
_MERT_PLACES = (
    ("magnatagatune", "roc_auc"),
    ("magnatagatune", "average_precision"),
    ("giantsteps_key", "weighted_key_score"),
    ("gtzan_genre", "accuracy"),
    _BEAT,
    ("emomusic", "r2_valence"),
    ("emomusic", "r2_arousal"),
    ("nsynth_instrument", "accuracy"),
    ("nsynth_pitch", "accuracy"),
    ("vocalset_technique", "accuracy"),
    ("vocalset_singer", "accuracy"),
)
_V2_PLACES = _MERT_PLACES[:7]

_MUQ = "MuQ, arXiv 2501.01108"
_MERT = "MERT, arXiv 2306.00107"
_ZERO_SHOT = "MuQ (arXiv 2501.01108) table 5"
_V2_CARD = "MERT-v2, arXiv 2609.33757, and PupuJEPA, arXiv 2606.25713"
_PUPU = "PupuJEPA, arXiv 2606.25713"
_MERT_V2 = "MERT-v2, arXiv 2609.33757"


def _scores(
    places: Sequence[Place], percents: Sequence[float | None], spreads: Sequence[float | None] | None = None
) -> Mapping[Place, Score]:
    """Percent points as a table prints them become shares; None is a cell that the table leaves empty."""
    spreads = spreads or [None] * len(places)
    return MappingProxyType(
        {
            place: Score(round(value / 100, 6), None if spread is None else round(spread / 100, 6))
            for place, value, spread in zip(places, percents, spreads, strict=True)
            if value is not None
        }
    )


def _of_muq(
    model: str, percents: Sequence[float], average: float, spreads: Sequence[float | None] | None = None
) -> Published:
    note = (
        "all its scores but structure were copied from MERT's paper, where the genre score seems to "
        "be the 95M model's and the others the 330M model's."
    )
    return Published(
        model=model,
        protocol="v1",
        source=_MUQ,
        verified=True,
        scores=_scores(_MUQ_PLACES, percents, spreads),
        average=average / 100,
        note=note if model == "MERT" else "",
    )


def _of_mert(model: str, *percents: float | None, jamendo: Sequence[float] = ()) -> Published:
    places = (*_MERT_PLACES, *(_JAMENDO_PLACES if jamendo else ()))
    return Published(model, "v1", _MERT, False, _scores(places, (*percents, *jamendo)))


def _of_v2(
    model: str,
    source: str,
    *percents: float,
    jamendo: Sequence[float] = (),
    chords: float | None = None,
) -> Published:
    places = (*_V2_PLACES, *(_JAMENDO_PLACES if jamendo else ()), _CHORDS)
    return Published(model, "v2", source, True, _scores(places, (*percents, *jamendo, chords)))


def _of_zero_shot(model: str, roc_auc: float, average_precision: float | None, note: str = "") -> Published:
    scores = _scores(_MERT_PLACES[:2], (roc_auc, average_precision))
    return Published(model, "zero_shot", _ZERO_SHOT, True, scores, note=note)


PUBLISHED: tuple[Published, ...] = (
    _of_muq("MERT", (78.6, 65.6, 61.2, 74.7, 87.1, 76.9, 75.7, 91.3, 40.2, 72.6, 94.4), 74.4),
    _of_muq("MusicFM", (83.8, 63.9, 60.3, 76.3, 92.0, 78.4, 76.5, 91.3, 40.0, 76.2, 91.1), 75.4),
    _of_muq(
        "MuQ_m4a",
        (84.0, 63.7, 60.0, 76.0, 95.2, 80.8, 76.4, 91.1, 39.0, 76.9, 91.2),
        75.8,
        (0.3, 0.4, 0.1, 0.1, 0.1, 0.3, 0.1, None, 0.1, 0.2, 0.1),
    ),
    _of_muq(
        "MuQ",
        (85.5, 63.5, 60.9, 75.4, 95.8, 82.4, 76.5, 91.4, 40.3, 79.2, 92.3),
        76.7,
        (0.9, 0.7, 0.2, 0.2, 0.1, 0.3, 0.1, None, 0.1, 0.1, 0.2),
    ),
    _of_muq(
        "MuQ_iter",
        (85.6, 65.0, 62.8, 76.1, 96.2, 81.6, 77.2, 91.4, 40.1, 79.7, 91.3),
        77.0,
        (0.7, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, None, 0.1, 0.2, 0.1),
    ),
    _of_mert("MusiCNN", 90.6, 38.3, 12.8, 79.0, None, 46.6, 70.3, 72.6, 64.1, 70.3, 57.0),
    _of_mert("CLMR", 89.4, 36.1, 14.9, 68.6, None, 45.8, 67.8, 67.9, 47.0, 58.1, 49.9),
    _of_mert("Jukebox-5B", 91.5, 41.4, 66.7, 79.7, None, 61.7, 72.1, 70.4, 91.6, 76.7, 82.6),
    _of_mert("MULE", 91.4, 40.4, 66.7, 73.5, None, 57.7, 70.0, 74.0, 89.2, 75.5, 87.5),
    _of_mert("HuBERT (music)", 90.2, 37.7, 14.7, 70.0, 88.6, 42.1, 66.5, 69.3, 77.4, 65.9, 75.3),
    _of_mert("data2vec (music)", 90.0, 36.2, 50.6, 74.1, 68.2, 52.1, 71.0, 69.4, 93.1, 71.1, 81.4),
    _of_mert("MERT-95M k-means", 90.6, 38.4, 65.0, 78.6, 88.3, 52.9, 69.9, 71.3, 92.3, 74.6, 77.2),
    _of_mert("MERT-95M public", 90.7, 38.4, 67.3, 72.8, 88.1, 59.7, 72.5, 70.4, 92.3, 75.6, 78.0),
    _of_mert(
        "MERT-95M RVQ",
        *(91.0, 39.3, 63.5, 78.6, 88.3, 60.0, 76.4, 70.7, 92.6, 74.2, 83.7),
        jamendo=(77.5, 19.4, 76.4, 13.4, 87.1, 18.8, 83.0, 28.9),
    ),
    _of_mert(
        "MERT-330M RVQ",
        *(91.3, 40.2, 65.6, 79.3, 87.9, 61.2, 74.7, 72.6, 94.4, 76.9, 87.1),
        jamendo=(78.1, 19.8, 76.5, 14.0, 86.7, 18.6, 83.4, 29.9),
    ),
    _of_v2(
        "MERT-330M",
        _V2_CARD,
        *(90.6, 37.9, 64.1, 77.6, 86.8, 56.7, 76.1),
        jamendo=(75.5, 18.8, 75.3, 13.5, 86.1, 18.0, 82.6, 29.1),
    ),
    _of_v2(
        "MusicFM",
        _V2_CARD,
        *(90.9, 38.3, 63.0, 84.1, 90.2, 57.2, 74.4),
        jamendo=(74.6, 18.5, 74.9, 14.1, 85.3, 19.4, 81.9, 29.7),
    ),
    _of_v2(
        "MuQ",
        _V2_CARD,
        *(90.5, 38.5, 63.2, 83.8, 90.1, 58.3, 76.4),
        jamendo=(74.8, 19.1, 73.7, 13.2, 85.4, 19.1, 83.0, 30.2),
    ),
    _of_v2(
        "Dasheng-1.2B",
        _V2_CARD,
        *(91.5, 40.4, 58.0, 81.4, 87.7, 57.4, 75.0),
        jamendo=(75.0, 19.0, 76.1, 15.5, 85.5, 18.8, 82.4, 29.6),
    ),
    _of_v2("AudioMAE++", _V2_CARD, 91.2, 39.5, 61.7, 80.3, 90.0, 59.0, 75.7),
    _of_v2("MATPAC++", _V2_CARD, 90.6, 38.2, 63.7, 81.4, 90.1, 57.8, 74.7),
    _of_v2("A-JEPA", _V2_CARD, 91.0, 39.2, 65.0, 83.8, 90.0, 57.4, 74.8),
    _of_v2(
        "PupuJEPA-L",
        _PUPU,
        *(91.7, 40.8, 66.1, 86.9, 91.0, 62.5, 76.8),
        jamendo=(78.4, 21.2, 76.2, 15.3, 86.1, 20.1, 82.8, 30.5),
    ),
    _of_v2("PupuJEPA-H", _PUPU, 91.3, 39.7, 64.8, 85.9, 90.5, 62.0, 78.5),
    _of_v2(
        "MERT-v2-30s",
        _MERT_V2,
        *(91.91, 41.29, 66.97, 91.72, 90.59, 63.23, 80.01),
        jamendo=(80.27, 22.89, 79.44, 16.68, 88.01, 21.22, 84.18, 32.17),
        chords=78.48,
    ),
    _of_v2(
        "MERT-v2-FullSong",
        _MERT_V2,
        *(91.74, 41.20, 67.05, 90.69, 90.57, 63.52, 78.14),
        jamendo=(80.27, 23.51, 78.74, 15.74, 87.98, 20.66, 84.13, 31.62),
        chords=77.79,
    ),
    _of_zero_shot("LAION-CLAP", 73.9, 25.0),
    _of_zero_shot("Microsoft CLAP 2023", 75.9, 28.9),
    _of_zero_shot("MuLan", 78.2, None, "its score is that of its own paper, arXiv 2208.12415."),
    _of_zero_shot("MERT-MuLan", 75.5, 24.6),
    _of_zero_shot("MusicFM-MuLan", 76.2, 27.1),
    _of_zero_shot("MuQ-MuLan", 79.3, 29.3),
)


def published_metrics(task: str) -> tuple[str, ...]:
    """The metrics that papers report on a task, in their order; empty for a task that no paper has."""
    return tuple(metric for name, metric in PLACES if name == task)


def published_rows(protocol: str, places: Iterable[Place]) -> list[Published]:
    """The rows of a protocol that have a score at one of these places, in the sources' order."""
    wanted = set(places)
    return [row for row in PUBLISHED if row.protocol == protocol and wanted & set(row.scores)]
