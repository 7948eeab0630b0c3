import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from experiments.ranking import METRICS, Question, piece_scores, ranking_scores


def by_hand(relevant):
    """recall@1, recall@5 and MRR of one query by definition, MAP by scikit-learn."""
    ranks = [rank for rank, is_relevant in enumerate(relevant, 1) if is_relevant]
    average_precision = average_precision_score(relevant, -np.arange(len(relevant)))
    return [min(ranks) == 1, min(ranks) <= 5, 1 / min(ranks), average_precision]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 99))
def test_scores_are_those_of_scikit_learn(num_queries, num_others, seed):
    relevant = np.random.default_rng(seed).random((num_queries, num_others)) < 0.3
    relevant[np.arange(num_queries), seed % num_others] = True
    np.testing.assert_allclose(ranking_scores(relevant), np.transpose([by_hand(row) for row in relevant]))


FIELDS = {
    "piece": np.array([f"p{i // 3}" for i in range(24)] + ["alone"]),
    "split": np.array(["val"] * 6 + ["test"] * 18 + ["test"]),
    "source": np.array(["a"] * 12 + ["b"] * 9 + ["c"] * 3 + ["b"]),
}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (Question("", ("test",), ("test",)), ["p2", "p3", "p4", "p5", "p6", "p7"]),
        (Question("", ("test",), ("val", "test")), ["p2", "p3", "p4", "p5", "p6", "p7"]),
        # p7 is the only piece of its source; `alone` has no other excerpt and is only found.
        (Question("", ("test",), ("test",), "source"), ["p2", "p3", "p4", "p5", "p6"]),
    ],
)
def test_pieces_are_scored_among_those_that_the_question_searches(question, expected):
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((25, 6)) + rng.standard_normal((9, 6))[np.arange(25) // 3]
    cosines = cosine_similarity(matrix)
    found = piece_scores(matrix, FIELDS, question)
    assert list(found) == expected
    for name, scores in found.items():
        queries = []
        for row in np.flatnonzero(FIELDS["piece"] == name):
            searched = [
                other
                for other in range(25)
                if other != row
                and FIELDS["split"][other] in question.searched
                and (question.same is None or FIELDS["source"][other] == FIELDS["source"][row])
            ]
            searched.sort(key=lambda other: -cosines[row, other])
            queries.append(by_hand([FIELDS["piece"][other] == name for other in searched]))
        np.testing.assert_allclose(scores, np.mean(queries, axis=0))


def test_a_random_order_scores_what_chance_gives():
    """Of n others two are relevant: the first is with probability 2 / n."""
    fields = {"piece": np.arange(60) // 3, "split": np.full(60, "test")}
    rng = np.random.default_rng(0)
    question = Question("", ("test",), ("test",))
    each = [list(piece_scores(rng.standard_normal((60, 8)), fields, question).values()) for _ in range(100)]
    scores = dict(zip(METRICS, np.mean(each, axis=(0, 1)), strict=True))
    assert scores["recall@1"] == pytest.approx(2 / 59, abs=0.01)
    assert scores["recall@5"] == pytest.approx(1 - 54 * 53 / (59 * 58), abs=0.02)


def test_one_excerpt_is_not_its_own_answer():
    fields = {"piece": np.array(["a", "a", "b", "b"]), "split": np.full(4, "test")}
    matrix = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = piece_scores(matrix, fields, Question("", ("test",), ("test",)))
    np.testing.assert_array_equal(list(found.values()), np.ones((2, 4)))
