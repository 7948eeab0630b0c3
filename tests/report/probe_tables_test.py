import csv
import io
import math
import re

import pytest

from muq_jax.report.probe_tables import AVERAGE, boards, csv_table, latex_table, metric_name, shown_metrics


def result(task="gtzan_genre", encoder="muq-large", test=None, **changes):
    test = test or {"accuracy": 0.8}
    return {
        **{"task": task, "title": task.replace("_", " "), "kind": "classification", "encoder": encoder},
        **{"model": f"models/{encoder}", "weights_sha256": encoder, "protocol": "v1", "mode": "frozen"},
        **{"shots": None, "layer": 6, "pool": "mean", "learning_rate": 1e-3, "window_seconds": 30.0},
        **{"num_train": 443, "num_val": 197, "num_test": 290, "left_out": {}, "problems": []},
        **{"published_counts": [443, 197, 290], "classes": ["a", "b"], "seeds": [0, 1, 2], "test": test},
        **{"spread": dict.fromkeys(test, 0.01), "test_per_seed": {m: [v] * 3 for m, v in test.items()}},
        **{"interval": {m: [v - 0.05, v + 0.05] for m, v in test.items()}, "validation": test},
        **{"validation_by_layer": {"0": 0.5, "6": 0.7, "all": 0.6}, "sweep": [], "confusion": None},
        **{"without_positives": {}, "split_sha256": "ab", "versions": {}, "date": "2026-11-23"},
        **{"command": "python -m muq_jax probe", "seconds": {}},
        **changes,
    }


TAGGING = {"roc_auc": 0.9, "average_precision": 0.4}


def published(board):
    return [row for row in board.rows if row.source]


def test_columns_stand_in_the_papers_order_whatever_comes_first():
    (board,) = boards(
        [result("magnatagatune", test=TAGGING), result(), result("mine", test={"accuracy": 0.5})]
    )
    assert board.places == (
        ("gtzan_genre", "accuracy"),
        ("magnatagatune", "roc_auc"),
        ("magnatagatune", "average_precision"),
        ("mine", "accuracy"),
        AVERAGE,
    )


def test_the_average_is_over_what_all_of_ours_have():
    results = [
        *(result(), result("magnatagatune", test=TAGGING)),
        *(result(encoder="other"), result("magnatagatune", "other", TAGGING)),
        result("nsynth_pitch", test={"accuracy": 0.1}),
    ]
    (board,) = boards(results)
    assert ("nsynth_pitch", "accuracy") in board.places and ("nsynth_pitch", "accuracy") not in board.averaged
    assert board.rows[0].scores[AVERAGE].value == pytest.approx((0.8 + 0.9 + 0.4) / 3)
    muq = next(row for row in board.rows if row.name == "MuQ_iter")
    assert muq.scores[AVERAGE].value == pytest.approx((0.856 + 0.914 + 0.401) / 3)
    assert next(row for row in boards([result()])[0].rows).scores.keys() == {("gtzan_genre", "accuracy")}


def test_the_best_of_ours_is_marked_and_ties_are_as_printed():
    results = [
        result(),
        result(encoder="b", test={"accuracy": 0.80004}),
        result(encoder="c", test={"accuracy": 0.7}),
    ]
    (board,) = boards(results)
    assert {r for r, _ in board.best} == {0, 1}
    assert boards([result()])[0].best == frozenset()


def test_protocols_have_a_table_each_and_their_own_published_rows():
    v1, v2, ridge = boards([result(), result(protocol="v2"), result(protocol="ridge")])
    assert [board.protocol for board in (v1, v2, ridge)] == ["v1", "v2", "ridge"]
    assert "MuQ_iter" in {row.name for row in v1.rows} and "MERT-v2-30s" in {row.name for row in v2.rows}
    assert not {row.name for row in published(v1)} & {"MERT-v2-30s", "A-JEPA"}
    assert published(ridge) == [] and "not MARBLE's" in ridge.notes[0]
    assert v1.sources == ["MuQ, arXiv 2501.01108", "MERT, arXiv 2306.00107"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"problems": ["Only 500 of 604 test items."]}, "Only 500 of 604"),
        ({"task": "my_ragas"}, "In no published table"),
        ({"shots": 5}, "few examples"),
        ({"mode": "finetune"}, "fine-tuned"),
    ],
)
def test_no_published_row_where_a_comparison_is_not_fair(changes, says):
    (board,) = boards([result(**changes)])
    assert published(board) == [] and any(says in note for note in board.notes)


def test_a_problem_of_one_task_leaves_the_others_published_scores():
    results = [result(problems=["half of it"]), result("magnatagatune", test=TAGGING)]
    (board,) = boards(results)
    assert published(board)
    for row in published(board):
        assert ("gtzan_genre", "accuracy") not in row.scores and AVERAGE not in row.scores


def test_rows_that_were_probed_otherwise_are_rows_of_their_own():
    results = [result(), result(mode="finetune"), result(shots=5), result(weights_sha256="other")]
    ours = [row.detail for row in boards(results)[0].rows if not row.source]
    assert (
        ours[1].startswith("fine-tuned") and ours[2].startswith("5 examples a class") and len(set(ours)) == 4
    )


def test_one_seed_has_no_spread_and_an_undefined_score_no_cell():
    (board,) = boards([result(seeds=[0]), result("mine", test={"r2": math.nan, "accuracy": 0.2})])
    assert board.rows[0].scores["gtzan_genre", "accuracy"].spread is None
    assert ("mine", "r2") not in board.places


def test_metrics_that_get_a_column():
    assert shown_metrics(result("emomusic", test={"r2": 0.6, "r2_valence": 0.5, "r2_arousal": 0.7})) == [
        *("r2_valence", "r2_arousal")
    ]
    key = {"weighted_key_score": 0.6, "accuracy": 0.5}
    assert shown_metrics(result("giantsteps_key", test=key)) == ["weighted_key_score"]
    assert shown_metrics(result("mine", test={"r2": 0.6, "mean_absolute_error": 3.0})) == ["r2"]
    assert shown_metrics(result("mine", test={"mean_absolute_error": 3.0})) == ["mean_absolute_error"]
    many = {"r2": 0.5, **{f"r2_{i}": 0.5 for i in range(9)}}
    assert shown_metrics(result("mine", test=many)) == ["r2"]
    assert metric_name("r2_spectral_tilt") == "R² spectral tilt"


def rows_of(latex):
    return [line for line in latex.splitlines() if line.endswith(r"\\")]


def test_latex_is_balanced_and_every_row_has_all_cells():
    name = "my_model & co 100% #1 {x} a^b~c\\d $"
    results = [
        *(result(encoder=name), result("magnatagatune", name, TAGGING)),
        *(result(encoder="b"), result("magnatagatune", "b", TAGGING)),
    ]
    latex = latex_table(results)
    assert re.search(r"(?<!\\)[#~^]", latex) is None
    bare = re.sub(r"\\[\\&%$#_{}]", "", latex)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and "_" not in bare
    assert [line for line in bare.splitlines() if "%" in line] == [bare.splitlines()[0]]
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    for rule in (r"\toprule", r"\bottomrule"):
        assert latex.count(rule) == 1
    columns = len(re.search(r"\\begin\{tabular\}\{(l\w+)\}", latex)[1])
    for row in rows_of(latex):
        cells = re.split(r"(?<!\\)&", row)
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", row)]
        assert len(cells) - len(spans) + sum(spans) == columns
    assert r"\textbf{80.0} {\scriptsize $\pm$ 1.0}" in latex
    assert r"MuQ\_iter\textsuperscript{1}" in latex and "CLMR (unverified)\\textsuperscript{2}" in latex


def test_latex_without_published_rows():
    latex = latex_table([result(), result(protocol="v2")], published=False)
    assert "arXiv" not in latex and latex.count(r"\begin{tabular}") == 2


def test_csv_has_every_metric_and_says_whose_it_is():
    results = [result('a, "b"', test={"accuracy": 0.8, "r2": 0.5}, layer="all"), result()]
    rows = list(csv.DictReader(io.StringIO(csv_table(results))))
    ours = [row for row in rows if row["source"] == "this run"]
    assert [(row["task"], row["metric"]) for row in ours] == [
        *(('a, "b"', "accuracy"), ('a, "b"', "r2"), ("gtzan_genre", "accuracy"))
    ]
    first = ours[0]
    assert (first["layer"], first["seeds"], first["num_test"], first["shots"]) == ("all", "3", "290", "")
    assert float(first["mean"]) == 0.8 and float(first["low"]) == pytest.approx(0.75)
    theirs = [row for row in rows if row["source"] != "this run"]
    assert all("arXiv" in row["source"] and 0 < float(row["mean"]) < 1 for row in theirs)
    assert {row["task"] for row in theirs} == {"gtzan_genre"}
    assert sum("unverified" in row["source"] for row in theirs) == 10
