"""Texts to train on are drawn as said, from the generator alone, in sentences that can be read."""

import re
from collections import Counter

import numpy as np
import pytest

from muq_jax.errors import UserError
from muq_jax.text.sentence_templates import CHINESE, ENGLISH
from muq_jax.text.sentences import Sentences, Text

TAGS = (
    ("genre", "deep_house"),
    ("Genres", "rock"),
    ("instrument", "piano"),
    ("mood/theme", "calm"),
    ("", "80s"),
)
NAMES = {"deep house", "rock", "piano", "calm", "80s"}
HAN = re.compile(r"[\u4e00-\u9fff]")


def draws(sentences, text, count=400, seed=0):
    rng = np.random.default_rng(seed)
    return [sentences.draw(rng, text) for _ in range(count)]


def is_plain(text):
    return set(text.split(", ")) <= NAMES


@pytest.mark.parametrize("templates", [ENGLISH, CHINESE])
def test_there_are_forty_templates_of_the_four_places(templates):
    assert len(set(templates)) == len(templates) == 40
    for template in templates:
        slots = re.findall(r"\{(.*?)\}", template)
        assert slots and len(set(slots)) == len(slots), template
        assert set(slots) <= {"tags", "genre", "instrument", "mood"}, template
        # Neither an article nor a plural hangs on what is filled in.
        assert not re.search(r"\ban? \{|\}s", template), template
    assert all(bool(HAN.search(template)) == (templates is CHINESE) for template in templates)


@pytest.mark.parametrize(("chinese_rate", "templates"), [(0.0, ENGLISH), (1.0, CHINESE)])
def test_every_template_is_drawn_and_filled(chinese_rate, templates):
    text = Text(None, (("genre", "rock"), ("instrument", "piano"), ("mood", "calm")))
    found = set(draws(Sentences(plain_rate=0, chinese_rate=chinese_rate), text, 2000))
    for template in templates:
        name = re.sub(r"\\\{\w+\\\}", "(.+)", re.escape(template))
        assert any(re.fullmatch(name, sentence) for sentence in found), template
    assert not any(set("{}") & set(sentence) for sentence in found)


@pytest.mark.parametrize("chinese_rate", [0.0, 1.0])
def test_a_template_is_taken_only_where_it_can_be_filled(chinese_rate):
    templates = CHINESE if chinese_rate else ENGLISH
    sentences = Sentences(plain_rate=0, chinese_rate=chinese_rate)
    for tags, slots in [
        ((("", "rock"),), {"tags"}),
        ((("mood", "calm"),), {"tags", "mood"}),
        ((("genre", "rock"), ("instrument", "piano")), {"tags", "genre", "instrument"}),
    ]:
        fitting = [t for t in templates if set(re.findall(r"\{(.*?)\}", t)) <= slots]
        assert 0 < len(fitting) < 40
        # Of a single tag each sentence tells its template.
        found = set(draws(sentences, Text(None, tags), 1500))
        if len(tags) == 1:
            name = tags[0][1]
            assert found == {re.sub(r"\{\w+\}", name, template) for template in fitting}
        assert all("rock" in s or "piano" in s or "calm" in s for s in found)


def test_lists_inside_sentences_read_as_their_language_has_them():
    tags = Text(None, (("genre", "rock"), ("genre", "pop"), ("genre", "deep_house")))
    english = " ".join(draws(Sentences(plain_rate=0), tags))
    assert re.search(r"(rock|pop|deep house), (rock|pop|deep house) and (rock|pop|deep house)", english)
    assert "_" not in english and "、" not in english
    two = " ".join(draws(Sentences(plain_rate=0), Text(None, tags.tags[:2])))
    assert "rock and pop" in two and ", and" not in two.replace(", and the mood", "")
    chinese = "".join(draws(Sentences(plain_rate=0, chinese_rate=1), tags))
    assert "rock、pop、deep house" in chinese and " and " not in chinese


def test_shares_are_as_asked_for():
    found = draws(Sentences(plain_rate=0.3, chinese_rate=0.25), Text(None, TAGS), 4000)
    plain = [text for text in found if is_plain(text)]
    sentences = [text for text in found if not is_plain(text)]
    assert abs(len(plain) / 4000 - 0.3) < 0.03
    assert abs(sum(bool(HAN.search(text)) for text in sentences) / len(sentences) - 0.25) < 0.04
    assert all(is_plain(text) for text in draws(Sentences(plain_rate=1), Text(None, TAGS)))


def test_every_order_is_drawn_and_dropout_leaves_each_tag_out_as_often_but_never_all():
    orders = Counter(draws(Sentences(plain_rate=1), Text(None, TAGS[:3]), 1200))
    assert len(orders) == 6 and min(orders.values()) > 140
    kept = [
        text.split(", ") for text in draws(Sentences(plain_rate=1, tag_dropout=0.4), Text(None, TAGS), 3000)
    ]
    # One of five stays where all would be left out, 0.4 ** 5 of the time.
    times = Counter(name for names in kept for name in names)
    assert set(times) == NAMES
    for count in times.values():
        assert count / 3000 == pytest.approx(0.6 + 0.4**5 / 5, abs=0.03)
    alone = draws(Sentences(plain_rate=1, tag_dropout=1), Text(None, TAGS), 1000)
    assert set(alone) == NAMES and min(Counter(alone).values()) > 140


def test_captions_come_as_they_are_and_give_way_to_tags_when_asked():
    both = Text("A Caption, with {braces}\nand_lines", TAGS)
    assert set(draws(Sentences(), both, 20)) == {both.caption}
    found = draws(Sentences(plain_rate=1, caption_dropout=0.3), both, 2000)
    assert np.mean([text == both.caption for text in found]) == pytest.approx(0.7, abs=0.03)
    assert all(text == both.caption or is_plain(text) for text in found)
    alone = Text("a caption alone", ())
    assert draws(Sentences(caption_dropout=1), alone, 5) == ["a caption alone"] * 5


def test_chance_is_the_generator_alone():
    mixed = Sentences(chinese_rate=0.5, tag_dropout=0.5, caption_dropout=0.5)
    text = Text("both", TAGS)
    assert draws(mixed, text, seed=7) == draws(mixed, text, seed=7) != draws(mixed, text, seed=8)


def test_evaluation_reads_without_chance():
    mixed = Sentences(chinese_rate=0.5, tag_dropout=1, caption_dropout=1)
    assert mixed.read(Text("a caption", TAGS)) == "a caption"
    assert mixed.read(Text(None, TAGS)) == "deep house, rock, piano, calm, 80s"
    twice = (("genre", "piano"), ("instrument", "piano"), ("", "x"))
    assert mixed.read(Text(None, twice)) == "piano, x"


def test_braces_in_tags_are_no_places():
    [sentence] = draws(Sentences(plain_rate=0), Text(None, (("", "{genre} {0}"),)), 1)
    assert "{genre} {0}" in sentence


def test_material_for_a_vocabulary_has_captions_tags_and_sentences():
    texts = [Text("First caption", TAGS[:1]), Text(None, TAGS), Text("second", ())]
    found = list(Sentences(plain_rate=0).material(texts))
    assert found == list(Sentences(plain_rate=0).material(texts))
    assert len(found) == 6
    assert [found[0], found[1], found[3], found[5]] == [
        "First caption",
        "deep house",
        "deep house, rock, piano, calm, 80s",
        "second",
    ]
    assert "deep house" in found[2] and not is_plain(found[2])


@pytest.mark.parametrize("name", ["plain_rate", "chinese_rate", "tag_dropout", "caption_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "half", None])
def test_a_share_out_of_range_is_named(name, value):
    with pytest.raises(UserError, match=rf"data\.text\.{name}=.*expected a share, from 0 to 1"):
        Sentences(**{name: value})
