import string

import numpy as np
import pytest

from muq_jax.train.health import CHECKS, findings


def train_row(step, **fields):
    row = {
        "split": "train", "step": step, "loss": 4.0, "grad_norm": 1.0, "skipped": 0, "data_wait": 0.01,
        "ce": [4.0, 5.0], "unigram_ce": [5.0, 6.0], "chance": 6.93, "error": [1.2, 1.1, 1.0],
        "codes_used": [1000, 900], "num_codes": 1024, "codes_counted": 50_000.0,
    }  # fmt: skip
    return row | fields


def valid_row(step, loss):
    return {"split": "valid", "step": step, "loss": loss, "ce": [4.0, 5.0], "unigram_ce": [5.0, 6.0]}


HEALTHY = [train_row(step) for step in range(500, 10_500, 500)]


def retrieval_rows(found, num_ranked=300, chance=None):
    """Returns validation rows with these recalls, a pair each: of texts, of clips."""
    rows = []
    for step, pair in enumerate(found, 1):
        row = {**valid_row(1000 * step, 4.0), "num_ranked": float(num_ranked)}
        for way, value in zip(("text_to_music", "music_to_text"), pair, strict=True):
            row |= {f"{way}_recall_at_10": value, f"{way}_recall_at_10_chance": chance or 10 / num_ranked}
        rows.append(row)
    return rows


def names(rows):
    return [row["check"] for row in findings(rows)]


def test_a_healthy_run_is_left_in_peace():
    valid = [valid_row(step, 4.0 - step / 10_000) for step in range(1000, 10_000, 1000)]
    assert findings(HEALTHY + valid) == []
    assert findings([]) == []
    assert findings([train_row(100, loss=None, grad_norm=None, ce=[None, None])]) == []


@pytest.mark.parametrize("end, noise", [(0.4, 0.15), (0.0, 0.15), (-3.0, 0.15), (-3.0, 0.0)])
def test_a_noisy_loss_that_falls_has_not_risen(end, noise):
    rng = np.random.default_rng(0)
    for _ in range(20):
        losses = (3.5 - end) * np.exp(-np.arange(40) / 10) + end + noise * rng.standard_normal(40)
        rows = [train_row(20 * step, loss=loss) for step, loss in enumerate(losses.tolist(), 1)]
        valid = [valid_row(20 * step, loss) for step, loss in enumerate(sorted(losses.tolist())[::-5], 1)]
        assert not any(findings([*rows[:end], *valid]) for end in range(10, 41))


@pytest.mark.parametrize(
    "check, rows, said",
    [
        (
            "no_better_than_chance",
            [train_row(1500, ce=[6.93, 6.95])],
            "6.940, is no better than chance (6.930)",
        ),
        (
            "retrieval_no_better_than_chance",
            [*HEALTHY, *retrieval_rows([(0.9, 0.9), (0.02, 0.04), (0.05, 0.03), (0.03, 0.04)])],
            "among the first ten in 3.5% of cases, no better than chance (3.3%)",
        ),
        (
            "not_below_code_frequencies",
            [*HEALTHY, {**valid_row(10_000, 5.6), "ce": [5.5, 6.1]}],
            "5.800, is not below 5.500",
        ),
        ("unused_codes", [train_row(500, codes_used=[700, 1000, 40])], "book 3 uses 40 of 1024 codes"),
        ("useless_book", [train_row(500, error=[1.2, 1.0, 1.01])], "book 3 does not improve"),
        (
            "gradient_jump",
            [*HEALTHY, train_row(10_500, grad_norm=50.0)],
            "50, is more than ten times its median of 1",
        ),
        ("skipped_steps", [train_row(100, skipped=2), train_row(200, skipped=1)], "3 steps gave"),
        (
            "waiting_for_data",
            [train_row(step, data_wait=0.5) for step in (100, 200, 300)],
            "50 % of the time",
        ),
        (
            "slow_host",
            [train_row(step, host_data_wait=[0.02, 0.4, 0.04]) for step in (100, 200, 300)],
            "host 1 waits for its data 40 % of the time, the others 3 %",
        ),
        (
            "loss_risen",
            [*HEALTHY, *(train_row(11_000 + i, loss=9.0) for i in range(5))],
            "risen to 9.000 from 4.000",
        ),
        (
            "overfitting",
            [*HEALTHY, *(valid_row(1000 * i, loss) for i, loss in enumerate([5.0, 4.0, 4.5, 4.6, 4.7], 1))],
            "risen to 4.700 from 4.000 at step 2000",
        ),
    ],
)
def test_each_check_finds_its_fault_and_says_it_once(check, rows, said):
    found = findings(rows)
    assert [row["check"] for row in found] == [check]
    assert said in found[0]["message"]
    assert found[0]["split"] == "health" and found[0]["step"] > 0
    assert findings([*rows, *found]) == []


def test_retrieval_of_few_clips_is_left_in_peace():
    for found, num_ranked, chance in ((1.0, 8, 1.0), (0.9, 12, 0.85)):
        assert findings([*HEALTHY, *retrieval_rows([(found, found)] * 3, num_ranked, chance)]) == []


@pytest.mark.parametrize("times_chance, least, most", [(1, 0.9, 1.0), (2, 0.0, 0.01)])
def test_retrieval_by_luck_is_told_from_retrieval(times_chance, least, most):
    rng = np.random.default_rng(0)
    recalls = rng.binomial(300, times_chance * 10 / 300, (200, 3, 2)) / 300
    flagged = [bool(findings([*HEALTHY, *retrieval_rows(run.tolist())])) for run in recalls]
    assert least <= np.mean(flagged) <= most


def test_it_is_too_early_to_tell():
    early = train_row(200, ce=[6.93, 6.93], codes_used=[10, 10], error=[1.0, 1.1, 1.2])
    assert names([early]) == []


def test_few_tokens_do_not_make_unused_codes():
    assert names([train_row(500, codes_used=[300, 200], codes_counted=1000.0)]) == []


def test_every_check_has_a_test_and_a_message_with_facts():
    tested = {mark.args[0] for mark in _parameters()}
    assert tested == {check.name for check in CHECKS}
    for check in CHECKS:
        assert any(field for _, field, *_ in string.Formatter().parse(check.message))


def _parameters():
    [mark] = test_each_check_finds_its_fault_and_says_it_once.pytestmark
    return [type("Case", (), {"args": case}) for case in mark.args[1]]
