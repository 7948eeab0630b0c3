import numpy as np
import pytest

from muq_jax.probe.metrics import METRICS, accuracy, bootstrap_interval, weighted_key_score


def test_accuracy_is_a_score_an_item():
    scores = accuracy(np.array(["a", "b", "c"]), np.array(["a", "c", "c"]))
    assert scores.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ("D:maj", 1.0),
        ("A:maj", 0.5),  # a fifth above
        ("G:maj", 0.0),  # a fifth below: mir_eval gives nothing
        ("B:min", 0.3),
        ("D:min", 0.2),
        ("D major", 1.0),
        ("Gb:maj", 0.0),
    ],
)
def test_key_score_follows_the_mirex_weights(predicted, expected):
    assert weighted_key_score(np.array(["D:maj"]), np.array([predicted])).tolist() == [expected]


def test_every_flat_key_of_the_labels_is_understood():
    keys = [
        f"{t}:{m}"
        for t in ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
        for m in ("maj", "min")
    ]
    assert weighted_key_score(np.array(keys), np.array(keys)).mean() == 1.0


def test_interval_holds_the_binomial_one():
    """For right-or-wrong items the bootstrap approaches the normal interval of a proportion."""
    items = np.repeat([1.0, 0.0], [300, 100])
    value, low, high = bootstrap_interval([items])
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert value == 0.75
    np.testing.assert_allclose([low, high], [0.75 - half, 0.75 + half], atol=0.006)


def test_interval_of_a_mean_over_tasks_is_narrower_than_each():
    rng = np.random.default_rng(0)
    tasks = [(rng.random(n) < 0.6).astype(float) for n in (80, 60, 100, 90)]
    value, low, high = bootstrap_interval(tasks)
    assert value == pytest.approx(np.mean([t.mean() for t in tasks]))
    for task in tasks:
        _, single_low, single_high = bootstrap_interval([task])
        assert high - low < 0.7 * (single_high - single_low)


def test_equal_items_have_an_interval_of_no_width():
    assert bootstrap_interval([np.zeros(5)]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("tasks", [[], [np.zeros(0)], [np.ones(3), np.zeros(0)]])
def test_nothing_to_draw_from_is_an_error(tasks):
    with pytest.raises(ValueError, match="at least one item"):
        bootstrap_interval(tasks)


def test_names_of_the_metrics():
    assert set(METRICS) == {"accuracy", "weighted_key_score"}
