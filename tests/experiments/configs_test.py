"""Every resolved configuration is a text file: a changed default shows in the diff.

To write them anew: `python -m tests.experiments.configs_test`.
"""

import importlib
from pathlib import Path

import pytest

from experiments.configs import mulan, muq

GOLDEN = Path(__file__).parents[1] / "golden_configs"
VARIANTS = [
    *(("mel_rvq", variant) for variant in ("smoke", "tiny", "large")),
    *(("muq", variant) for variant in muq.VARIANTS),
    *(("hidden_rvq", variant) for variant in ("smoke", "tiny", "base", "large")),
    *(("mulan", variant) for variant in mulan.VARIANTS),
    *(("muq_iter", variant) for variant in ("smoke", "tiny", "base", "large")),
]
NAMES = sorted({name for name, _ in VARIANTS})


def get_config(name, variant=None):
    return importlib.import_module(f"experiments.configs.{name}").get_config(variant)


def resolved(name, variant):
    """Returns the configuration as text, a line a field."""

    def lines(tree, prefix=""):
        for key in sorted(tree):
            if isinstance(tree[key], dict):
                yield from lines(tree[key], f"{prefix}{key}.")
            else:
                yield f"{prefix}{key} = {tree[key]!r}\n"

    return "".join(lines(get_config(name, variant).to_dict()))


@pytest.mark.parametrize("name, variant", VARIANTS)
def test_configuration_is_the_golden_one(name, variant):
    golden = (GOLDEN / f"{name}_{variant}.txt").read_text()
    assert resolved(name, variant) == golden, "write them anew: python -m tests.experiments.configs_test"


def test_no_golden_file_is_left_over():
    expected = {f"{name}_{variant}.txt" for name, variant in VARIANTS}
    found = {path.name for name in NAMES for path in GOLDEN.glob(f"{name}_*.txt")}
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_those_of_the_design(name):
    groups = {"model", "targets", "objective", "data", "optim", "train", "mesh", "seed"}
    assert set(get_config(name).to_dict()) == groups


@pytest.mark.parametrize("name", NAMES)
def test_tiny_is_the_default_and_others_are_named(name):
    assert get_config(name).to_dict() == get_config(name, "tiny").to_dict()
    with pytest.raises(ValueError, match="no variant 'huge'; expected one of tiny, smoke"):
        get_config(name, "huge")


def test_large_is_the_papers_recipe():
    muq, rvq = get_config("muq", "large"), get_config("mel_rvq", "large")
    iterative, hidden = get_config("muq_iter", "large"), get_config("hidden_rvq", "large")
    assert (muq.data.batch_size, muq.data.crop_seconds) == (192, 30.0)
    assert (muq.train.num_steps, muq.optim.warmup_steps, muq.optim.peak_lr) == (400_000, 32_000, 5e-4)
    assert (muq.optim.beta1, muq.optim.beta2, muq.optim.eps) == (0.9, 0.98, 1e-6)
    assert (muq.optim.weight_decay, muq.optim.clip_norm, muq.optim.schedule) == (0.01, 10.0, "warmup_linear")
    assert (rvq.data.batch_size, rvq.data.crop_seconds, rvq.train.num_steps) == (32, 5.0, 4000)
    for group in ("optim", "train", "data", "objective"):
        assert iterative[group].to_dict() == muq[group].to_dict()
    assert (hidden.train.num_steps, hidden.data.crop_seconds) == (8100, 30.0)
    assert (hidden.model.rvq.num_books, hidden.model.rvq.num_codes, hidden.model.rvq.code_dim) == (
        8,
        1024,
        16,
    )
    assert hidden.optim.to_dict() == rvq.optim.to_dict()
    assert (rvq.optim.peak_lr, rvq.optim.schedule, rvq.optim.clip_norm) == (1e-4, "constant", None)


def test_every_large_recipe_sees_as_many_clips():
    for variant in muq.VARIANTS:
        if variant.startswith("large"):
            config = get_config("muq", variant)
            assert config.train.num_steps * config.data.batch_size == 400_000 * 192
            assert config.optim.warmup_steps * config.data.batch_size == 32_000 * 192


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, variant in VARIANTS:
        (GOLDEN / f"{name}_{variant}.txt").write_text(resolved(name, variant))
