import numpy as np
import pytest

from muq_jax.convert import rules
from muq_jax.convert.rules import Rule, Table
from muq_jax.convert.verify import Difference, round_trip

TABLE = Table((Rule("a.weight", "params/a/kernel", rules.LINEAR), Rule("b.{n}", "params/b", stack=2)))
USED = {"a.weight": np.arange(6.0).reshape(2, 3), "b.0": np.ones(2), "b.1": np.zeros(2)}


def test_what_comes_back_changed_is_named(monkeypatch):
    assert round_trip(USED, TABLE) == []
    real = Rule.to_torch
    monkeypatch.setattr(Rule, "to_torch", lambda self, array: real(self, array[::-1]))
    assert round_trip(USED, TABLE) == ["a.weight", "b.0", "b.1"]


@pytest.mark.parametrize(
    "largest, within", [(0.0, True), (1e-4, True), (1.1e-4, False), (float("nan"), False)]
)
def test_a_difference_that_is_no_number_is_not_within(largest, within):
    assert Difference("x", largest, 1e-4).within is within
