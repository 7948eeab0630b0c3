import pytest

from muq_jax.errors import UserError
from muq_jax.text.templates import BACKGROUND, MAGNATAGATUNE, TEMPLATES, prompts, read_labels


def test_the_built_in_labels_are_fifty():
    assert len(MAGNATAGATUNE) == len(set(MAGNATAGATUNE)) == 50
    assert {"guitar", "no vocals", "female voice", "new age", "choral"} <= set(MAGNATAGATUNE)
    assert len(set(BACKGROUND)) == len(BACKGROUND)


def test_a_label_goes_into_every_template():
    assert prompts("sitar", ["{}", "{} and more {}", "{{}}"]) == ["sitar", "sitar and more sitar", "{sitar}"]
    assert prompts("sitar")[0] == "sitar" and len(prompts("sitar")) == len(TEMPLATES)


@pytest.mark.parametrize("templates, words", [([], "no template"), (["a {label}"], "has no {}")])
def test_templates_that_do_not_do_are_refused(templates, words):
    with pytest.raises(UserError, match=words):
        prompts("sitar", templates)


def test_labels_are_read_a_line_each(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes("\ufeff# moods\r\n\r\ncalm\r\n 欢快 \r\nno vocals".encode())
    assert read_labels(path) == ["calm", "欢快", "no vocals"]


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "holds no label"),
        (b"# only a comment\n", "holds no label"),
        (b"a\nb\na\n", "holds a more than once"),
        (b"caf\xe9", "not a text in UTF-8"),
    ],
)
def test_files_that_hold_no_labels_are_refused(tmp_path, data, words):
    path = tmp_path / "labels"
    path.write_bytes(data)
    with pytest.raises(UserError, match=words):
        read_labels(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_labels(tmp_path / "labels")
