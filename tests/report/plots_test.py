"""The plots' alt texts state what is drawn: they are held to the numbers that went in."""

import matplotlib
import numpy as np
import pytest

from muq_jax.report import curves, probes, sound
from muq_jax.report.style import book_colors, canvas, label_line_ends

STEPS = np.arange(10, 60, 10)


def is_png(picture) -> bool:
    return picture.png.startswith(b"\x89PNG") and len(picture.png) > 5000


def test_loss_curves_state_the_end_and_the_levels():
    train = STEPS, np.linspace(6.9, 5.123, 5)
    valid = STEPS[1::2], np.array([6.5, 5.456])
    picture = curves.loss_curves("Loss", train, valid, {"chance": 6.931, "code frequencies": 5.5}, "nats")
    assert is_png(picture)
    assert "5.123 in training and 5.456 in validation" in picture.alt
    assert "chance is 6.931; code frequencies is 5.500" in picture.alt


def test_loss_curves_do_without_validation():
    empty = np.array([]), np.array([])
    picture = curves.loss_curves("Loss", (STEPS, np.ones(5)), empty, {}, "nats")
    assert "validation" not in picture.alt


@pytest.mark.parametrize("books", [1, 4, 8])
def test_book_curves_for_any_number_of_books(books):
    values = np.linspace(0, 0.25, 5)[:, None] / np.arange(1, books + 1)
    picture = curves.book_curves("Accuracy", STEPS, values, "%", percent=True)
    assert is_png(picture) and "25" in picture.alt


def test_prediction_by_book_counts_the_books_below_the_frequencies():
    picture = curves.prediction_by_book([4.0, 5.6, 6.2], [5.0, 5.6, 6.0], 6.93)
    assert is_png(picture) and "for 1 of 3 books" in picture.alt


def test_usage_and_errors_state_their_numbers():
    usage = curves.codebook_usage([900, 1000], [300.4, 500.2], 1024)
    assert "between 900 and 1000 of 1024" in usage.alt and "perplexity 300 to 500" in usage.alt
    errors = curves.reconstruction_errors([1.0, 0.5], 1.1)
    assert is_png(errors) and "1.000, 0.500" in errors.alt
    assert is_png(curves.reconstruction_errors([1.0, 0.5], None))


def test_optimisation_draws_flat_and_zero_curves():
    assert is_png(curves.optimisation(STEPS, np.ones(5), np.zeros(5), np.full(5, 30.0)))


def test_mel_pair_and_tokens():
    rng = np.random.default_rng(0)
    mel = rng.normal(-20, 20, (200, 32)).astype(np.float32)
    pair = sound.mel_pair(mel, mel + 3, frame_rate_hz=100, band_hz=np.geomspace(50, 10_000, 32), num_books=8)
    assert is_png(pair) and "differ by 3.0 dB" in pair.alt and "2 s" in pair.alt
    codes = rng.integers(64, size=(50, 3))
    spans = [[0.0, 1.0, "C:maj"], [1.0, 1.05, "G:maj"], [1.05, 9.0, "A:min"], [9.0, 10.0, "F:maj"]]
    tokens = sound.token_map(
        codes, rng.normal(size=(3, 64, 4)), label_rate=25, spans=spans, spans_name="chords"
    )
    assert is_png(tokens) and "3 rows and 50 columns" in tokens.alt


def test_codes_are_ranked_by_the_direction_in_which_they_differ():
    angles = np.random.default_rng(1).permutation(np.linspace(0, np.pi, 50))
    book = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ranks = sound._rank_by_likeness(book)
    order = ranks if ranks[np.argmin(angles)] == 0 else 49 - ranks
    np.testing.assert_array_equal(order, np.argsort(np.argsort(angles)))


@pytest.mark.parametrize("num_tokens", [5, 7, 250])
def test_self_similarity_of_any_length(num_tokens):
    features = np.random.default_rng(0).normal(size=(num_tokens, 8))
    assert is_png(sound.self_similarity(features, frame_rate_hz=25, layer=3))


def test_probe_plots_name_encoders_and_tasks():
    rows = [
        {"task": task, "encoder": encoder, "metric": metric, "value": 0.5, "low": 0.4, "high": 0.6}
        for task in ("key", "mean")
        for encoder in ("untrained", "trained")
        for metric in ("accuracy", "accuracy minus untrained")
    ]
    picture = probes.probe_scores(rows)
    assert is_png(picture) and "untrained, trained on 2 tasks" in picture.alt
    layers = [
        {"task": t, "encoder": e, "layer": n, "validation": 0.1 * n}
        for t in ("key", "style")
        for e in ("trained", "untrained")
        for n in range(3)
    ]
    assert is_png(probes.scores_by_layer(layers, ["trained", "untrained"]))


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    curves.codebook_usage([1], [1.0], 4)
    assert dict(matplotlib.rcParams) == before


def test_names_at_line_ends_do_not_overlap():
    with canvas() as c:
        c.axes.plot([0, 1], [0, 1])
        label_line_ends(c.axes, np.array([0, 1]), [(0.5, "a", "k"), (0.501, "b", "k"), (0.502, "c", "k")])
        heights = [text.xyann[1] for text in c.axes.texts]
        low, high = c.axes.get_ylim()
    assert np.diff(heights).min() >= 0.05 * (high - low)


def test_the_colours_of_books_run_from_dark_to_light():
    light = book_colors(8)[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(light) > 0).all()
