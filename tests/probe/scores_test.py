import warnings

import mir_eval
import numpy as np
import pytest
import sklearn.metrics

from muq_jax.probe import metrics, scores

KEYS = [
    f"{tonic}:{mode}"
    for tonic in ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
    for mode in ("maj", "min")
]
CHORDS = "N X C:maj C:min Db D:7 D:maj7 E:dim F:min7 G:sus4 G/3 A:min Bb:aug".split()
MACRO = ["roc_auc", "average_precision"]
REGRESSION = ["r2", "mean_absolute_error"]


def random_scores(rng, shape, kind):
    """Scores without ties, with many, all equal, of huge size, or in half precision."""
    if kind == "ties":
        return rng.integers(-2, 3, shape).astype(np.float64)
    if kind == "constant":
        return np.full(shape, 0.1)
    if kind == "huge":
        return rng.normal(size=shape) * 10.0 ** rng.integers(-300, 308, shape)
    if kind == "zeros of both signs":
        return rng.choice([-0.0, 0.0, 1.0], shape)
    return rng.normal(size=shape).astype(kind)


KINDS = ["ties", "constant", "huge", "zeros of both signs", "float16", "float32", "float64"]


def random_labels(rng, num_items, num_classes):
    """Labels of rare and frequent classes; often one has no positives, or nothing else."""
    truth = rng.random((num_items, num_classes)) < rng.random(num_classes) ** 2
    if num_classes > 2 and rng.random() < 0.5:
        truth[:, rng.integers(num_classes)] = False
        truth[:, rng.integers(num_classes)] = True
    return truth


def area_of_pairs(truth, values):
    """The share of pairs of a positive and a negative that are in the right order; equal ones count half."""
    difference = values[truth][:, None] - values[~truth][None]
    return np.mean((difference > 0) + 0.5 * (difference == 0))


def precision_down_the_ranks(truth, values):
    """The mean over positives of the precision among all that score at least as high."""
    return np.mean([truth[values >= value].mean() for value in values[truth]])


def macro_by_hand(metric, truth, values):
    """The mean over classes by scikit-learn and by definition, and the classes that have none."""
    library = getattr(sklearn.metrics, f"{metric}_score")
    definition = area_of_pairs if metric == "roc_auc" else precision_down_the_ranks
    found, left_out = [], []
    for c in range(truth.shape[1]):
        t, v = truth[:, c], values[:, c].astype(np.float64)
        if not t.any() or (metric == "roc_auc" and t.all()):
            left_out.append(c)
            continue
        expected = definition(t, v)
        with np.errstate(over="ignore"):
            assert library(t, v) == pytest.approx(expected, abs=1e-9)
        found.append(expected)
    return (np.mean(found) if found else None), tuple(left_out)


def test_accuracy_is_scikit_learns():
    rng = np.random.default_rng(0)
    for _ in range(60):
        n, c = rng.integers(1, 40), rng.integers(1, 8)
        truth = rng.integers(c, size=n)
        values = random_scores(rng, (n, c), rng.choice(KINDS))
        found = scores.accuracy(truth, values)
        expected = sklearn.metrics.accuracy_score(truth, [row.tolist().index(max(row)) for row in values])
        assert found.value == pytest.approx(expected, abs=1e-12)
        assert found.items.dtype == np.float64 and found.items.mean() == pytest.approx(found.value, abs=1e-12)
        assert found.left_out == ()


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_balanced_accuracy_is_scikit_learns():
    rng = np.random.default_rng(10)
    for _ in range(60):
        n, c = rng.integers(1, 40), rng.integers(2, 8)
        truth = rng.integers(c, size=n)
        values = random_scores(rng, (n, c), rng.choice(KINDS))
        found = scores.balanced_accuracy(truth, values)
        expected = sklearn.metrics.balanced_accuracy_score(truth, values.argmax(axis=1))
        assert found.value == pytest.approx(expected, abs=1e-12) and found.items is None
        assert found.left_out == tuple(sorted(set(range(c)) - set(truth.tolist())))
    constant = np.tile([0.0, 1.0], (100, 1))
    assert scores.balanced_accuracy(np.repeat([0, 1], [3, 97]), constant).value == 0.5


def test_of_equal_scores_the_first_class_is_taken():
    assert scores.accuracy(np.array([0, 1]), np.ones((2, 2))).items.tolist() == [1.0, 0.0]


def test_key_score_is_mir_evals():
    rng = np.random.default_rng(1)
    for n in (1, 2, 50):
        truth = rng.integers(24, size=n)
        values = rng.normal(size=(n, 24))
        found = scores.weighted_key_score(truth, values, KEYS)
        names = [
            name.replace(":maj", " major").replace(":min", " minor")
            for name in np.array(KEYS)[values.argmax(1)]
        ]
        true_names = [KEYS[t].replace(":maj", " major").replace(":min", " minor") for t in truth]
        expected = [mir_eval.key.weighted_score(t, p) for t, p in zip(true_names, names, strict=True)]
        np.testing.assert_allclose(found.items, expected, atol=1e-12)
        assert found.value == pytest.approx(np.mean(expected), abs=1e-12)
        items = metrics.weighted_key_score(np.array(KEYS)[truth], np.array(KEYS)[values.argmax(1)])
        np.testing.assert_array_equal(found.items, items)


def test_key_score_needs_keys():
    with pytest.raises(ValueError, match="2 scores an item, but 3 classes"):
        scores.weighted_key_score(np.array([0]), np.zeros((1, 2)), ["C:maj", "C:min", "D:maj"])
    with pytest.raises(ValueError, match="H"):
        scores.weighted_key_score(np.array([0]), np.zeros((1, 2)), ["C:maj", "H:min"])


@pytest.mark.parametrize("metric", MACRO)
@pytest.mark.parametrize("kind", KINDS)
def test_macro_scores_are_scikit_learns_and_those_of_the_definition(metric, kind):
    rng = np.random.default_rng(2)
    for _ in range(15):
        n, c = rng.integers(1, 30), rng.integers(1, 6)
        truth = random_labels(rng, n, c)
        values = random_scores(rng, (n, c), kind)
        expected, left_out = macro_by_hand(metric, truth, values)
        if expected is None:
            with pytest.raises(ValueError, match=r"none of \d classes has positives"):
                getattr(scores, metric)(truth, values)
            continue
        found = getattr(scores, metric)(truth, values)
        assert found.value == pytest.approx(expected, abs=1e-9)
        assert found.left_out == left_out and found.items is None


@pytest.mark.parametrize("metric", MACRO)
def test_macro_scores_without_a_gap_are_scikit_learns_macro(metric):
    rng = np.random.default_rng(3)
    truth = rng.random((40, 7)) < 0.4
    values = rng.normal(size=(40, 7))
    library = getattr(sklearn.metrics, f"{metric}_score")
    assert getattr(scores, metric)(truth, values).value == pytest.approx(
        library(truth, values, average="macro"), abs=1e-12
    )
    as_numbers = getattr(scores, metric)(truth.astype(np.float32), values)
    assert as_numbers == getattr(scores, metric)(truth, values)


def test_a_single_item():
    values = np.array([[0.2, 0.9]])
    assert scores.average_precision(np.array([[True, False]]), values) == (1.0, None, (1,))
    with pytest.raises(ValueError, match="none of 2 classes has positives and negatives"):
        scores.roc_auc(np.array([[True, False]]), values)
    with pytest.raises(ValueError, match="none of 2 classes has positives"):
        scores.average_precision(np.zeros((1, 2), bool), values)
    with pytest.raises(ValueError, match="at least two"):
        scores.r2(np.ones((1, 2)), values)
    assert scores.mean_absolute_error(np.zeros((1, 2)), values).value == pytest.approx(0.55)


def test_regression_scores_are_scikit_learns():
    rng = np.random.default_rng(4)
    for _ in range(60):
        n, k = rng.integers(2, 40), rng.integers(1, 4)
        size = 10.0 ** rng.integers(-20, 140)
        truth = rng.normal(size=(n, k)) * size
        predicted = truth * rng.normal() + rng.normal(size=(n, k)) * size
        each = scores.r2_of_each(truth, predicted)
        raw = sklearn.metrics.r2_score(truth, predicted, multioutput="raw_values")
        np.testing.assert_allclose(each, raw, rtol=1e-9, atol=1e-9)
        residual = ((truth / size - predicted / size) ** 2).sum(axis=0)
        by_hand = 1 - residual / (len(truth) * np.var(truth / size, axis=0))
        np.testing.assert_allclose(each, by_hand, rtol=1e-9, atol=1e-9)
        assert scores.r2(truth, predicted).value == pytest.approx(
            sklearn.metrics.r2_score(truth, predicted), rel=1e-9, abs=1e-9
        )
        error = scores.mean_absolute_error(truth, predicted)
        assert error.value == pytest.approx(sklearn.metrics.mean_absolute_error(truth, predicted), rel=1e-9)
        assert error.items.shape == (n,) and error.items.mean() == pytest.approx(error.value, rel=1e-9)


@pytest.mark.parametrize("number", [0.0, 2.0, 0.1, 1e8 / 3])
@pytest.mark.parametrize("num_items", [2, 3, 7])
def test_a_target_that_never_changes_scores_one_or_nothing(number, num_items):
    rng = np.random.default_rng(5)
    truth = np.stack([np.full(num_items, number), np.arange(num_items)], axis=1)
    assert scores.r2_of_each(truth, truth).tolist() == [1.0, 1.0]
    off = truth + rng.normal(size=truth.shape)
    assert scores.r2_of_each(truth, off)[0] == 0.0
    if number == 2.0:  # its mean is exact, so that scikit-learn sees that it is constant
        for predicted in (truth, off):
            raw = sklearn.metrics.r2_score(truth, predicted, multioutput="raw_values")
            np.testing.assert_allclose(scores.r2_of_each(truth, predicted), raw, atol=1e-12)


def test_numbers_too_large_to_square_are_an_error():
    truth = np.array([[1.0], [1e200]])
    for metric in (scores.r2, scores.mean_absolute_error):
        with pytest.raises(ValueError, match="item 1 has a number beyond 1e"):
            metric(truth, np.zeros((2, 1)))
    with pytest.raises(ValueError, match="target 0: the errors are too large"):
        scores.r2(np.array([[0.0], [1e-100]]), np.full((2, 1), 1e149))


def test_frames_of_all_pieces_count_alike():
    rng = np.random.default_rng(6)
    for _ in range(30):
        lengths = rng.integers(0, 20, size=rng.integers(1, 5))
        lengths[0] = 1
        truth = [rng.integers(-1, 4, size=n) for n in lengths]
        truth[0][0] = 2
        predicted = [rng.integers(0, 4, size=n) for n in lengths]
        t, p = np.concatenate(truth), np.concatenate(predicted)
        expected = sklearn.metrics.accuracy_score(t[t >= 0], p[t >= 0])
        found = scores.frame_accuracy(truth, predicted)
        assert found.value == pytest.approx(expected, abs=1e-12)
        assert found.items is None
        stack = np.eye(4)[p][None]
        assert scores.validation_score("frame_accuracy", t, stack)[0] == pytest.approx(expected, abs=1e-12)


def test_frames_that_cannot_be_scored():
    with pytest.raises(ValueError, match="every frame is ignored"):
        scores.frame_accuracy([np.array([-1, -1])], [np.array([0, 1])])
    with pytest.raises(ValueError, match="piece 1 has 2 true and 3 predicted"):
        scores.frame_accuracy([np.array([0]), np.array([0, 1])], [np.array([0]), np.array([0, 1, 1])])
    with pytest.raises(ValueError, match=r"piece 0: .*float"):
        scores.frame_accuracy([np.array([0.0])], [np.array([0])])
    with pytest.raises(ValueError, match="1 truths, but 2"):
        scores.frame_accuracy([np.array([0])], [np.array([0])] * 2)
    with pytest.raises(ValueError, match="nothing to score"):
        scores.frame_accuracy([], [])


def random_piece(rng, rate):
    """Spans that follow on each other, and frames that begin and end before or after them."""
    num_spans, num_frames = rng.integers(1, 8), rng.integers(1, 40)
    edges = np.round(np.cumsum(rng.random(num_spans + 1) * num_frames / rate / num_spans), 3)
    edges[1:] += 0.001 * np.arange(1, num_spans + 1)
    if rng.random() < 0.3:
        edges -= edges[0]
    labels = rng.choice(CHORDS, num_spans)
    spans = [(float(a), float(b), str(x)) for a, b, x in zip(edges[:-1], edges[1:], labels, strict=True)]
    return spans, rng.choice(CHORDS, 4)[rng.integers(4, size=num_frames)]


def chords_by_mir_eval(spans, labels, rate):
    """mir_eval's score of a piece whose frames are its intervals one by one."""
    intervals = np.array([[start, end] for start, end, _ in spans])
    edges = np.arange(len(labels) + 1) / rate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mir_eval.chord.evaluate(
            intervals,
            [label for _, _, label in spans],
            np.stack([edges[:-1], edges[1:]], axis=1),
            [str(label) for label in labels],
        )["majmin"]


def right_and_compared(spans, labels, rate, step=1e-3):
    """Seconds that are right and that can be compared, by looking every millisecond."""
    right = compared = 0.0
    for start, end, label in spans:
        for time in np.arange(start + step / 2, end, step):
            frame = int(time * rate)
            guess = str(labels[frame]) if frame < len(labels) else "N"
            (verdict,) = mir_eval.chord.majmin([label], [guess])
            compared += step * (verdict >= 0)
            right += step * (verdict == 1)
    return right, compared


def test_chords_of_one_piece_are_mir_evals():
    rng = np.random.default_rng(7)
    num_scored = 0
    for rate in (25.0, 50.0, 10.766) * 15:
        spans, labels = random_piece(rng, rate)
        if mir_eval.chord.majmin([s[2] for s in spans], ["N"] * len(spans)).max() < 0:
            with pytest.raises(ValueError, match="no true chord"):
                scores.chord_majmin([spans], [labels], rate)
            continue
        found = scores.chord_majmin([spans], [labels], rate)
        assert found.value == pytest.approx(chords_by_mir_eval(spans, labels, rate), abs=1e-9)
        assert found.items is None
        num_scored += 1
    assert num_scored > 20


def test_chords_of_several_pieces_are_pooled_by_the_seconds_that_can_be_compared():
    rng = np.random.default_rng(8)
    pieces = [random_piece(rng, 25.0) for _ in range(5)]
    found = scores.chord_majmin(*zip(*pieces, strict=True), frame_rate_hz=25.0)
    right, compared = np.sum([right_and_compared(*piece, 25.0) for piece in pieces], axis=0)
    assert found.value == pytest.approx(right / compared, abs=0.01)
    # Exactly: mir_eval's score of each piece, weighted by its comparable seconds.
    weights = [
        sum(b - a for a, b, x in spans if mir_eval.chord.majmin([x], ["N"])[0] >= 0) for spans, _ in pieces
    ]
    each = [chords_by_mir_eval(*piece, 25.0) for piece in pieces]
    assert found.value == pytest.approx(np.average(each, weights=weights), abs=1e-9)


def test_chords_of_one_frame_gaps_overlaps_and_pieces_without_spans():
    one = [(0.0, 0.04, "C:maj")]
    assert scores.chord_majmin([one], [np.array(["C:7"])], 25.0).value == 1.0
    assert scores.chord_majmin([one, []], [np.array(["A:min"]), np.array(["N"])], 25.0).value == 0.0
    assert scores.chord_majmin([one], [np.array([], dtype=str)], 25.0).value == 0.0
    gap = [(0.0, 1.0, "C:maj"), (2.0, 3.0, "G:maj")]
    frames = np.array(["C:maj", "C:maj", "C:maj"])
    assert scores.chord_majmin([gap], [frames], 1.0).value == pytest.approx(0.5)
    overlap = [(0.0, 2.0, "C:maj"), (1.0, 1.0, "D:maj"), (1.0, 3.0, "G:maj")]
    assert scores.chord_majmin([overlap], [frames], 1.0).value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("spans", "label", "message"),
    [
        ([(0.0, 1.0, "Q:maj")], "N", "piece 1: .*Q:maj"),
        ([(0.0, 1.0, "C:maj")], "blues", "piece 1: .*blues"),
        ([(1.0, 0.5, "C:maj")], "N", "piece 1: found a span from 1.0 to 0.5"),
        ([(1.0, 2.0, "C:maj"), (0.0, 1.0, "C:maj")], "N", "piece 1: .* before one from 0.0 s; not in order"),
        ([(0.0, np.nan, "C:maj")], "N", "piece 1: found a span"),
        ([(0.0, np.inf, "C:maj")], "N", "piece 1: found a span"),
    ],
)
def test_a_wrong_chord_names_its_piece(spans, label, message):
    with pytest.raises(ValueError, match=message):
        scores.chord_majmin([[(0.0, 1.0, "N")], spans], [np.array(["N"]), np.array([label])], 25.0)


def random_beats(rng):
    """A file's true and predicted times: some off by about the window, some added, some missing, or none."""
    true_times = np.cumsum(rng.uniform(0.1, 0.9, size=rng.integers(0, 30)))
    times = true_times[rng.random(len(true_times)) < 0.8]
    times = times + rng.normal(scale=0.06, size=len(times))
    times = np.sort(np.append(times, rng.random(rng.integers(0, 5)) * 10))
    return true_times, times if rng.random() < 0.9 else np.zeros(0)


def largest_matching(true_times, times):
    """In one dimension the earliest pair that is close enough may always be taken."""
    i = j = matched = 0
    while i < len(true_times) and j < len(times):
        if abs(true_times[i] - times[j]) <= 0.07:
            i, j, matched = i + 1, j + 1, matched + 1
        elif true_times[i] < times[j]:
            i += 1
        else:
            j += 1
    return matched


def test_beats_are_counted_over_all_files():
    rng = np.random.default_rng(9)
    for _ in range(30):
        truth, predicted = zip(*[random_beats(rng) for _ in range(rng.integers(1, 8))], strict=True)
        found = scores.beat_f(truth, predicted)
        hits = sum(largest_matching(t, p) for t, p in zip(truth, predicted, strict=True))
        false = sum(map(len, predicted)) - hits
        missed = sum(map(len, truth)) - hits
        expected = 2 * hits / (2 * hits + false + missed) if hits + false + missed else 0.0
        assert found.value == pytest.approx(expected, abs=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            each = [mir_eval.beat.f_measure(t, p) for t, p in zip(truth, predicted, strict=True)]
        np.testing.assert_allclose(found.items, each, atol=1e-12)
        if len(truth) == 1:
            assert found.value == pytest.approx(each[0], abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_files_without_beats():
    assert scores.beat_f([[]], [[]]) == (0.0, [0.0], ())
    assert scores.beat_f([[1.0]], [[]]).value == scores.beat_f([[]], [[1.0]]).value == 0.0
    found = scores.beat_f([(1.0, 2.0), (), (1.0,)], [(1.05, 2.2), (4.0,), ()])
    assert found.value == pytest.approx(2 / 6)
    assert found.items.tolist() == [0.5, 0.0, 0.0]


def test_early_beats_are_not_trimmed_and_no_beat_matches_twice():
    assert scores.beat_f([[0.5, 1.0]], [[0.5, 1.0]]).value == 1.0
    assert scores.beat_f([[1.0]], [[0.98, 1.02]]).value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0, np.nan], "file 1: a true time is not finite"),
        ([np.inf], "file 1: a true time is not finite"),
        ([2.0, 1.0], "file 1: true times: .*increasing"),
        ([1e9], "file 1: true times: .*greater"),
        ([[1.0]], "file 1: true times: .*1-d"),
    ],
)
def test_wrong_times_name_their_file(times, message):
    with pytest.raises(ValueError, match=message):
        scores.beat_f([[1.0], times], [[1.0], [1.0]])


def test_confusion_is_scikit_learns():
    rng = np.random.default_rng(10)
    for n in (0, 1, 50):
        truth, predicted = rng.integers(-1, 5, size=n), rng.integers(5, size=n)
        kept = truth >= 0
        found = scores.confusion(truth, predicted, 6)
        expected = np.zeros((6, 6), int)
        if kept.any():
            expected = sklearn.metrics.confusion_matrix(truth[kept], predicted[kept], labels=range(6))
        np.testing.assert_array_equal(found, expected)
        assert found.dtype.kind == "i"
    for truth, predicted in (([6], [0]), ([0], [-1]), ([0], [6]), ([0, 1], [0])):
        with pytest.raises(ValueError, match="confusion"):
            scores.confusion(np.array(truth), np.array(predicted), 6)


@pytest.mark.parametrize("metric", MACRO)
@pytest.mark.parametrize("kind", KINDS)
def test_validation_of_labels_equals_the_metric_of_each_head(metric, kind):
    rng = np.random.default_rng(11)
    for n, c in [(2, 1), (3, 2), (17, 5), (64, 3)] * 3:
        truth = random_labels(rng, n, c)
        truth[:2, 0] = True, False  # one class at least can be scored
        stack = random_scores(rng, (4, n, c), kind)
        expected = [getattr(scores, metric)(truth, head).value for head in stack]
        found = scores.validation_score(metric, truth, stack)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_validation_equals_the_metric_of_each_head():
    rng = np.random.default_rng(12)
    stack = rng.normal(size=(5, 30, 24)).astype(np.float32)
    truth = rng.integers(24, size=30)
    targets = rng.normal(size=(30, 24))

    def expected(function, *arguments):
        return [function(*arguments[:1], head, *arguments[1:]).value for head in stack]

    for metric, truths, values in (
        ("accuracy", truth, expected(scores.accuracy, truth)),
        ("weighted_key_score", truth, expected(scores.weighted_key_score, truth, KEYS)),
        ("r2", targets, expected(scores.r2, targets)),
        ("mean_absolute_error", targets, -np.array(expected(scores.mean_absolute_error, targets))),
    ):
        found = scores.validation_score(metric, truths, stack, classes=KEYS)
        np.testing.assert_allclose(found, values, rtol=0, atol=1e-9)
        assert found.shape == (5,) and found.dtype == np.float64


def test_a_head_that_diverged_is_named_or_given_a_score():
    stack = np.zeros((3, 4, 2))
    stack[1, 2, 0] = np.nan
    truth = np.array([0, 0, 1, 0])
    with pytest.raises(ValueError, match="accuracy: head 1: item 2 has nan"):
        scores.validation_score("accuracy", truth, stack)
    found = scores.validation_score("accuracy", truth, stack, diverged=-np.inf)
    assert found.tolist() == [0.75, -np.inf, 0.75]


def test_validation_needs_a_known_metric_and_its_arguments():
    with pytest.raises(ValueError, match="'f1'; expected one of \\['accuracy'"):
        scores.validation_score("f1", np.array([0]), np.zeros((1, 1, 2)))
    with pytest.raises(ValueError, match="classes' names"):
        scores.validation_score("weighted_key_score", np.array([0]), np.zeros((1, 1, 2)))
    with pytest.raises(ValueError, match="expected \\[H, N, C\\]"):
        scores.validation_score("accuracy", np.array([0]), np.zeros((1, 2)))


@pytest.mark.parametrize("metric", ["accuracy", *MACRO, *REGRESSION])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_names_its_item(metric, bad):
    values = np.zeros((4, 2))
    values[3, 1] = bad
    truth = np.array([0, 1, 0, 1]) if metric == "accuracy" else np.array([[0, 1], [1, 0], [0, 1], [1, 1]])
    with pytest.raises(ValueError, match=f"{metric}: item 3"):
        getattr(scores, metric)(truth, values)


@pytest.mark.parametrize("metric", [*MACRO, *REGRESSION])
@pytest.mark.parametrize("shape", [(3, 2), (4, 3), (4,), (0, 2), (4, 0), (4, 2, 1)])
def test_shapes_that_do_not_fit(metric, shape):
    with pytest.raises(ValueError, match=metric):
        getattr(scores, metric)(np.ones((4, 2), bool), np.zeros(shape))
    with pytest.raises(ValueError, match=metric):
        getattr(scores, metric)(np.zeros(shape), np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([0, 1], "2 true classes, but scores of 3 items"),
        ([0, 1, 2], "item 2 has class 2, of 2"),
        ([0, -1, 0], "item 1 has class -1"),
        ([0.0, 1.0, 1.0], "expected integers"),
        ([[0], [1], [1]], "expected integers"),
    ],
)
def test_classes_that_do_not_fit(truth, message):
    with pytest.raises(ValueError, match=message):
        scores.accuracy(np.array(truth), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="found values of shape"):
        scores.accuracy(np.zeros(0, int), np.zeros((0, 2)))


def test_a_truth_that_is_neither_yes_nor_no():
    with pytest.raises(ValueError, match="other than 0 and 1"):
        scores.roc_auc(np.array([[2], [0]]), np.zeros((2, 1)))
