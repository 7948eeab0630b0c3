import re
import struct
from html.parser import HTMLParser

import pytest

from muq_jax.report.page import Card, Folded, Note, Section, Table, facts_table, write_page
from muq_jax.report.style import canvas

VOID = {"meta", "img", "br"}


class Tree(HTMLParser):
    """Collects tags with their attributes and the text, and holds that every tag is closed."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def picture():
    with canvas(width=3.8, height=2.0) as c:
        c.axes.plot([0, 1], [1, 0])
        return c.picture('a falling line, "<b>" & more', "A caption.")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "report" / "index.html"
    blocks = [
        "A paragraph with 3 < 4 & more.",
        picture(),
        Note("all well"),
        Note("do this", warns=True),
        Table(("task", "score"), [("key", "0.5\n0.4 to 0.6")]),
        facts_table({"device": "cpu", "steps": 3}),
        Folded("config.json", '{"a": "<script>"}'),
    ]
    write_page(
        path,
        title="A page & more",
        lead="What it is.",
        cards=[Card("4.2", "a number")],
        sections=[Section("One", blocks)],
    )
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_says_everything(html):
    tree = Tree(html)
    text = " ".join(" ".join(tree.text).split())
    for wanted in (
        "A page & more",
        "What it is.",
        "4.2",
        "3 < 4 & more",
        "all well",
        "do this",
        "0.4 to 0.6",
        "cpu",
    ):
        assert wanted in text
    assert '{"a": "<script>"}' in text
    assert "script" not in {tag for tag, _ in tree.tags}


def test_the_page_needs_nothing_beside_itself(html):
    tree = Tree(html)
    sources = [attrs[name] for _, attrs in tree.tags for name in ("src", "href") if name in attrs]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", html)


def test_pictures_have_alt_texts(html):
    images = [attrs for tag, attrs in Tree(html).tags if tag == "img"]
    assert images[0]["alt"] == 'a falling line, "<b>" & more'
    assert images[0]["style"] == "width: 50%"


def test_a_picture_is_a_png_of_the_size_asked_for():
    png = picture().png
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert width / height == pytest.approx(1.9, abs=0.02)


def test_a_page_replaces_the_one_before(tmp_path):
    for title in ("first", "second"):
        write_page(tmp_path / "index.html", title=title, lead="", cards=[], sections=[])
    assert "<h1>second</h1>" in (tmp_path / "index.html").read_text()
    assert len(list(tmp_path.iterdir())) == 1
