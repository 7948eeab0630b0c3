import numpy as np

from muq_jax.probe.metrics import accuracy
from muq_jax.probe.ridge import PENALTIES, Split, fit_head


def blobs(num_items: int, spread: float, seed: int, layers: int = 3, informative: int = 1):
    """Three classes; only one layer knows them, the others are noise."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(3, size=num_items)
    features = rng.normal(size=(layers, num_items, 5)).astype(np.float32)
    centres = np.array([[4, 0, 0, 0, 0], [0, 4, 0, 0, 0], [0, 0, 4, 0, 0]])
    features[informative] = centres[classes] + spread * features[informative]
    return Split(features, np.array(["red", "green", "blue"])[classes])


def fit(num_seeds=3, spread=0.5, **kwargs):
    train, val, test = (blobs(n, spread, seed, **kwargs) for n, seed in ((120, 0), (60, 1), (60, 2)))
    return fit_head(train, val, test.features, accuracy, range(num_seeds)), test


def test_the_layer_that_knows_is_found_and_used():
    fitted, test = fit()
    assert fitted.layer == 1
    assert fitted.penalty in PENALTIES
    assert fitted.predicted.shape == (3, 60)
    assert (fitted.predicted == test.labels).mean() > 0.97
    assert fitted.validation.shape == (3,)
    assert fitted.validation[1] > 0.95 > 0.6 > fitted.validation[0]


def test_test_items_change_no_choice():
    """Other test items, the same training and validation data: layer, penalty and validation scores stay."""
    train, val = blobs(60, 3.0, 0), blobs(30, 3.0, 1)
    one = fit_head(train, val, blobs(20, 3.0, 2).features, accuracy, (0, 1))
    other = fit_head(train, val, blobs(20, 3.0, 3).features * 100, accuracy, (0, 1))
    assert (one.layer, one.penalty) == (other.layer, other.penalty)
    np.testing.assert_array_equal(one.validation, other.validation)


def test_features_far_from_unit_scale_do_as_well():
    train, val, test = (blobs(n, 0.5, seed) for n, seed in ((120, 0), (60, 1), (60, 2)))
    scale = np.array([1e-6, 1e6, 1.0, 1e3, 1e-3], np.float32)
    shift = np.array([0, 1e6, 5, 0, 0], np.float32)
    moved = [Split(s.features * scale + shift, s.labels) for s in (train, val, test)]
    fitted = fit_head(moved[0], moved[1], moved[2].features, accuracy, (0, 1))
    assert (fitted.predicted == test.labels).mean() > 0.95


def test_the_same_call_gives_the_same_predictions():
    np.testing.assert_array_equal(fit(spread=3.0)[0].predicted, fit(spread=3.0)[0].predicted)


def test_seeds_draw_different_training_items():
    predicted = fit(spread=4.0)[0].predicted
    assert len({tuple(p) for p in predicted}) > 1


def test_one_class_in_the_training_data_is_predicted_always():
    train = Split(np.random.default_rng(0).normal(size=(1, 6, 2)), np.array(["only"] * 6))
    fitted = fit_head(train, train, train.features, accuracy, (0,))
    assert set(fitted.predicted.ravel()) == {"only"}
