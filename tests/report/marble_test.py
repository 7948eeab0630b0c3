import re
import struct
from html.parser import HTMLParser

import numpy as np
import pytest

from muq_jax.report.marble import report_probes, score_table
from muq_jax.report.marble_plots import (
    confusions,
    layer_curves,
    radar,
    score_intervals,
    shortened,
    sweeps,
)
from muq_jax.report.probe_tables import boards

RATES = (1e-4, 1e-3)


def result(task, encoder="muq-large", kind="classification", test=None, layers=3, classes=4, **changes):
    test = test or {"accuracy": 0.8}
    names = [str(layer) for layer in range(layers)] + (["all"] if layers > 1 else [])
    by_layer = {name: 0.5 + 0.01 * i for i, name in enumerate(names)}
    confusion = (
        (5 * np.eye(classes, dtype=int) + 1).tolist() if kind in ("classification", "frames") else None
    )
    number = {name: name if name == "all" else int(name) for name in names}
    sweep = [
        {"layer": number[name], "learning_rate": rate, "validation": value if rate > 1e-4 else None}
        for name, value in by_layer.items()
        for rate in RATES
    ]
    return {
        **{"task": task, "title": task.replace("_", " ").title(), "kind": kind, "encoder": encoder},
        **{"model": f"models/{encoder}", "weights_sha256": encoder, "protocol": "v1", "mode": "frozen"},
        **{"shots": None, "layer": 0, "pool": "mean", "learning_rate": 1e-3, "window_seconds": None},
        **{"num_train": 443, "num_val": 197, "num_test": 290, "left_out": {"no label": 3}, "problems": []},
        **{"published_counts": None, "classes": [f"class {i}" for i in range(classes)], "seeds": [0, 1]},
        **{"test": test, "spread": dict.fromkeys(test, 0.01), "validation": test, "baseline": {}},
        **{"test_per_seed": {metric: [value, value] for metric, value in test.items()}},
        **{"interval": {metric: [value - 0.05, value + 0.05] for metric, value in test.items()}},
        **{"validation_by_layer": by_layer, "sweep": sweep, "confusion": confusion},
        **{"without_positives": {}, "split_sha256": "ab", "versions": {"jax": "0.7"}, "date": "2026-11-23"},
        **{"command": "python -m muq_jax probe <x>", "seconds": {"features": 12.3}},
        **changes,
    }


def all_kinds(encoder, layers=3):
    return [
        result("gtzan_genre", encoder, layers=layers),
        result(
            *("magnatagatune", encoder, "multilabel", {"roc_auc": 0.9, "average_precision": 0.4}, layers),
            without_positives={"roc_auc": ["class 3"]},
        ),
        result(
            "emomusic", encoder, "regression", {"r2": -0.1, "r2_valence": -0.3, "r2_arousal": 0.1}, layers
        ),
        result("harmonix_structure", encoder, "frames", {"frame_accuracy": 0.7}, layers),
        result("gtzan_beat", encoder, "beats", {"beat_f": 0.8, "downbeat_f": 0.6}, layers, interval={}),
    ]


class Tree(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(path, results, **facts):
    report_probes(path / "index.html", results, title="Probes & more", facts=facts)
    html = (path / "index.html").read_text(encoding="utf-8")
    return html, Tree(html)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    results = [*all_kinds("muq-large"), *all_kinds("a_very_long_name_" * 6), *all_kinds("log-mel", layers=1)]
    return page_of(tmp_path_factory.mktemp("page"), results, device="cpu")


def test_the_page_needs_nothing_beside_itself(page):
    html, tree = page
    sources = [attrs[name] for _, attrs in tree.tags for name in ("src", "href") if name in attrs]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", html) and "script" not in {tag for tag, _ in tree.tags}


def test_the_page_says_what_a_reader_must_know(page):
    text = " ".join(page[1].text.split())
    for wanted in (
        *(
            "What 3 encoders know of music, on 5 tasks",
            "MARBLE v1",
            "frozen",
            "standard deviation over 2 trainings",
            "Bold is the best",
        ),
        *("arXiv 2501.01108", "unverified", "3 (no label)", "without positives in the test split: class 3"),
        *("split sha256", "python -m muq_jax probe <x>", "device", r"\begin{tabular}", "task,metric,encoder"),
        "whole clips",
    ):
        assert wanted in text


def test_the_table_marks_ours_and_theirs(page):
    tree = page[1]
    assert sum(attrs.get("class", "").startswith("quoted") for _, attrs in tree.tags) == 15
    assert sum("first-quoted" in attrs.get("class", "") for _, attrs in tree.tags) == 1
    (board,) = boards([*all_kinds("a"), *all_kinds("b")])
    table = score_table(board)
    assert {len(row) for row in table.rows} == {len(table.header)} and table.header[-1] == "Average"
    assert table.rows[0][1] == "80.0\n± 1.0" and table.rows[0][2] == "-30.0\n± 1.0"
    names = [row[0] for row in table.rows]
    assert "MuQ_iter\npublished [1]" in names and "CLMR\npublished, unverified [2]" in names


def test_a_single_task_and_encoder_make_a_page_with_an_interval(tmp_path):
    _, tree = page_of(tmp_path, [result("gtzan_genre")])
    assert "75.0 to 85.0" in tree.text and "How sure the scores are" in tree.text
    assert "Strengths" not in tree.text and "the intervals below" in tree.text


def test_a_page_without_published_scores_says_why(tmp_path):
    results = [
        result("gtzan_genre", problems=["Only 12 of 290 test items"]),
        result("my_ragas"),
        result("gtzan_genre", encoder="b", split_sha256="other"),
    ]
    _, tree = page_of(tmp_path, results)
    assert (
        "Only 12 of 290 test items." in tree.text
        and "In no published table, and so without a published score: My Ragas" in tree.text
    )
    assert "probed on different splits" in tree.text and "arXiv" not in tree.text


def test_protocols_have_sections_of_their_own(tmp_path):
    results = [result("gtzan_genre"), result("gtzan_genre", protocol="v2", sweep=[], mode="finetune")]
    html, tree = page_of(tmp_path, results)
    headings = re.findall("<h2>(.*?)</h2>", html)
    assert "MARBLE v1: scores" in headings and "MARBLE v2: scores" in headings
    assert "fine-tuned" in tree.text


def test_a_later_result_takes_the_place_of_an_earlier_one(tmp_path):
    results = [result("gtzan_genre"), result("gtzan_genre", test={"accuracy": 0.123})]
    _, tree = page_of(tmp_path, results)
    assert "12.3" in tree.text and "80.0" not in tree.text


def test_no_results_are_no_page(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        page_of(tmp_path, [])


def size(picture):
    assert picture.png.startswith(b"\x89PNG") and picture.alt
    return struct.unpack(">II", picture.png[16:24])


@pytest.mark.parametrize("classes", [2, 12, 24, 128])
def test_matrices_of_any_size(classes):
    (picture,) = confusions([result("nsynth_pitch", classes=classes)])
    assert min(size(picture)) > 500


def test_small_matrices_come_in_pairs_and_the_best_encoder_counts():
    results = [result(f"task_{i}", classes=3 if i < 3 else 64) for i in range(4)]
    assert len(confusions(results)) == 3
    empty_rows = result("gtzan_genre", confusion=[[3, 1], [0, 0]], classes=2)
    assert len(confusions([empty_rows])) == 1
    assert confusions([result("beats", kind="beats", test={"beat_f": 0.5})]) == []


def test_radar_of_one_and_of_many_encoders():
    for num in (1, 2, 8):
        (board,) = boards([r for i in range(num) for r in all_kinds(f"encoder {i}")])
        picture = radar(board)
        size(picture)
        assert ("stretched" in picture.caption) == (num > 1) and ("first 6" in picture.caption) == (num > 6)


@pytest.mark.parametrize("bars", [True, False])
def test_scores_with_and_without_intervals(bars):
    results = all_kinds("muq-large")
    (board,) = boards(results)
    size(score_intervals(board, results, bars=bars))
    errors = [result("mine", kind="regression", test={"mean_absolute_error": 3.0})]
    assert score_intervals(boards(errors)[0], errors, bars=bars) is None


def test_layers_and_sweeps_are_shown_where_there_are_several():
    many = [*all_kinds("muq-large"), *all_kinds("log-mel", layers=1)]
    size(layer_curves(many))
    size(sweeps(many, "muq-large"))
    assert layer_curves(all_kinds("log-mel", layers=1)) is None
    assert sweeps(many, "log-mel") is None


def test_names_are_shortened_in_the_middle():
    name = "a" * 40 + "b" * 40
    assert shortened("short") == "short"
    assert len(shortened(name)) <= 28 and shortened(name).startswith("aa") and shortened(name).endswith("bb")
