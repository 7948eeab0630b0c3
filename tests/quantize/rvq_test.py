import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.original import as_wave, random_tensors
from muq_jax import parallel
from muq_jax.convert import mel_rvq as table
from muq_jax.errors import UserError
from muq_jax.models.config import MelRVQConfig
from muq_jax.models.mel_rvq import stacked_mel
from muq_jax.quantize import rvq
from muq_jax.quantize.rvq import ResidualVQ, RVQConfig, replace_rows

GOLDEN = Path(__file__).parents[1] / "golden"
quantize = jax.jit(rvq.quantize, static_argnames="config")
dequantize = jax.jit(rvq.dequantize, static_argnames="config")
SMALL = RVQConfig(num_books=3, num_codes=11, code_dim=4, input_dim=6, hidden_dim=5)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "rvq.npz")


def make(config, tokens=(2, 7)):
    """Variables and input, drawn by numpy: nothing to compile."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*tokens, config.input_dim)).astype(np.float32)
    shapes = jax.eval_shape(ResidualVQ(config).init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes["params"])
    counters = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes["codebook_state"])
    return {"params": params, "codebook_state": counters}, x


@functools.partial(jax.jit, static_argnames="config")
def train_step(variables, x, valid, key, config):
    return ResidualVQ(config).apply(variables, x, valid, train=True, key=key, mutable=["codebook_state"])


def reference(params, x, config):
    """The formulas of `quantize` in float64 numpy, a token at a time: codes, residuals, losses, errors."""
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def project(name, q, vector):
        for i in range(config.num_projection_layers):
            layer = params[f"{name}_{i}"]
            v = layer["v"][q]
            weight = layer["g"][q] * v / np.sqrt((v**2).sum(0))
            vector = (np.maximum(vector, 0) if i else vector) @ weight + layer["bias"][q]
        return vector

    codes, squared, errors = [], 0.0, []
    residual = np.asarray(x, np.float64).reshape(-1, config.input_dim)
    for q, book in enumerate(params["codebook"]):
        directions = book / np.linalg.norm(book, axis=1, keepdims=True)
        latents = project("in_proj", q, residual)
        codes.append(np.argmax(latents @ directions.T, axis=1))  # dividing by |latent| changes no order
        squared += ((latents - book[codes[-1]]) ** 2).mean()
        residual = residual - project("out_proj", q, book[codes[-1]])
        errors.append(np.abs(residual).mean())
    return np.stack(codes, -1), residual, squared, errors


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_quantize_against_the_formulas(layers):
    config = dataclasses.replace(SMALL, num_projection_layers=layers)
    variables, x = make(config)
    output = quantize(variables["params"], x, None, config)
    codes, residual, squared, errors = reference(variables["params"], x, config)
    np.testing.assert_array_equal(output.codes.reshape(-1, 3), codes)
    np.testing.assert_allclose(output.quantized.reshape(-1, 6), x.reshape(-1, 6) - residual, atol=1e-5)
    np.testing.assert_allclose(output.codebook_loss, squared, rtol=1e-5)
    np.testing.assert_allclose(output.commitment_loss, squared, rtol=1e-5)
    np.testing.assert_allclose(output.errors, errors, rtol=1e-5)
    np.testing.assert_allclose(output.loss, 1.25 * squared + errors[-1], rtol=1e-5)


@pytest.mark.parametrize(("layers", "books"), [(1, 8), (2, 2), (3, 2)])
def test_quantize_against_the_original(golden, layers, books):
    config = MelRVQConfig(rvq=RVQConfig(num_books=books, num_projection_layers=layers))
    shapes = json.loads(str(golden[f"layers{layers}_shapes"]))
    params = table.from_torch_names(random_tensors(shapes), config)["params"]
    x, _ = stacked_mel(as_wave(golden["pcm"]), mel=config.mel, frames_per_token=4)
    output = quantize(params, x, None, config.rvq)
    want = np.moveaxis(golden[f"layers{layers}_codes"], 1, 2)
    # Where one book's gap is of the size of rounding, that token's later books may differ too.
    clear = np.minimum.accumulate(np.moveaxis(golden[f"layers{layers}_gaps"], 1, 2), axis=2) > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(np.asarray(output.codes)[clear], want[clear])
    for ours, theirs in (
        (output.commitment_loss, "commitment"),
        (output.codebook_loss, "codebook"),
        (output.errors[-1], "l1"),
    ):
        np.testing.assert_allclose(ours, golden[f"layers{layers}_{theirs}"], rtol=1e-5)
    decoded = dequantize(params, want.astype(np.int32), config.rvq)
    np.testing.assert_allclose(decoded[0, :8].T, golden[f"layers{layers}_decoded"], atol=1e-5)


def test_single_book_against_the_original(golden):
    config = MelRVQConfig(rvq=rvq.SINGLE_VQ)
    shapes = json.loads(str(golden["single_shapes"]))
    # The generator draws by name, so draw first and name the one book after.
    tensors = {f"quantizers.0.{name}": tensor for name, tensor in random_tensors(shapes).items()}
    params = table.from_torch_names(tensors, config)["params"]
    x, _ = stacked_mel(as_wave(golden["pcm"]), mel=config.mel, frames_per_token=4)
    codes = quantize(params, x, None, config.rvq).codes
    np.testing.assert_array_equal(codes[..., 0], golden["single_codes"])


def test_stale_codes_against_the_original(monkeypatch):
    """Six training steps without an optimiser, with the order of tokens that the original drew."""
    golden = np.load(GOLDEN / "rvq_stale.npz")
    pcm = np.load(GOLDEN / "rvq.npz")["pcm"]
    config = MelRVQConfig(rvq=RVQConfig(num_books=2, num_codes=48, stale_tolerance=3))
    variables = table.from_torch_names(random_tensors(json.loads(str(golden["shapes"]))), config)
    x, _ = stacked_mel(as_wave(pcm), mel=config.mel, frames_per_token=4)
    order = jnp.asarray(golden["order"])
    monkeypatch.setattr(
        rvq,
        "random_order",
        lambda key, valid, books, codes: jnp.tile(order[jnp.arange(codes) % 80], (books, 1)),
    )
    replaced = 0
    for n in range(6):
        output, state = train_step(variables, x, None, jax.random.key(0), config.rvq)
        variables = {"params": replace_rows(variables["params"], output.replacement), **state}
        np.testing.assert_array_equal(np.moveaxis(output.codes, 2, 1), golden[f"step{n}_codes"])
        np.testing.assert_allclose(output.loss, golden[f"step{n}_loss"], rtol=1e-6)
        np.testing.assert_array_equal(state["codebook_state"]["stale_counter"], golden[f"step{n}_counters"])
        np.testing.assert_allclose(variables["params"]["codebook"], golden[f"step{n}_books"], atol=1e-5)
        replaced += int(output.replacement.rows.sum())
    assert replaced > 10


def test_random_order_is_a_permutation_of_the_valid_tokens():
    valid = np.arange(40) % 3 > 0  # 26 of 40
    draw = jax.jit(rvq.random_order, static_argnums=(2, 3))
    order = np.asarray(draw(jax.random.key(0), valid, 4, 64))
    assert order.shape == (4, 64)
    for row in order:
        assert sorted(row[:26]) == np.flatnonzero(valid).tolist()
        np.testing.assert_array_equal(row[26:52], row[:26])
    assert len({tuple(row) for row in order}) == 4
    fewer = np.asarray(draw(jax.random.key(0), valid, 4, 10))
    np.testing.assert_array_equal(fewer, order[:, :10])


def test_replacement_waits_for_exactly_the_tolerance_and_takes_unit_latents():
    config = dataclasses.replace(SMALL, num_codes=40, stale_tolerance=2)
    variables, x = make(config)
    valid = np.arange(7) < np.array([[7], [3]])
    counts = []
    for n in range(2):
        output, state = train_step(variables, x, valid, jax.random.key(n), config)
        variables = {**variables, **state}
        counts.append(int(output.replacement.rows.sum()))
    used = np.stack([np.bincount(np.asarray(output.codes)[valid][:, q], minlength=40) > 0 for q in range(3)])
    assert counts == [0, (~used).sum()]
    assert not np.any(variables["codebook_state"]["stale_counter"])
    latents = np.asarray(output.latents)[:, np.asarray(valid)]  # [Q, 10, C]
    latents = latents / np.linalg.norm(latents, axis=-1, keepdims=True)
    params = replace_rows(variables["params"], output.replacement)
    for q in range(3):
        old, new = variables["params"]["codebook"][q], np.asarray(params["codebook"][q])
        np.testing.assert_array_equal(new[used[q]], np.asarray(old)[used[q]])
        distance = np.abs(new[~used[q], None] - latents[q]).max(-1).min(-1)
        assert distance.max() < 1e-6
    for name in variables["params"].keys() - {"codebook"}:
        assert params[name] is variables["params"][name]


def test_used_codes_reset_their_counter():
    variables, x = make(SMALL)
    start = {"codebook_state": {"stale_counter": np.full((3, 11), 50, np.float32)}}
    output, state = train_step({**variables, **start}, x, None, jax.random.key(0), SMALL)
    counter = np.asarray(state["codebook_state"]["stale_counter"])
    for q in range(3):
        used = np.isin(np.arange(11), output.codes[..., q])
        np.testing.assert_array_equal(counter[q], np.where(used, 0, 51))


def test_a_code_older_than_the_tolerance_is_replaced_too():
    """Such counters come with weights that were fitted with a larger tolerance."""
    config = dataclasses.replace(SMALL, num_codes=40, stale_tolerance=20)
    variables, x = make(config)
    variables["codebook_state"] = {"stale_counter": np.full((3, 40), 50, np.float32)}
    output, state = train_step(variables, x, None, jax.random.key(0), config)
    used = np.stack([np.isin(np.arange(40), output.codes[..., q]) for q in range(3)])
    np.testing.assert_array_equal(output.replacement.rows, ~used)
    assert not np.any(state["codebook_state"]["stale_counter"])


def test_a_batch_without_a_valid_token_changes_nothing():
    variables, x = make(SMALL)
    counter = np.arange(33, dtype=np.float32).reshape(3, 11) + 80  # some are one step from the tolerance
    variables["codebook_state"] = {"stale_counter": counter}
    output, state = train_step(variables, x, np.zeros((2, 7), bool), jax.random.key(0), SMALL)
    np.testing.assert_array_equal(state["codebook_state"]["stale_counter"], counter)
    assert not output.replacement.rows.any()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(RVQConfig)])
def test_a_quantizer_without_a_size_is_refused(field):
    with pytest.raises(UserError, match=rf"rvq\.{field} must be at least 1, found 0"):
        RVQConfig(**{field: 0})


def test_training_needs_a_key():
    variables, x = make(SMALL)
    with pytest.raises(ValueError, match="key"):
        ResidualVQ(SMALL).apply(variables, x, train=True, mutable=["codebook_state"])


def test_invalid_tokens_contribute_nothing():
    variables, x = make(SMALL, tokens=(3, 7))
    valid = np.arange(7) < np.array([[7], [4], [0]])
    gradient = jax.jit(jax.grad(lambda params, x: quantize(params, x, valid, SMALL).loss))

    # Tokens are independent, so the valid ones alone, in one clip, have the same means.
    together = quantize(variables["params"], x[valid][None], None, SMALL)
    masked = quantize(variables["params"], x, valid, SMALL)
    np.testing.assert_allclose(masked.loss, together.loss, rtol=1e-6)
    np.testing.assert_allclose(masked.errors, together.errors, rtol=1e-6)
    garbage = np.where(valid[..., None], x, 1e4)
    for ours, theirs in zip(
        jax.tree.leaves(gradient(variables["params"], garbage)),
        jax.tree.leaves(gradient(variables["params"], x)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    nothing = quantize(variables["params"], x, np.zeros_like(valid), SMALL)
    assert nothing.loss == 0


def test_gradients_pass_straight_through():
    """The input's gradient is that of the projections alone, as if each book returned its latents."""
    config = dataclasses.replace(SMALL, num_books=1)
    variables, x = make(config)
    params = jax.tree.map(lambda a: np.asarray(a)[0], variables["params"])
    got = jax.jit(jax.grad(lambda x: quantize(variables["params"], x, None, config).quantized.sum()))(x)
    weights = [
        p["g"] * p["v"] / np.linalg.norm(p["v"], axis=0) for p in (params["in_proj_0"], params["out_proj_0"])
    ]
    want = weights[0] @ weights[1] @ np.ones(6)
    np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), rtol=1e-4, atol=1e-5)


def test_decode_undoes_encode_and_takes_a_prefix_of_books():
    variables, x = make(SMALL)
    output = quantize(variables["params"], x, None, SMALL)
    for n, error in enumerate(output.errors, start=1):
        decoded = dequantize(variables["params"], output.codes[..., :n], SMALL)
        np.testing.assert_allclose(np.abs(x - decoded).mean(), error, rtol=1e-5)
    np.testing.assert_allclose(decoded, output.quantized, atol=1e-5)
    with pytest.raises(ValueError, match="4 books"):
        dequantize(variables["params"], np.zeros((1, 1, 4), np.int32), SMALL)


def test_initial_values_are_distributed_as_in_pytorch():
    config = RVQConfig(num_books=8, num_codes=256)
    variables = jax.jit(ResidualVQ(config).init)(jax.random.key(0), np.zeros((1, 1, 512), np.float32))
    params = jax.tree.map(np.asarray, variables["params"])
    for name, fan_in in (("in_proj_0", 512), ("out_proj_0", 16)):
        layer, bound = params[name], fan_in**-0.5
        np.testing.assert_allclose(layer["g"], np.linalg.norm(layer["v"], axis=1), rtol=1e-6)
        for values in (layer["v"], layer["bias"]):
            assert bound * 0.9 < np.abs(values).max() <= bound
            np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.1)
    np.testing.assert_allclose([params["codebook"].mean(), params["codebook"].std()], [0, 1], atol=0.02)
    assert not np.allclose(params["codebook"][0], params["codebook"][1])


def test_a_batch_on_eight_devices_is_one_batch():
    """Usage is counted and replacements are drawn over the whole batch, not a device's part of it."""
    config = dataclasses.replace(SMALL, num_codes=40, stale_tolerance=1)
    variables, x = make(config, tokens=(8, 5))
    mesh = parallel.make_mesh()
    key = jax.random.key(3)
    sharded = jax.device_put(x, parallel.batch_sharding(mesh))
    one, state = train_step(variables, x, None, key, config)
    eight, state8 = train_step(
        jax.device_put(variables, parallel.replicated(mesh)), sharded, None, key, config
    )
    assert one.replacement.rows.any()
    np.testing.assert_array_equal(one.codes, eight.codes)
    np.testing.assert_array_equal(one.replacement.rows, eight.replacement.rows)
    np.testing.assert_allclose(one.replacement.codebook, eight.replacement.codebook, atol=1e-6)
    np.testing.assert_allclose(one.loss, eight.loss, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, state, state8)
