"""The probe's head: a ridge classifier on standardised features; the validation split chooses."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from muq_jax.probe.metrics import ItemScore

# Strongest first: equal validation scores go to the stronger regularisation. With some hundred items and some
# hundred standardised features the best value has been between 10 and 300 on every task tried.
PENALTIES = (3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
TRAIN_SHARE = 0.9  # of the training items, drawn anew for each seed


class Split(NamedTuple):
    """Features of one encoder and the labels of one split."""

    features: np.ndarray  # [layers, N, D]
    labels: np.ndarray  # [N] texts


class Fitted(NamedTuple):
    """What the validation split chose, and the predictions that follow from it.

    layer: index of the layer.
    penalty: of the ridge.
    validation: [layers] mean over seeds of the validation score, at each layer's best penalty.
    predicted: [seeds, N_test] labels.
    """

    layer: int
    penalty: float
    validation: np.ndarray
    predicted: np.ndarray


def fit_head(train: Split, val: Split, test: np.ndarray, score: ItemScore, seeds: Sequence[int]) -> Fitted:
    """Fits on train, chooses layer and penalty on val by the mean score over seeds, predicts test once.

    A ridge fit has no chance in it, so a seed stands for another draw of `TRAIN_SHARE` of the training items.

    Args:
        train, val: features and labels.
        test: features [layers, N_test, D].
        score: item scores of (truth, predicted).
        seeds: of the draws.
    """
    num_layers = train.features.shape[0]
    scores = np.zeros((num_layers, len(PENALTIES), len(seeds)))
    for layer, (p, penalty), (s, seed) in itertools.product(
        range(num_layers), enumerate(PENALTIES), enumerate(seeds)
    ):
        scores[layer, p, s] = score(val.labels, _predict(train, layer, penalty, seed, val.features)).mean()
    mean = scores.mean(axis=-1)
    layer, p = (int(i) for i in np.unravel_index(np.argmax(mean), mean.shape))
    predictions = [_predict(train, layer, PENALTIES[p], seed, test) for seed in seeds]
    return Fitted(layer, PENALTIES[p], mean.max(axis=1), np.stack(predictions))


def _predict(train: Split, layer: int, penalty: float, seed: int, features: np.ndarray) -> np.ndarray:
    """Labels of `features` [layers, N, D] by a head fitted on this seed's draw of the training items."""
    num_items = len(train.labels)
    picks = np.random.default_rng(seed).permutation(num_items)[: max(2, round(TRAIN_SHARE * num_items))]
    inputs, labels = train.features[layer][picks], train.labels[picks]
    if len(np.unique(labels)) == 1:
        return np.repeat(labels[:1], features.shape[1])
    scaler = StandardScaler().fit(inputs)
    head = RidgeClassifier(alpha=penalty).fit(scaler.transform(inputs), labels)
    return head.predict(scaler.transform(features[layer]))
