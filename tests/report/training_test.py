import json

import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.report.training import health_section, prediction_cards, report_training, run_facts, rvq_cards


def muq_row(step: int, split: str = "train", **changes):
    row = {
        "split": split,
        "step": step,
        "loss": 5.0,
        "ce": [4.0, 6.0],
        "unigram_ce": [5.0, 5.5],
        "accuracy": [0.2, 0.1],
        "num_codes": 1024,
        "audio_hours": step / 100,
        "grad_norm": 1.0,
        "learning_rate": 1e-3,
        "audio_seconds_per_second": 50.0,
    }
    return row | changes


def rvq_row(step: int):
    return {
        "split": "train",
        "step": step,
        "loss": 2.0,
        "error": [1.0, 0.5],
        "codes_used": [900, 800],
        "codes_perplexity": [300.0, 200.0],
        "num_codes": 1024,
        "codes_counted": 40_000.0,
        "audio_hours": 0.5,
    }


def write(workdir, rows):
    workdir.mkdir(exist_ok=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# A window in which every step was skipped.
SKIPPED = {
    "loss": None,
    "ce": [None, None],
    "unigram_ce": [None, None],
    "accuracy": [None, None],
    "grad_norm": None,
}


def test_a_muq_run_is_reported_with_skipped_windows_and_health(tmp_path):
    health = {"split": "health", "step": 30, "check": "x", "message": "book 3 uses 40 of 1024 codes: do this"}
    rows = [muq_row(10), muq_row(20, **SKIPPED), muq_row(30), health, muq_row(30, "valid")]
    write(tmp_path / "run", rows)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"optim": {"peak_lr": 1e-3}}))
    path = report_training(tmp_path / "run")
    assert path == tmp_path / "run" / "report" / "index.html"
    html = path.read_text()
    for wanted in (
        "Pretraining MuQ",
        "book 3 uses 40 of 1024 codes: do this",
        "peak_lr",
        "1 of 2",
        "step 30",
        "jax",
    ):
        assert wanted in html


def test_a_mel_rvq_run_is_reported(tmp_path):
    write(tmp_path / "run", [rvq_row(10), rvq_row(20)])
    html = report_training(tmp_path / "run").read_text()
    assert "Fitting a Mel-RVQ" in html and "800 of 1,024" in html and "no check found anything wrong" in html


def mulan_rows():
    rows = []
    for step in (10, 20):
        row = {
            **muq_row(step),
            "accuracy": 0.4,
            "accuracy_chance": 0.125,
            "temperature": 11.0,
            "loss": 2.0 / step,
        }
        rows.append({name: row[name] for name in row if name not in ("ce", "unigram_ce")})
        valid = {"split": "valid", "step": step, "loss": 1.5, "accuracy": 0.3, "accuracy_chance": 0.125}
        for way in ("text_to_music", "music_to_text"):
            for end, scale in (("", 3), ("_chance", 1)):
                shares = {f"{way}_recall_at_{k}{end}": 0.01 * k * scale for k in (1, 5, 10)}
                valid |= shares | {
                    f"{way}_map_at_10{end}": 0.05 * scale,
                    f"{way}_median_rank{end}": 51 - 9 * scale,
                }
        bins = [0.0] * 40
        histograms = {"similarity_own": [*bins[:30], 1.0, *bins[:9]], "similarity_other": [0.025] * 40}
        rows.append({**valid, **histograms, "num_ranked": 1234.0})
    return rows


def test_a_mulan_run_is_reported_beside_its_chance(tmp_path):
    write(tmp_path / "run", mulan_rows())
    page = report_training(tmp_path / "run").read_text()
    for said in (
        "Training MuQ-MuLan",
        "30.0%",
        "chance is 10.0%",
        "median rank",
        "0.53 on average with the own",
        "Over 1,234 validation clips",
    ):
        assert said in page


def test_a_mulan_run_without_validation_is_reported(tmp_path):
    write(tmp_path / "run", [row for row in mulan_rows() if row["split"] == "train"])
    assert "nearest in its training batch; chance is 12.5%" in report_training(tmp_path / "run").read_text()


def test_a_run_of_one_row_is_reported(tmp_path):
    write(tmp_path / "run", [muq_row(5)])
    assert report_training(tmp_path / "run").exists()


def test_numbers_are_those_before_a_skipped_window_at_the_end(tmp_path):
    muq = [muq_row(10), muq_row(20, ce=[2.0, 2.0]), muq_row(30, **SKIPPED)]
    skipped = {"loss": None, "error": [None, None], "codes_used": [0, 0], "codes_counted": 0.0}
    for name, rows in {"muq": muq, "rvq": [rvq_row(10), rvq_row(20) | skipped]}.items():
        write(tmp_path / name, rows)
        html = report_training(tmp_path / name).read_text()
        assert f"step {rows[-1]['step']}: " in html
    assert prediction_cards(muq)[0].value == "2.00"
    assert [card.value for card in rvq_cards([rvq_row(10), rvq_row(20) | skipped])] == [
        "1.00 to 0.50",
        "800 of 1,024",
    ]


def test_a_run_without_metrics_is_the_users_mistake(tmp_path):
    for rows in ([], [muq_row(10, **SKIPPED)]):
        write(tmp_path, rows)
        with pytest.raises(UserError, match="no training metrics yet"):
            report_training(tmp_path)


def test_cards_take_validation_where_there_is_one():
    rows = [muq_row(10, ce=[3.0, 3.0]), muq_row(10, "valid")]
    assert [card.value for card in prediction_cards(rows)] == ["5.00", "1 of 2"]
    assert "validation" in prediction_cards(rows)[0].meaning
    assert prediction_cards(rows[:1])[0].value == "3.00"
    assert f"{np.log(1024):.2f}" in prediction_cards(rows)[0].meaning
    short = rvq_row(3) | {"codes_used": [10, 9], "codes_counted": 100.0}
    assert [card.value for card in rvq_cards([rvq_row(1), rvq_row(2), short])] == [
        "1.00 to 0.50",
        "800 of 1,024",
    ]


def test_health_names_the_run():
    section = health_section({"Mel-RVQ": [rvq_row(1)], "MuQ": []})
    assert [note.text for note in section.blocks] == [
        "Mel-RVQ: no check found anything wrong in 1 steps.",
        "MuQ: no check found anything wrong in 0 steps.",
    ]


def test_facts_trace_the_numbers():
    facts = run_facts()
    assert set(facts) == {"date", "device", "versions"}
    assert "cpu" in facts["device"] and "numpy" in facts["versions"]
