import logging

import pytest

from muq_jax import MuQ
from muq_jax.convert import licence
from muq_jax.convert.licence import Licence, licence_of, shown


@pytest.mark.parametrize(
    "card, name",
    [
        ("---\ntags: [music]\nlicense: cc-by-nc-4.0\n---\n# MuQ\n", "cc-by-nc-4.0"),
        ('---\r\nlicense: "mit"  # of the code\r\n---\r\n', "mit"),
        ("# MuQ\n\nlicense: in prose\n", None),
        ("---\nlicense: other\nlicense_name: polyform-nc\n---\n", "polyform-nc"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense:\ntags: [music]\n---\n", None),
        ("---\nlicense:\n- mit\n---\n", None),
        ("---\ntags: [music]\n---\nlicense: below\n---\n", None),
        ("", None),
    ],
)
def test_the_card_names_it(tmp_path, card, name):
    (tmp_path / "README.md").write_bytes(card.encode())
    (tmp_path / "model.pt").touch()
    assert licence_of(tmp_path) == licence_of(tmp_path / "model.pt") == Licence(name)


def test_a_title_is_the_name_or_the_text_s_first_line(tmp_path):
    assert licence_of(tmp_path).title is None
    (tmp_path / "LICENSE.txt").write_bytes(b"\n  CC BY-NC 4.0 \nmore \xff")
    assert licence_of(tmp_path).title == "CC BY-NC 4.0"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert licence_of(tmp_path).title == "cc-by-nc-4.0"


def test_it_is_shown_once(muq_folder, tmp_path, caplog):
    MuQ.from_pretrained(muq_folder).save_pretrained(tmp_path / "a")
    card = tmp_path / "a" / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: cc-by-nc-4.0\n", 1))
    licence._show.cache_clear()
    with caplog.at_level(logging.WARNING, logger="muq_jax"):
        for _ in range(2):
            MuQ.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert caplog.messages == [f"weights in {tmp_path / 'a'}: licence cc-by-nc-4.0"]
    assert "license: cc-by-nc-4.0\n" in (tmp_path / "b" / "README.md").read_text()


def test_nothing_is_shown_where_nothing_says(tmp_path, caplog):
    assert shown(tmp_path) == Licence()
    assert not caplog.messages
