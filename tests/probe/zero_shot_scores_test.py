"""Scores of similarities against scikit-learn, simulations, and cases whose answer is plain."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from muq_jax.errors import UserError
from muq_jax.objectives.retrieval import retrieval
from muq_jax.probe.zero_shot_scores import (
    CALIBRATED,
    RAW,
    WEIGHTED,
    chance_average_precision,
    over_tracks,
    rate_each,
    rate_labels,
    rate_search,
    weighted,
)

TAGS = ("roc_auc", "average_precision")


def test_over_tracks():
    rng = np.random.default_rng(0)
    found = rng.standard_normal((9, 4)).astype(np.float32) * [1, 5, 0, 2] + [0, 3, 0.7, -1]
    scaled = over_tracks(found)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0), [1, 1, 0, 1])
    assert scaled.dtype == np.float64 and not scaled[:, 2].any()


def test_weighted_scores_decide_as_bayes_does():
    rng = np.random.default_rng(3)
    counts = [700, 40, 260, 0]
    share = (np.array(counts) + 0.5) / 1002
    label = rng.choice(4, 20_000, p=share)
    heard = label + rng.standard_normal(20_000)  # a feature, whose density given each label is known
    log_density = -0.5 * (heard[:, None] - np.arange(4)) ** 2
    # What a contrastive loss comes to: log p(label | track) - log p(label), but for a constant of the track.
    information = log_density - np.log(np.exp(log_density) @ share)[:, None]
    own = rng.standard_normal((20_000, 1))
    found = {RAW: (information + own) / 12.5}
    found[WEIGHTED] = weighted(found[RAW], 12.5, counts)
    posterior = log_density + np.log(share)
    np.testing.assert_array_equal(found[WEIGHTED].argmax(axis=1), posterior.argmax(axis=1))
    rated = rate_labels("classification", ["accuracy"], list("abcd"), np.eye(4, dtype=bool)[label], found, "")
    accuracy = {name: own["accuracy"] for name, own in rated["scores"].items()}
    assert accuracy[WEIGHTED] > max(accuracy[RAW], rated["majority"]["accuracy"]) + 0.03


def test_tags_as_scikit_learn_scores_them():
    rng = np.random.default_rng(1)
    right = rng.random((37, 6)) < 0.3
    right[:, 2], right[:, 4] = False, True
    found = {RAW: rng.standard_normal(right.shape), CALIBRATED: rng.standard_normal(right.shape) + right}
    labels = [f"tag {i}" for i in range(6)]
    rated = rate_labels("multilabel", TAGS, labels, right, found, "here")
    both, positive = [0, 1, 3, 5], [0, 1, 3, 4, 5]
    for name, scores in found.items():
        roc = roc_auc_score(right[:, both], scores[:, both])
        ap = average_precision_score(right[:, positive], scores[:, positive])
        assert rated["scores"][name] == {
            "roc_auc": pytest.approx(roc),
            "average_precision": pytest.approx(ap),
        }
    assert rated["without_positives"] == {"roc_auc": ["tag 2", "tag 4"], "average_precision": ["tag 2"]}
    assert rated["majority"] is None and rated["interval"] == {RAW: {}, CALIBRATED: {}}
    each = rate_each("multilabel", labels, right, found[RAW])["by_label"]
    assert list(each) == ["tag 0", "tag 1", "tag 3", "tag 5"]
    assert each["tag 3"]["roc_auc"] == pytest.approx(roc_auc_score(right[:, 3], found[RAW][:, 3]))


def test_chance_of_tags_is_what_guesses_give():
    rng = np.random.default_rng(2)
    right = np.arange(23)[:, None] < [1, 4, 12, 23]
    labels = ["a", "b", "c", "d"]
    guesses = [
        rate_labels("multilabel", TAGS, labels, right, {RAW: rng.standard_normal(right.shape)}, "")
        for _ in range(150)
    ]
    chance = guesses[0]["chance"]
    for metric in TAGS:
        mean = np.mean([rated["scores"][RAW][metric] for rated in guesses])
        assert chance[metric] == pytest.approx(mean, abs=0.02)
    by_label = chance_average_precision(np.array([0, 1, 23]), 23)
    np.testing.assert_allclose(by_label, [0, sum(1 / i for i in range(1, 24)) / 23, 1])


def test_genres():
    rng = np.random.default_rng(3)
    truth = rng.integers(3, size=50) * (rng.random(50) < 0.7)  # mostly class 0
    right = truth[:, None] == np.arange(3)
    found = {RAW: rng.standard_normal((50, 3)), CALIBRATED: right + 0.4 * rng.standard_normal((50, 3))}
    rated = rate_labels("classification", ("accuracy",), ["a", "b", "c"], right, found, "here")
    for name, scores in found.items():
        value = rated["scores"][name]["accuracy"]
        assert value == pytest.approx(accuracy_score(truth, scores.argmax(axis=1)))
        low, high = rated["interval"][name]["accuracy"]
        assert low < value < high
    assert rated["chance"] == {"accuracy": pytest.approx(1 / 3)}
    assert rated["majority"] == {"accuracy": pytest.approx((truth == 0).mean())}
    table = np.array(rate_each("classification", ["a", "b", "c"], right, found[RAW])["confusion"])
    np.testing.assert_array_equal(table.sum(axis=1), np.bincount(truth, minlength=3))
    assert table.trace() == pytest.approx(50 * rated["scores"][RAW]["accuracy"])


def test_keys_are_scored_as_keys():
    keys = ["C:maj", "G:maj", "A:min", "F:maj"]
    right = np.eye(4, dtype=bool)
    fifths = np.eye(4)[[1, 1, 0, 0]]  # a fifth above, right, relative, a fifth above
    rated = rate_labels("classification", ("weighted_key_score",), keys, right, {RAW: fifths}, "")
    assert rated["scores"][RAW]["weighted_key_score"] == pytest.approx((0.5 + 1 + 0.3 + 0.5) / 4)
    assert rated["chance"]["weighted_key_score"] < rated["majority"]["weighted_key_score"]


def test_nothing_to_score():
    with pytest.raises(UserError, match="tags, test: roc_auc: none of 2 classes has positives and negatives"):
        rate_labels(
            "multilabel", TAGS, ["a", "b"], np.ones((3, 2), bool), {RAW: np.zeros((3, 2))}, "tags, test"
        )


def test_texts_and_tracks_find_each_other():
    rng = np.random.default_rng(4)
    right = rng.integers(5, size=12)[:, None] == np.arange(5)
    right[:5] = np.eye(5)
    found = {RAW: rng.standard_normal((12, 5)), CALIBRATED: right.astype(float)}
    texts, tracks = rate_search(found, right)
    assert (texts["name"], texts["num_items"], texts["num_searched"]) == ("text to music", 5, 12)
    assert (tracks["name"], tracks["num_items"], tracks["num_searched"]) == ("music to text", 12, 5)
    assert texts["scores"][RAW] == retrieval(found[RAW].T, right.T).scores._asdict()
    assert tracks["scores"][RAW] == retrieval(found[RAW], right).scores._asdict()
    assert texts["chance"] == retrieval(found[RAW].T, right.T).chance._asdict()
    assert set(tracks["scores"][CALIBRATED].values()) == {1.0}
