import pytest

from muq_jax.errors import UserError
from muq_jax.probe.labels import FAMILIES, RULES


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("first", ["a", "b"], "a"),
        ("first", "a", "a"),
        ("first", [], None),
        ("pitch_class", 60, "C"),
        ("pitch_class", 69.0, "A"),
        ("pitch_class", 0, "C"),
        ("gm_family", [0, 40], "piano"),
        ("gm_family", 127, "sound effects"),
        ("gm_family", [], None),
        ("chords", [[0, 1, "C:maj7"], [1, 2, "N"], [2, 3, "X"], [3, 4, "F#:min"]], None),
    ],
)
def test_rules(rule, value, expected):
    if rule == "chords":
        expected = [(0, 1, "C:maj"), (1, 2, "N"), (3, 4, "Gb:min")]
    assert RULES[rule](value) == expected


@pytest.mark.parametrize("label", ["Bb:maj/A", "Bb:maj/3", "Bb:maj"])
def test_the_bass_of_a_chord_does_not_count(label):
    assert RULES["chords"]([[0, 1, label], [1, 2, "C:X"]]) == [(0, 1, "Bb:maj")]


@pytest.mark.parametrize(
    ("rule", "value"), [("pitch_class", "C4"), ("pitch_class", 60.5), ("pitch_class", True)]
)
def test_what_is_no_pitch(rule, value):
    with pytest.raises(ValueError, match="whole number"):
        RULES[rule](value)


def test_programs_are_128():
    assert len(FAMILIES) == 16
    with pytest.raises(ValueError, match="0 to 127"):
        RULES["gm_family"](128)


GARBAGE = [None, True, -1, 1e400, float("nan"), 10**400, "", "C", [[]], [None], [[None]], {}, {"abc": 1}]
GARBAGE += [[[0, 1]], [[0, 1, None]], [[0, 1, {}]], [[0, 1, 2, 3]], [{"abc": 1}], [[[0]]], "abc", ["abc"]]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", GARBAGE, ids=repr)
def test_garbage_is_a_mistake_and_no_accident(rule, value):
    try:
        RULES[rule](value)
    except (ValueError, TypeError, UserError) as error:
        assert str(error)


@pytest.mark.parametrize("label", ["H:maj", "C:", "", "None", "C:maj:min", "c:maj"])
def test_what_is_no_chord(label):
    with pytest.raises(UserError, match="is no chord label; expected root:quality"):
        RULES["chords"]([[0, 1, label]])


def test_pitches_repeat_every_twelve():
    names = [RULES["pitch_class"](pitch) for pitch in range(128)]
    assert names[60:72] == "C Db D Eb E F Gb G Ab A Bb B".split()
    assert all(a == b for a, b in zip(names, names[12:], strict=False))


def test_families_are_those_of_general_midi():
    found = {program: RULES["gm_family"]([program]) for program in (0, 24, 32, 40, 56, 64, 73, 80, 104)}
    assert list(found.values()) == (
        ["piano", "guitar", "bass", "strings", "brass", "reed", "pipe", "synth lead", "ethnic"]
    )
