"""The page of a zero-shot evaluation of planted vectors: numbers, pictures, and what a reader must know."""

import dataclasses
import json
import re
from html import unescape

import numpy as np
import pytest
from sklearn.decomposition import PCA

from muq_jax.probe import zero_shot as module
from muq_jax.probe.datasets.captions import read_captions
from muq_jax.probe.prompts import Prompts
from muq_jax.probe.task import Dataset, Item, Task
from muq_jax.probe.tasks import find_task
from muq_jax.probe.zero_shot import View, select, texts_of, zero_shot
from muq_jax.report.zero_shot import report_zero_shot, score_lines, score_table, spread
from muq_jax.report.zero_shot_plots import examples, principal_axes, similarity_matrix, track_map
from tests.probe.planted_words import encoder_of, hear
from tests.report.marble_test import Tree

SIZE = 12
LABELS = ("guitar", "flute", "<b>no vocals</b>", "choral")


def words_of(labels):
    return dict(zip(labels, np.eye(SIZE), strict=False))


@pytest.fixture(scope="module", params=["tags", "genres", "captions"])
def evaluated(request, tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUM_TEST_CLEANED", 44)
        if request.param == "captions":
            rows = [
                {"path": f"{n}.wav", "caption": f"piece {n // 2} " * 20, "tags": [LABELS[n % 4]]}
                for n in range(130)
            ]
            (folder / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
            task, dataset = None, read_captions(folder / "clips.jsonl")
            prompts, words = texts_of(dataset), {}
        else:
            task = find_task("magnatagatune")
            if request.param == "genres":
                metrics = ("accuracy", "balanced_accuracy")
                task = Task("genre", "genre", "classification", metrics, lambda data: None)
            labels = [
                LABELS[n % 3] if request.param == "genres" else (LABELS[n % 3],) * (n > 5) for n in range(50)
            ]
            items = [Item(f"f/{n}", "test", label, folder / f"{n}.mp3") for n, label in enumerate(labels)]
            task = dataclasses.replace(task, counts=(1, 1, 50))
            dataset = select(task, Dataset(items, LABELS, {"audio missing": 2}), "test")
            prompts, words = Prompts({label: [label, label] for label in LABELS}, "ours"), words_of(LABELS)
        vectors = {
            item.id: rng.standard_normal(SIZE) + 3 * np.eye(SIZE)[n % 3]
            for n, item in enumerate(dataset.items)
        }
        patch.setattr(module, "hear_tracks", hear(vectors, {"lost": "lost.mp3: no such file"}))
        return zero_shot(task, dataset, encoder_of(words, SIZE), prompts, folder)


@pytest.fixture(scope="module")
def page(evaluated, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    report_zero_shot(path, evaluated.content, evaluated.view, facts={"command": "probe <it>"})
    html = path.read_text(encoding="utf-8")
    return html, Tree(html)


def test_the_page_needs_nothing_beside_itself(page):
    html, tree = page
    sources = [attrs[name] for _, attrs in tree.tags for name in ("src", "href") if name in attrs]
    assert len(sources) >= 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", html) and "script" not in {tag for tag, _ in tree.tags}


def test_the_page_says_what_a_reader_must_know(page, evaluated):
    content = evaluated.content
    text = unescape(" ".join(re.sub(r"<[^>]+>", " ", page[0]).split()))
    wanted = [
        "Calibrated",
        "chance",
        "none of them picked",
        "command probe <it>",
        "weights sha256 " + "w" * 64,
    ]
    wanted += [content["prompts_sha256"], content["split_sha256"], " tracks 1 could not be heard", "lost.mp3"]
    for part in content["parts"]:
        wanted += [part["name"].capitalize(), part["description"]]
        wanted += [f"{100 * value:.1f}" for name, value in part["chance"].items() if name != "median_rank"]
    if content["kind"] == "multilabel":
        wanted += [
            "published: MuQ-MuLan 79.3 29.3",
            "published: MuLan 78.2 \N{EN DASH}",
            "MuQ (arXiv 2501.01108) table 5",
        ]
        wanted += [
            "prompts behind them are not published",
            "Not scored, for want of tracks with and without: choral.",
        ]
        wanted += ["arXiv 2208.12415", "guitar: guitar | guitar"]
    if content["kind"] == "classification":
        wanted += ["most frequent label", "What is mistaken for what", "95 % interval"]
    for word in wanted:
        assert word in text, word


def test_published_scores_stand_beside_their_own_split_alone(evaluated):
    tables = [score_table(evaluated.content, part) for part in evaluated.content["parts"]]
    quoted = [[table.rows[r][0] for r in table.quoted] for table in tables]
    if evaluated.content["kind"] == "multilabel":
        assert quoted[0] == [] and len(quoted[1]) == 6
    else:
        assert not any(quoted)
    lines = score_lines(evaluated.content)
    assert sum("published: " in line for line in lines) == sum(map(len, quoted))
    first = evaluated.content["parts"][0]
    below = next(n for n, line in enumerate(lines) if line.startswith("  raw"))
    heads, row = lines[below - 1], lines[below]
    assert len(re.split(r"\s{2,}", heads.strip())) == len(first["chance"]) and len(heads) == len(row)
    (raw,) = [cells for cells in tables[0].rows if cells[0] == "raw"]
    metric = next(iter(first["chance"]))
    assert raw[1].split("\n")[0] == f"{100 * first['scores']['raw'][metric]:.1f}"
    assert raw[1].split("\n")[0] in row


def test_right_answers_are_bold_and_come_first(evaluated, page):
    view = evaluated.view
    best = view.similarities[:, 0].argmax()
    html = page[0]
    if evaluated.content["kind"] != "retrieval":
        assert view.right[best, 0] and f"<b>{view.names[best]}</b>" in html
        assert "&lt;b&gt;no vocals" in html and "<b>no vocals</b>" not in html
    assert f"{view.similarities[best, 0]:.3f}" in html


def test_the_two_axes_are_the_principal_ones():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((60, SIZE)) * np.linspace(3, 0.1, SIZE) + 1
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pca = PCA(2).fit(unit)
    places, shares = principal_axes(5 * vectors)
    np.testing.assert_allclose(np.abs(places), np.abs(pca.transform(unit)), atol=1e-9)
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_, rtol=1e-9)


def view_of(num_tracks, num_texts, right=None):
    rng = np.random.default_rng(2)
    if right is None:
        right = np.arange(num_tracks)[:, None] % num_texts == np.arange(num_texts)
    similarities = rng.standard_normal((num_tracks, num_texts)).astype(np.float32)
    names, texts = [f"t{n}" for n in range(num_tracks)], [f"text {n}" for n in range(num_texts)]
    said = [", ".join(texts[m] for m in np.flatnonzero(row)) for row in right]
    return View(names, said, [()] * num_tracks, texts, right, similarities, 1.0 * similarities,
                rng.standard_normal((num_tracks, SIZE)))  # fmt: skip


@pytest.mark.parametrize(
    ("num_tracks", "num_texts", "shape"),
    [(300, 90, (40, 40)), (300, 10, (40, 10)), (7, 3, (7, 3)), (300, 30, (30, 30)), (2, 2, (2, 2))],
)
def test_examples_of_a_matrix(num_tracks, num_texts, shape):
    view = view_of(num_tracks, num_texts)
    tracks, texts = examples(view)
    assert (len(tracks), len(texts)) == shape and len(set(tracks)) == len(tracks)
    # What is right lies on the diagonal.
    columns = view.right[np.ix_(tracks, texts)].argmax(axis=1)
    assert (np.diff(columns) >= 0).all() and set(columns) == set(range(len(texts)))


@pytest.mark.parametrize("text", ["costs $5 to $7, $ and $\\frac$", "缓慢的钢琴曲 🎹", "100 % _a_ & <b>"])
def test_any_text_is_drawn_as_it_is_written(text, recwarn):
    view = view_of(5, 4)
    view = dataclasses.replace(view, texts=[f"{text} {n}" for n in range(4)])
    view = dataclasses.replace(view, groups=[(text,)] * 5, names=[f"{text} {n}" for n in range(5)])
    for picture in (similarity_matrix(view), track_map(view, 1)):
        assert picture.png.startswith(b"\x89PNG")
    assert not [w for w in recwarn if "missing from font" in str(w.message)]


def test_letters_that_no_font_has_are_told_once_below_the_plot():
    private = "\U0010fffd"  # a code point for private use
    view = dataclasses.replace(view_of(5, 4), texts=[f"text {private} {n}" for n in range(4)])
    assert similarity_matrix(view).caption.count("Boxes are letters that no font") == 1
    assert "Boxes" not in similarity_matrix(view_of(5, 4)).caption


def test_texts_without_tracks_are_not_examples():
    right = np.zeros((5, 4), bool)
    right[:, 2] = True
    view = view_of(5, 4, right)
    tracks, texts = examples(view)
    assert texts.tolist() == [2] and tracks.tolist() == [0, 1, 2, 3, 4]
    for picture in (similarity_matrix(view), track_map(view, 2)):
        assert picture.png.startswith(b"\x89PNG") and picture.alt


def test_colours_are_those_of_the_rarest_frequent_label():
    view = dataclasses.replace(view_of(6, 2), groups=[("a",), ("a", "b"), ("a", "b"), ("a",), ("a",), ()])
    assert "of a track's the rarest counts" not in track_map(view, 0).caption
    many = dataclasses.replace(view_of(40, 2), groups=[(f"g{n}", "all") for n in range(40)])
    assert "Of 41 labels" in track_map(many, 0).caption


def test_a_sample_is_evenly_spaced():
    assert spread(np.arange(100), 5).tolist() == [0, 25, 50, 74, 99]
    assert spread(np.arange(3), 5).tolist() == [0, 1, 2]
