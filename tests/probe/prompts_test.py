"""Labels as texts: ours, a user's own, and a wheel that holds them."""

import json
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import muq_jax
from muq_jax.errors import UserError
from muq_jax.probe.datasets.gtzan import GENRES
from muq_jax.probe.datasets.magnatagatune import TAGS
from muq_jax.probe.prompts import read_prompts

ROOT = Path(muq_jax.__file__).parents[1]


@pytest.fixture
def own(tmp_path):
    def write(content):
        path = tmp_path / "own.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def test_ours_cover_every_label_and_a_task_of_one_s_own():
    tags = read_prompts("magnatagatune", TAGS)
    assert list(tags.texts) == list(TAGS)
    assert tags.texts["no vocals"] == ["no vocals", "a piece of music: no vocals"]
    genres = read_prompts("gtzan_genre", GENRES).texts
    assert genres["hiphop"] == ["hip hop", "a piece of hip hop music"] and genres["blues"][0] == "blues"
    moods = read_prompts("mood", ["very_calm", "mood/theme---sad"]).texts
    assert [texts[0] for texts in moods.values()] == ["very calm", "sad"]


def test_labels_that_are_written_as_one_word_are_read_as_they_are_said():
    labels = ["genre---drumnbass", "instrument---doublebass", "newage"]
    found = read_prompts("mtg_jamendo_genre", labels).texts
    assert [texts[0] for texts in found.values()] == ["drum and bass", "double bass", "new age"]


def test_a_file_may_name_labels_without_their_category(tmp_path):
    path = tmp_path / "own.json"
    entry = {"templates": ["{}"], "labels": {"hiphop": ["hip hop"]}}
    path.write_text(json.dumps({"mtg_jamendo_genre": entry}))
    found = read_prompts("mtg_jamendo_genre", ["genre---hiphop", "genre---rock"], path).texts
    assert found == {"genre---hiphop": ["hip hop"], "genre---rock": ["rock"]}


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["a", " "], "label ' ': it says nothing"),
        (["a", "genre---"], "label 'genre---': it says nothing"),
        (["new_age", "new age"], "label 'new age': it is read as 'new_age' is; give one of them another"),
        (["a", "b\ud800"], r"label 'b\\ud800': the text .* has the half character"),
    ],
)
def test_labels_that_no_text_can_stand_for(labels, says):
    with pytest.raises(UserError, match=says):
        read_prompts("mood", labels)


def test_a_file_of_one_s_own(own):
    entry = {"templates": ["{}", "{} on the radio"], "labels": {"b": ["bee", "Biene"]}}
    found = read_prompts("mood", ["a_b", "b"], own({"mood": entry}))
    assert found.texts == {
        "a_b": ["a b", "a b on the radio"],
        "b": ["bee", "bee on the radio", "Biene", "Biene on the radio"],
    }
    assert found.source.endswith("own.json")
    # The entry for all tasks may name labels that this one has not.
    assert read_prompts("key", ["c"], own({"default": entry})).texts == {"c": ["c", "c on the radio"]}


def test_the_digest_hangs_on_texts_and_their_order_alone(own):
    def digest(labels, templates):
        return read_prompts("t", labels, own({"t": {"templates": templates}})).sha256

    first = digest(["a", "b"], ["{}"])
    assert (
        first == read_prompts("t", ["a", "b"], own({"default": {"templates": ["{}"], "labels": {}}})).sha256
    )
    others = {digest(["b", "a"], ["{}"]), digest(["a", "b"], ["{}."]), digest(["a", "b", "c"], ["{}"])}
    assert len(others | {first}) == 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON in UTF-8"),
        ("[]", "expected an object of objects"),
        ({"t": ["a"]}, "expected an object of objects"),
        ({"other": {"templates": ["{}"]}}, "has prompts for other; expected t or default"),
        ({"t": {}}, "has nothing; expected templates"),
        ({"t": {"templates": ["{}"], "prompts": {}}}, "has templates, prompts; expected templates"),
        ({"t": {"templates": []}}, "templates: found []; expected a list of at least one text"),
        ({"t": {"templates": ["a"]}}, "the template 'a' has no {}"),
        ({"t": {"templates": ["{}"], "labels": []}}, "labels: a JSON list; expected an object"),
        ({"t": {"templates": ["{}"], "labels": {"a": "text"}}}, "label 'a': found 'text'; expected a list"),
        ({"t": {"templates": ["{}"], "labels": {"x": ["y"]}}}, "'x' is no label; expected some of a, b"),
    ],
)
def test_files_that_are_not_as_described(content, says, own):
    with pytest.raises(UserError) as error:
        read_prompts("t", ["a", "b"], own(content))
    assert says in str(error.value) and "own.json" in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: no such file of prompts"):
        read_prompts("t", ["a"], tmp_path / "nowhere.json")


def test_wheels_hold_every_file_of_the_package_that_is_no_code():
    with (ROOT / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    package = ROOT / "muq_jax"
    data = [p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert package / "probe/prompts.json" in data
    for path in data:
        name = ".".join(path.parent.relative_to(ROOT).parts)
        assert any(fnmatch(path.name, pattern) for pattern in patterns.get(name, ())), path
