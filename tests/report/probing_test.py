import pytest

from muq_jax.report.probing import probe_blocks, probe_cards, probe_table, verdict


def row(task, encoder, metric, value, low=None, high=None, layer=None):
    low, high = (value - 0.1 if low is None else low), (value + 0.1 if high is None else high)
    return {
        **{"task": task, "encoder": encoder, "metric": metric, "value": value, "low": low, "high": high},
        **{"layer": layer, "num_train": 10, "num_val": 5, "num_test": 7, "seeds": 3},
    }


def rows(difference=(0.2, 0.1, 0.3)):
    return [
        row("key", "most frequent class", "accuracy", 0.1),
        row("key", "logmel", "accuracy", 0.3, layer=0),
        row("key", "untrained", "accuracy", 0.2, layer=1),
        row("key", "trained", "accuracy", 0.4, layer=2),
        row("key", "trained", "accuracy minus untrained", *difference, layer=2),
        row("mean", "untrained", "mean of tasks", 0.25),
        row("mean", "trained", "mean of tasks", 0.45),
        row("mean", "trained", "mean of tasks minus untrained", *difference),
    ]


@pytest.mark.parametrize(
    ("difference", "says"),
    [
        ((0.2, 0.1, 0.3), "training has helped"),
        ((0.05, -0.1, 0.2), "no clear difference"),
        ((-0.2, -0.3, -0.1), "worse"),
    ],
)
def test_the_verdict_is_the_interval_s(difference, says):
    text = verdict(rows(difference), "trained")
    assert says in text and f"{difference[0]:+.2f}" in text and "over the tasks" in text


def test_a_single_task_has_a_verdict_and_a_card_too():
    single = [r for r in rows() if r["task"] == "key"]
    assert "on key" in verdict(single, "trained")
    (card,) = probe_cards(single, "trained")
    assert card.value == "0.40" and card.meaning.startswith("probe accuracy, key; most frequent class 0.10")


def test_the_card_shows_the_mean_and_the_others():
    (card,) = probe_cards(rows(), "trained")
    assert card.value == "0.45" and card.meaning == "mean probe accuracy; untrained 0.25"


def test_the_table_has_a_column_an_encoder_and_layers_where_there_are_some():
    table = probe_table(rows())
    assert table.header == ("", "most frequent class", "logmel", "untrained", "trained")
    assert table.rows[0][0] == "key\naccuracy, 7 test clips"
    assert table.rows[0][2] == "0.30\n0.20 to 0.40"
    assert table.rows[0][4] == "0.40\n0.30 to 0.50, layer 2"
    assert table.rows[1][0] == "mean of the tasks" and table.rows[1][1] == ""


def test_the_blocks_go_from_prose_to_layers():
    layers = [
        {"task": "key", "encoder": encoder, "layer": layer, "metric": "accuracy", "validation": 0.3}
        for encoder in ("logmel", "untrained", "trained")
        for layer in range(3)
    ]
    blocks = probe_blocks(rows(), layers, "trained")
    assert [type(block).__name__ for block in blocks] == ["str", "str", "Table", "Picture", "Picture"]
