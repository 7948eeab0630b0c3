import dataclasses
import hashlib
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from muq_jax.convert import rules, safetensors_file
from muq_jax.convert.rules import Rule, Table, Unused
from muq_jax.errors import UserError

TABLE = Table(
    rules=(
        Rule("head.weight", "params/head/kernel", rules.LINEAR),
        Rule("head.bias", "params/head/bias"),
        Rule("layers.{n}.conv.weight", "params/layers/conv/kernel", rules.DEPTHWISE, stack=3),
        Rule("front.weight", "params/front/kernel", "oihw->hwio"),
        Rule("book.weight_g", "params/book/g", "o11->o"),
        Rule("book.weight_v", "params/book/v", rules.POINTWISE),
    ),
    unused=(
        Unused("counter", (), "counts batches", dtype="int64"),
        Unused("spare.parametrizations.weight.original0", (1, 2), "never applied"),
        Unused("constant", (3,), "computed", value=np.arange(3.0)),
    ),
)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, np.float32)


TEMPLATE = {
    "params": {
        "head": {"kernel": shape(5, 2), "bias": shape(2)},
        "layers": {"conv": {"kernel": shape(3, 7, 4)}},
        "front": {"kernel": shape(3, 3, 1, 6)},
        "book": {"g": shape(4), "v": shape(8, 4)},
    }
}
SHAPES = {
    "head.weight": (2, 5),
    "head.bias": (2,),
    "layers.0.conv.weight": (4, 1, 7),
    "layers.1.conv.weight": (4, 1, 7),
    "layers.2.conv.weight": (4, 1, 7),
    "front.weight": (6, 1, 3, 3),
    "book.weight_g": (4, 1, 1),
    "book.weight_v": (4, 8, 1),
}


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(sizes).astype(np.float32) for name, sizes in SHAPES.items()}


def test_values_land_where_the_layout_says(tensors):
    params = rules.from_torch(tensors, TABLE, TEMPLATE)["params"]
    np.testing.assert_array_equal(params["head"]["kernel"], tensors["head.weight"].T)
    assert params["layers"]["conv"]["kernel"][1, 5, 2] == tensors["layers.1.conv.weight"][2, 0, 5]
    assert params["front"]["kernel"][2, 0, 0, 4] == tensors["front.weight"][4, 0, 2, 0]
    assert params["book"]["v"][6, 3] == tensors["book.weight_v"][3, 6, 0]
    np.testing.assert_array_equal(params["book"]["g"], tensors["book.weight_g"].ravel())


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="shows what is resident on Linux")
def test_a_mapped_file_is_not_held_in_memory_beside_the_variables(tmp_path):
    def resident_kib():
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        sizes = [next(row for row in lines if row.startswith("Rss:")) for line in lines if str(path) in line]
        return sum(int(row.split()[1]) for row in sizes)

    path = tmp_path / "model.safetensors"
    names = [f"{i}.weight" for i in range(4)]
    table = Table(tuple(Rule(name, f"params/w{i}", rules.LINEAR) for i, name in enumerate(names)))
    safetensors_file.write(path, {name: np.ones((512, 1024), np.float32) for name in names})
    tensors = safetensors_file.read(path)
    template = {"params": {f"w{i}": shape(1024, 512) for i in range(4)}}
    used = rules.checked(tensors, table, template)
    assert resident_kib() > 4 * 2048, "every page was looked at"
    variables = rules.arranged(used, table, template)
    assert resident_kib() < 2048
    path.write_bytes(bytes(path.stat().st_size))
    assert all(np.all(array == 1) for _, array in rules.flatten(variables)), "they are copies"


def test_there_and_back_is_the_same(tensors):
    back = rules.to_torch(rules.from_torch(tensors, TABLE, TEMPLATE), TABLE)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


@given(st.permutations("abcd"), st.sets(st.integers(0, 4), max_size=2), st.integers(0, 3))
def test_any_layout_reverses(order, ones, stack):
    theirs = "abcd"
    for place in sorted(ones, reverse=True):
        theirs = theirs[:place] + "1" + theirs[place:]
    sizes = dict(zip("abcd", (2, 3, 4, 5), strict=True))
    rule = Rule("x{n}" if stack else "x", "params/x", f"{theirs}->{''.join(order)}", stack)
    torch_shape = tuple(sizes.get(axis, 1) for axis in theirs)
    arrays = [np.random.default_rng(i).standard_normal(torch_shape) for i in range(max(stack, 1))]
    ours = rule.to_ours(arrays)
    assert ours.shape == ((stack,) if stack else ()) + tuple(sizes[axis] for axis in order)
    assert rule.torch_shape(ours.shape) == torch_shape
    for there, back in zip(arrays, rule.to_torch(ours), strict=True):
        np.testing.assert_array_equal(there, back)


def test_half_precision_files_are_read_as_the_template_says(tensors):
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    assert rules.from_torch(halves, TABLE, TEMPLATE)["params"]["head"]["bias"].dtype == np.float32


def test_every_missing_extra_or_misshapen_tensor_is_named(tensors):
    del tensors["layers.1.conv.weight"]
    tensors["surplus"] = np.zeros(3)
    tensors["front.weight"] = np.zeros((6, 3, 3, 1), np.float32)
    with pytest.raises(UserError) as error:
        rules.from_torch(tensors, TABLE, TEMPLATE, "some/folder")
    message = str(error.value)
    assert message.startswith("some/folder: ")
    assert "missing layers.1.conv.weight (4, 1, 7)" in message
    assert "unknown surplus (3,)" in message
    assert "front.weight has shape (6, 3, 3, 1) where (6, 1, 3, 3) is expected" in message


def test_an_unused_tensor_may_be_there_or_not_but_not_of_another_shape(tensors):
    rules.from_torch(tensors | {"counter": np.float32(7)}, TABLE, TEMPLATE)
    with pytest.raises(UserError, match=r"spare.weight_g has shape \(9,\) where \(1, 2\)"):
        rules.from_torch(tensors | {"spare.weight_g": np.zeros(9)}, TABLE, TEMPLATE)


def test_a_group_of_unused_tensors_is_read_past_and_not_written(tensors):
    table = dataclasses.replace(TABLE, unused=(Unused("other.*", None, "another target's"),))
    rules.from_torch(tensors | {"other.a.b": np.zeros(2), "other.c": np.zeros(1)}, table, TEMPLATE)
    assert rules.complete(tensors, table).keys() == tensors.keys()
    with pytest.raises(UserError, match="unknown others"):
        rules.from_torch(tensors | {"others": np.zeros(2)}, table, TEMPLATE)


@pytest.mark.parametrize("spelling", ["legacy", "parametrized", "folded"])
def test_weight_norm_in_each_spelling(tensors, spelling):
    want = rules.from_torch(tensors, TABLE, TEMPLATE)["params"]["book"]
    g, v = tensors["book.weight_g"], tensors["book.weight_v"]
    if spelling == "parametrized":
        tensors["book.parametrizations.weight.original0"] = tensors.pop("book.weight_g")
        tensors["book.parametrizations.weight.original1"] = tensors.pop("book.weight_v")
    elif spelling == "folded":
        del tensors["book.weight_g"], tensors["book.weight_v"]
        tensors["book.weight"] = np.abs(g) * v / np.linalg.norm(v, axis=1, keepdims=True)
        want["g"] = np.abs(want["g"])
    book = rules.from_torch(tensors, TABLE, TEMPLATE)["params"]["book"]

    def weight(pair):
        return pair["g"] * pair["v"] / np.linalg.norm(pair["v"], axis=0)

    np.testing.assert_allclose(weight(book), weight(want), rtol=1e-6)


def test_a_table_that_does_not_fit_the_model_is_a_programming_error(tensors):
    with pytest.raises(ValueError, match="params/head/bias"):
        rules.from_torch(
            tensors, dataclasses.replace(TABLE, rules=TABLE.rules[:1] + TABLE.rules[2:]), TEMPLATE
        )


def test_export_writes_what_upstream_stores_beside_the_tensors_in_use(tensors):
    whole = rules.complete(tensors, TABLE)
    assert whole["counter"].dtype == np.int64 and whole["counter"].shape == ()
    np.testing.assert_array_equal(whole["constant"], np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(whole["spare.parametrizations.weight.original0"], np.zeros((1, 2)))

    source = tensors | {"counter": np.float32(7), "spare.weight_g": np.ones((1, 2), np.float32)}
    kept = rules.complete(tensors, TABLE, rules.unused_of(source, TABLE))
    assert kept["counter"] == 7 and kept["counter"].dtype == np.int64
    np.testing.assert_array_equal(kept["spare.parametrizations.weight.original0"], np.ones((1, 2)))


def test_digest_is_over_names_shapes_and_float32_bytes(tensors):
    digest = rules.params_sha256(tensors)
    shuffled = {name: tensors[name].astype(np.float64) for name in reversed(list(tensors))}
    assert rules.params_sha256(shuffled) == digest
    reshaped = tensors | {"head.bias": tensors["head.bias"][None]}
    renamed = {name.replace("head", "tail"): tensor for name, tensor in tensors.items()}
    changed = tensors | {"head.bias": np.nextafter(tensors["head.bias"], np.float32(9))}
    assert len({digest, *map(rules.params_sha256, (reshaped, renamed, changed))}) == 4

    one = {"a": np.array([[1.0, 2.0]], np.float32)}
    by_hand = hashlib.sha256(b"a [1, 2]\n" + np.array([1, 2], "<f4").tobytes()).hexdigest()
    assert rules.params_sha256(one) == by_hand


@pytest.mark.parametrize("prefix", ["model.", "module.", "module.model."])
def test_what_a_trainer_puts_before_the_names_is_taken_away(tensors, prefix):
    wrapped = {prefix + name: tensor for name, tensor in tensors.items()} | {f"{prefix}counter": np.array(4)}
    params = rules.from_torch(wrapped, TABLE, TEMPLATE)["params"]
    np.testing.assert_array_equal(params["head"]["bias"], tensors["head.bias"])
    assert rules.unused_of(wrapped, TABLE)["counter"] == 4


def test_an_inner_module_saved_without_its_name_is_known(tensors):
    table = Table(tuple(dataclasses.replace(rule, torch=f"model.{rule.torch}") for rule in TABLE.rules))
    params = rules.from_torch(tensors, table, TEMPLATE)["params"]
    np.testing.assert_array_equal(params["head"]["bias"], tensors["head.bias"])


def test_one_renamed_tensor_is_no_prefix(tensors):
    tensors["model.head.bias"] = tensors.pop("head.bias")
    with pytest.raises(UserError, match=r"missing head\.bias \(2,\); unknown model\.head\.bias \(2,\)"):
        rules.from_torch(tensors, TABLE, TEMPLATE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_name(tensors, value):
    tensors["layers.1.conv.weight"][2, 0, 5] = value
    with pytest.raises(UserError, match=r"file: layers\.1\.conv\.weight holds NaN or infinity\. The file"):
        rules.from_torch(tensors, TABLE, TEMPLATE, "file")


@pytest.mark.parametrize(
    "path, value, says",
    [
        ("scale", np.zeros(3), "x is all zeros"),
        ("var", np.zeros(3), "x is all zeros"),
        ("var", np.float32([1, -0.1, 1]), "x holds a negative variance"),
        ("kernel", np.ones(3, np.int32), "x holds int32, not floating-point numbers"),
        ("kernel", np.ones(3, bool), "x holds bool, not floating-point numbers"),
        ("bias", np.zeros(3), ""),
        ("mean", np.zeros(3), ""),
        ("var", np.full(3, 1e-9), ""),
    ],
)
def test_what_no_training_leaves_is_refused(path, value, says):
    table = Table((Rule("x", f"params/{path}"),))
    template = {"params": {path: shape(3)}}
    if not says:
        rules.from_torch({"x": value}, table, template)
        return
    with pytest.raises(UserError, match=says):
        rules.from_torch({"x": value}, table, template)


def test_variables_that_lack_a_part_are_named(tensors):
    variables = rules.from_torch(tensors, TABLE, TEMPLATE)
    path, _ = next(rules.flatten(variables))
    variables.pop(path.split("/")[0])
    with pytest.raises(UserError, match=f"do not fit the configuration: no {path}"):
        rules.to_torch(variables, TABLE)


def test_a_tensor_that_is_never_read_may_hold_anything(tensors):
    rules.from_torch(tensors | {"spare.weight_g": np.full((1, 2), np.nan)}, TABLE, TEMPLATE)


@pytest.mark.parametrize("value", [np.full(3, np.nan), np.zeros(3), 1.1 * np.arange(3.0)])
def test_a_constant_of_another_model_is_refused(tensors, value):
    rules.from_torch(tensors | {"constant": np.arange(3.0).astype(np.float16)}, TABLE, TEMPLATE)
    with pytest.raises(UserError, match="constant is not what this configuration computes"):
        rules.from_torch(tensors | {"constant": value}, TABLE, TEMPLATE)


def test_what_overflows_in_float32_is_refused(tensors):
    tensors["head.bias"] = tensors["head.bias"].astype(np.float64)
    tensors["head.bias"][0] = 1e300
    with pytest.raises(UserError, match=r"head\.bias holds NaN or infinity"):
        rules.from_torch(tensors, TABLE, TEMPLATE)


def test_a_matrix_of_zeros_is_refused_unless_it_has_a_reason(tensors):
    tensors["head.weight"][:] = 0
    tensors["head.bias"][:] = 0  # a fresh bias
    with pytest.raises(UserError, match=r"file: head\.weight is all zeros\. The file"):
        rules.from_torch(tensors, TABLE, TEMPLATE, "file")
    excused = [
        dataclasses.replace(r, zero_because="so") if r.torch == "head.weight" else r for r in TABLE.rules
    ]
    rules.from_torch(tensors, Table(tuple(excused), TABLE.unused), TEMPLATE)


def test_an_export_is_written_as_pytorch_lays_it_out(tensors, tmp_path):
    """Tensors are views of our arrays, transposed; the file holds them row by row."""
    safetensors_file.write(tmp_path / "t", rules.to_torch(rules.from_torch(tensors, TABLE, TEMPLATE), TABLE))
    for name, tensor in load_file(tmp_path / "t").items():
        np.testing.assert_array_equal(tensor, tensors[name])
