import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss

from muq_jax.probe import heads
from muq_jax.probe.heads import Schedule, pick, predict, train_heads

RATES = (1e-3, 1e-2)
SHORT = Schedule(batch_size=16, epochs=6, patience=6)


def clips(num_layers=3, num_rows=50, width=7, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_rows).astype(np.int32)
    inputs = rng.normal(size=(num_layers, num_rows, width)).astype(np.float32)
    inputs[-1, np.arange(num_rows), labels] += 3
    return inputs, labels


def accuracy_on(labels):
    return lambda outputs: (outputs.argmax(-1) == labels).mean(-1)


def train(kind, data, val, *, rates=RATES, seeds=(0, 1), schedule=SHORT, validate=None):
    return train_heads(
        kind,
        data,
        val,
        validate or accuracy_on(val[1]),
        objective="cross_entropy",
        num_outputs=4,
        learning_rates=rates,
        seeds=seeds,
        schedule=schedule,
    )


def test_heads_trained_together_are_those_trained_alone():
    data, val = clips(), clips(num_rows=21, seed=1)
    together = train("layer", data, val)
    assert together.validation.shape == (3, 2, 2)
    for layer in range(3):
        for s, seed in enumerate((0, 1)):
            for r, rate in enumerate(RATES):
                one = slice(layer, layer + 1)
                alone = train(
                    "layer", (data[0][one], data[1]), (val[0][one], val[1]), rates=(rate,), seeds=(seed,)
                )
                assert alone.validation[0, 0, 0] == together.validation[layer, s, r]
                for name, leaf in together.params.items():
                    np.testing.assert_allclose(leaf[layer, s, r], alone.params[name][0, 0, 0], atol=2e-5)


@pytest.mark.parametrize("kind", ["layer", "sum", "reduce"])
def test_a_head_is_what_a_plain_loop_trains(kind, monkeypatch):
    """Adam on all rows at once, without dropout: five steps by optax on one head's own parameters."""
    monkeypatch.setattr(heads, "DROPOUT", 0.0)
    heads._epoch.clear_cache()
    inputs, labels = clips(num_layers=3, num_rows=29, width=5)
    val = clips(num_layers=3, num_rows=11, width=5, seed=1)
    rising = iter(range(1, 6))
    found = train(
        kind,
        (inputs, labels),
        val,
        rates=(1e-2,),
        seeds=(3,),
        schedule=Schedule(batch_size=1000, epochs=5),
        validate=lambda outputs: np.full(len(outputs), next(rising)),
    )
    params = heads.init_head(kind, 3, 5, 4, jax.random.key(3))
    optimizer = optax.adam(1e-2)
    state = optimizer.init(params)

    def loss(p):
        if kind == "layer":
            x = jnp.asarray(inputs[0])
        elif kind == "sum":
            x = jnp.einsum("l,lnd->nd", jax.nn.softmax(p["mix"]), inputs[1:])
        else:
            x = np.concatenate(list(inputs), axis=1) @ p["reduce"] + p["reduce_bias"]
        hidden = jax.nn.relu(x @ p["hidden"] + p["hidden_bias"])
        logits = hidden @ p["out"] + p["out_bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])

    for _ in range(5):
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        params = optax.apply_updates(params, updates)
    heads._epoch.clear_cache()
    for name, leaf in params.items():
        np.testing.assert_allclose(found.params[name][0, 0, 0], leaf, atol=2e-5)


@pytest.mark.parametrize("num_rows", [1, 2, 100, 1625, 1626, 5000])
def test_rows_are_in_an_order_of_each_seed_and_epoch(num_rows):
    seeds = (3, 4)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    for epoch in (0, 7):
        expected = [
            jax.random.permutation(jax.random.fold_in(jax.random.key(seed), epoch), num_rows)
            for seed in seeds
        ]
        np.testing.assert_array_equal(heads.random_order(keys, epoch, num_rows), expected)


def test_the_best_epoch_is_kept_and_patience_ends_the_training():
    data, val = clips(num_layers=1), clips(num_layers=1, num_rows=9, seed=1)
    scores = [0.1, 0.5, 0.3, 0.4, 0.5, 0.2, 0.9]
    seen = []

    def validate(outputs):
        seen.append(outputs.copy())
        return np.full(len(outputs), scores[len(seen) - 1])

    schedule = Schedule(batch_size=16, epochs=7, patience=4)
    found = train("layer", data, val, rates=(1e-3,), seeds=(0,), schedule=schedule, validate=validate)
    assert found.epochs == 6 and found.validation[0, 0, 0] == 0.5, "0.9 would have come too late"
    kept, _ = predict("layer", found.params, val[0])
    losses = [
        log_loss(val[1], np.asarray(jax.nn.softmax(outputs[0].astype(np.float64))), labels=range(4))
        for outputs in seen
    ]
    best = min((1, 4), key=lambda epoch: losses[epoch])  # of equal scores, the lower loss
    np.testing.assert_allclose(kept[0, 0, 0], seen[best][0], atol=1e-6)
    assert found.loss[0, 0, 0] == pytest.approx(losses[best], rel=1e-5)


def test_a_head_that_is_done_does_not_hang_on_the_others():
    data, val = clips(num_layers=2), clips(num_layers=2, num_rows=9, seed=1)
    calls = iter(range(100))

    def validate(outputs):  # the first layer's head is best at once, the second gets better to the end
        epoch = next(calls)
        return np.array([1.0 if epoch == 0 else 0.0, float(epoch)])

    schedule = Schedule(batch_size=16, epochs=8, patience=2)
    found = train("layer", data, val, rates=(1e-3,), seeds=(0,), schedule=schedule, validate=validate)
    assert found.epochs == 8
    assert found.validation[:, 0, 0].tolist() == [1.0, 7.0]


def test_the_rate_falls_on_a_plateau():
    """With a rate that falls to nothing at once, a head stops where it is."""
    data, val = clips(num_layers=1), clips(num_layers=1, num_rows=9, seed=1)
    outputs = []

    def validate(found):
        outputs.append(found.copy())
        return np.zeros(len(found))

    schedule = Schedule(batch_size=16, epochs=6, patience=6, plateau=1, factor=0.0)
    train("layer", data, val, rates=(1e-2,), seeds=(0,), schedule=schedule, validate=validate)
    moved = [np.abs(b - a).max() for a, b in itertools.pairwise(outputs)]
    assert moved[0] > 1e-4 and moved[-1] == 0


def test_the_sum_does_not_see_the_encoder_s_input():
    inputs, labels = clips()
    found = train("sum", (inputs, labels), (inputs, labels), seeds=(0,), rates=(1e-2,))
    outputs, _ = predict("sum", found.params, inputs)
    changed = inputs.copy()
    changed[0] += 100
    np.testing.assert_array_equal(predict("sum", found.params, changed)[0], outputs)
    changed[1] += 100
    assert np.abs(predict("sum", found.params, changed)[0] - outputs).max() > 1


def test_outputs_of_many_rows_are_made_in_parts(monkeypatch):
    inputs, labels = clips(num_rows=33)
    found = train("layer", (inputs, labels), (inputs, labels), seeds=(0,))
    whole, loss = predict("layer", found.params, inputs, labels, "cross_entropy")
    monkeypatch.setattr(heads, "_ROWS_AT_ONCE", 8)
    parts, same = predict("layer", found.params, inputs, labels, "cross_entropy")
    assert parts.shape == (3, 1, 2, 33, 4)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    np.testing.assert_allclose(same, loss, rtol=1e-5)


def test_picked_heads_are_those_of_the_grid():
    inputs, labels = clips()
    found = train("layer", (inputs, labels), (inputs, labels))
    whole, _ = predict("layer", found.params, inputs)
    one, _ = predict("layer", pick(found.params, 2, 1), inputs[2:3])
    np.testing.assert_allclose(one[0, :, 0], whole[2, :, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("objective", "targets"),
    [("binary", [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), ("squared", [[0.5, -1.0], [2.0, 0.0], [0.0, 3.0]])],
)
def test_losses_are_the_textbook_s(objective, targets):
    outputs = np.array([[2.0, -1.0], [0.3, 0.1], [-4.0, 3.0]])
    targets = np.array(targets)
    p = 1 / (1 + np.exp(-outputs))
    if objective == "binary":
        expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean(axis=1)
    else:
        expected = ((outputs - targets) ** 2).mean(axis=1)
    found = heads.row_losses(objective, jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_fewer_rows_than_a_batch_are_one_batch():
    inputs, labels = clips(num_rows=5)
    found = train("layer", (inputs, labels), (inputs, labels), schedule=Schedule(epochs=2))
    assert found.epochs == 2 and np.isfinite(found.loss).all()
