"""Retrieval metrics against counting by hand, all orders of ties, simulations and closed forms."""

import itertools
from math import comb

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    label_ranking_average_precision_score,
    top_k_accuracy_score,
)

from muq_jax.objectives import retrieval as module
from muq_jax.objectives.retrieval import best_ranks, both_ways, chance, retrieval


def rights(rng, num_queries, num_items, most=4):
    """Between one and `most` right items a query, bool [N, M]."""
    right = np.zeros((num_queries, num_items), bool)
    for row in right:
        row[rng.choice(num_items, rng.integers(1, min(most, num_items) + 1), replace=False)] = True
    return right


def in_order(right):
    """Metrics of right items [..., N, M] in their order, counted one query at a time: recalls, AP, ranks."""
    flat = right.reshape(-1, right.shape[-1])
    ranks = np.array([1 + row.tolist().index(True) for row in flat])
    precisions = []
    for row in flat:
        found = [row[: i + 1].sum() / (i + 1) for i in range(min(10, len(row))) if row[i]]
        precisions.append(sum(found) / min(10, row.sum()))
    median = np.percentile(ranks, 50, method="inverted_cdf")
    return [*(np.mean(ranks <= k) for k in (1, 5, 10)), np.mean(precisions), median]


def all_orders_of_ties(similarity, right):
    """The right items [P, N, M] in every order that the similarities allow."""
    rows = []
    for values, good in zip(similarity, right, strict=True):
        groups = [np.flatnonzero(values == value) for value in sorted(set(values), reverse=True)]
        orders = itertools.product(*(itertools.permutations(group) for group in groups))
        rows.append([good[np.concatenate(order).astype(int)] for order in orders])
    count = np.lcm.reduce([len(orders) for orders in rows])
    return np.stack([np.repeat(orders, count // len(orders), axis=0) for orders in rows], axis=1)


@pytest.mark.parametrize(("num_queries", "num_items"), [(23, 37), (8, 3), (1, 1), (5, 11)])
def test_without_ties_it_is_what_counting_gives(num_queries, num_items):
    rng = np.random.default_rng(num_items)
    similarity = rng.standard_normal((num_queries, num_items)).astype(np.float32)
    right = rights(rng, num_queries, num_items, most=14)
    found = retrieval(similarity, right)
    order = np.argsort(-similarity, axis=1)
    np.testing.assert_allclose(found.scores, in_order(np.take_along_axis(right, order, 1)), rtol=1e-12)
    assert (found.num_queries, found.num_items) == (num_queries, num_items)
    ranks = [
        1 + min(o.tolist().index(i) for i in np.flatnonzero(r)) for o, r in zip(order, right, strict=True)
    ]
    np.testing.assert_array_equal(best_ranks(similarity, right), ranks)


def test_against_scikit_learn():
    rng = np.random.default_rng(0)
    similarity, owner = rng.standard_normal((40, 9)), rng.integers(9, size=40)
    similarity[np.arange(40), owner] += 1
    scores = retrieval(similarity, owner[:, None] == np.arange(9)).scores
    for k, recall in ((1, scores.recall_at_1), (5, scores.recall_at_5)):
        assert recall == pytest.approx(top_k_accuracy_score(owner, similarity, k=k), abs=1e-12)
    # With nine items, the first ten are all.
    right = rights(rng, 40, 9)
    each = [average_precision_score(r, s) for r, s in zip(right, similarity, strict=True)]
    assert retrieval(similarity, right).scores.map_at_10 == pytest.approx(np.mean(each), abs=1e-12)
    assert np.mean(each) == pytest.approx(label_ranking_average_precision_score(right, similarity))


def test_ties_are_the_mean_over_all_their_orders():
    rng = np.random.default_rng(1)
    similarity = rng.integers(3, size=(7, 6)).astype(np.float64)
    similarity[0] = 5  # a query to which all items are alike
    right = rights(rng, 7, 6)
    orders = all_orders_of_ties(similarity, right)
    assert len(orders) >= 720
    np.testing.assert_allclose(retrieval(similarity, right).scores, in_order(orders), rtol=1e-9)
    expected = (1 + orders.argmax(axis=2)).mean(axis=0)
    np.testing.assert_allclose(best_ranks(similarity, right), expected, rtol=1e-9)


def test_ties_across_the_tenth_place():
    rng = np.random.default_rng(2)
    similarity = np.repeat([[9, 8, 7, 6, 5, 4, 3, 2, 2, 2, 2, 2, 1]], 5, axis=0).astype(np.float64)
    right = rights(rng, 5, 13)
    orders = all_orders_of_ties(similarity, right)
    np.testing.assert_allclose(retrieval(similarity, right).scores, in_order(orders), rtol=1e-9)


@pytest.mark.parametrize("num_items", [1, 2, 10, 57, 1000])
def test_a_model_to_which_all_is_alike_gets_chance(num_items):
    rng = np.random.default_rng(num_items)
    right = rights(rng, 31, num_items, most=12)
    found = retrieval(np.full((31, num_items), 0.3), right)
    np.testing.assert_allclose(found.scores, found.chance, rtol=1e-9)


def test_chance_in_closed_form():
    for num_items, num_right in ((7, 1), (50, 1), (50, 3), (12, 12), (400, 30)):
        found = chance(np.array([num_right]), num_items)
        for k, recall in ((1, found.recall_at_1), (5, found.recall_at_5), (10, found.recall_at_10)):
            missed = comb(num_items - num_right, min(k, num_items)) / comb(num_items, min(k, num_items))
            assert recall == pytest.approx(1 - missed, abs=1e-10)
    one = chance(np.ones(3), 50)
    # A single right item is at each of the first ten places as often as at any other.
    assert one.map_at_10 == pytest.approx(sum(1 / i for i in range(1, 11)) / 50)
    assert one.median_rank == 25 and chance(np.ones(3), 51).median_rank == 26
    assert chance(np.array([5]), 5) == (1, 1, 1, pytest.approx(1), 1)


def test_chance_is_what_random_orders_give():
    rng = np.random.default_rng(3)
    num_right = np.array([1, 1, 2, 5, 17])
    right = np.arange(40) < num_right[:, None]
    found = chance(num_right, 40)
    shuffled = rng.permuted(np.broadcast_to(right, (20_000, *right.shape)), axis=2)
    expected = in_order(shuffled)
    np.testing.assert_allclose(found[:4], expected[:4], atol=0.005)
    assert abs(found.median_rank - expected[4]) <= 1
    # A model that knows nothing gets there, too.
    similarity = rng.standard_normal((500, 5, 40)).reshape(-1, 40)
    scores = retrieval(similarity, np.tile(right, (500, 1))).scores
    np.testing.assert_allclose(scores[:4], found[:4], atol=0.03)
    assert abs(scores.median_rank - found.median_rank) <= 1


def test_both_ways():
    rng = np.random.default_rng(4)
    captions = np.array([0, 1, 1, 2, 0])  # of five pieces, three captions
    similarity, right = rng.standard_normal((5, 3)), captions[:, None] == np.arange(3)
    pieces, texts = both_ways(similarity, right)
    assert pieces == retrieval(similarity, right) and texts == retrieval(similarity.T.copy(), right.T)
    assert (pieces.num_queries, texts.num_queries) == (5, 3)
    perfect, _ = both_ways(right.astype(float), right)
    assert perfect.scores == (1, 1, 1, 1, 1)
    # A piece with the same caption is a hit: the one asked for need not come first.
    assert texts.scores.recall_at_5 == 1


def test_the_number_of_rows_at_a_time_changes_nothing(monkeypatch):
    rng = np.random.default_rng(5)
    similarity, right = rng.integers(5, size=(29, 17)).astype(float), rights(rng, 29, 17)
    whole = retrieval(similarity, right)
    monkeypatch.setattr(module, "_BLOCK", 60)
    np.testing.assert_allclose(retrieval(similarity, right).scores, whole.scores, rtol=1e-12)


@pytest.mark.parametrize(
    ("similarity", "right", "says"),
    [
        (np.zeros((2, 3)), np.ones((3, 2), bool), r"shape \(2, 3\) and right items of shape \(3, 2\)"),
        (np.zeros((0, 3)), np.ones((0, 3), bool), "neither of them empty"),
        (np.zeros(3), np.ones(3, bool), "neither of them empty"),
        (np.zeros((2, 2)), np.ones((2, 2)), "right items are float64; expected bool"),
        (
            np.array([[0.0, 1], [np.nan, 2]]),
            np.ones((2, 2), bool),
            "query 1 and item 0 have the similarity nan",
        ),
        (np.zeros((2, 2)), np.array([[True, False], [False, False]]), "query 1 has no right item"),
    ],
)
def test_what_cannot_be_ranked(similarity, right, says):
    with pytest.raises(ValueError, match=says):
        retrieval(similarity, right)
