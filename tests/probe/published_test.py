import dataclasses

import pytest

from muq_jax.probe.published import PLACES, PUBLISHED, Score, published_metrics, published_rows


def row(model, protocol="v1", source=""):
    (found,) = [r for r in PUBLISHED if (r.model, r.protocol) == (model, protocol) and source in r.source]
    return found


@pytest.mark.parametrize(
    ("model", "printed"),
    [("MERT", 74.4), ("MusicFM", 75.4), ("MuQ_m4a", 75.8), ("MuQ", 76.7), ("MuQ_iter", 77.0)],
)
def test_the_averages_of_muq_s_table_are_those_it_prints(model, printed):
    found = row(model, source="2501.01108")
    assert len(found.scores) == 11
    mean = sum(score.value for score in found.scores.values()) / 11
    assert round(100 * mean, 1) == printed == pytest.approx(100 * found.average)


def test_values_are_shares_and_places_are_known():
    for found in PUBLISHED:
        assert found.protocol in ("v1", "v2", "zero_shot") and "arXiv" in found.source and found.scores
        for place, score in found.scores.items():
            assert place in PLACES
            assert 0.1 < score.value < 1 and (score.spread is None or 0 < score.spread < 0.01)


def test_cells_land_where_they_belong():
    iter_, mert = row("MuQ_iter"), row("MERT-330M RVQ")
    assert iter_.scores["vocalset_singer", "accuracy"] == Score(0.962, 0.001)
    assert iter_.scores["giantsteps_key", "weighted_key_score"] == Score(0.65, 0.008)
    assert iter_.scores["magnatagatune", "roc_auc"] == Score(0.914, None)
    assert mert.scores["vocalset_singer", "accuracy"].value == 0.871
    assert mert.scores["nsynth_pitch", "accuracy"].value == 0.944
    assert mert.scores["mtg_jamendo_mood", "average_precision"].value == 0.14
    v2 = row("MERT-v2-30s", "v2")
    assert v2.scores["emomusic", "r2_arousal"].value == 0.8001
    assert v2.scores["mtg_jamendo_top50", "roc_auc"].value == 0.8418
    assert v2.scores["chords1217", "frame_accuracy"].value == 0.7848
    assert ("gtzan_beat", "beat_f") not in row("CLMR").scores


def test_the_models_that_both_tables_have_agree_where_they_were_copied():
    # MuQ's row for MERT is its 330M model but for genre, which is the 95M model's.
    copied, mert = row("MERT", source="2501.01108").scores, row("MERT-330M RVQ").scores
    differing = {
        place for place, score in copied.items() if place in mert and score.value != mert[place].value
    }
    assert differing == {("gtzan_genre", "accuracy")}
    assert copied["gtzan_genre", "accuracy"] == row("MERT-95M RVQ").scores["gtzan_genre", "accuracy"]


def test_rows_from_memory_are_marked_and_no_model_is_twice_in_a_source():
    assert {r.source for r in PUBLISHED if not r.verified} == {"MERT, arXiv 2306.00107"}
    keys = [(r.model, r.protocol, r.source) for r in PUBLISHED]
    assert len(set(keys)) == len(keys)


def test_protocols_do_not_mix():
    v1, v2 = (published_rows(protocol, PLACES) for protocol in ("v1", "v2"))
    zero_shot = published_rows("zero_shot", PLACES)
    assert len(v1) + len(v2) + len(zero_shot) == len(PUBLISHED) and {r.protocol for r in v1} == {"v1"}
    assert published_rows("v2", [("nsynth_pitch", "accuracy")]) == []
    assert published_rows("ridge", PLACES) == []
    assert [r.model for r in published_rows("v1", [("harmonix_structure", "frame_accuracy")])] == [
        *("MERT", "MusicFM", "MuQ_m4a", "MuQ", "MuQ_iter")
    ]


def test_zero_shot_tagging():
    rows = {r.model: r.scores for r in published_rows("zero_shot", PLACES)}
    assert len(rows) == 6 and {task for scores in rows.values() for task, _ in scores} == {"magnatagatune"}
    muq = {metric: score.value for (_, metric), score in rows["MuQ-MuLan"].items()}
    assert muq == {"roc_auc": 0.793, "average_precision": 0.293}
    assert all(
        muq[metric] >= score.value for scores in rows.values() for (_, metric), score in scores.items()
    )
    assert ("magnatagatune", "average_precision") not in rows["MuLan"]


def test_metrics_of_a_task():
    assert published_metrics("emomusic") == ("r2_valence", "r2_arousal")
    assert published_metrics("my_ragas") == ()


def test_the_data_cannot_be_changed_by_accident():
    with pytest.raises(TypeError):
        row("MuQ").scores["gtzan_genre", "accuracy"] = Score(1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row("MuQ").model = "ours"
