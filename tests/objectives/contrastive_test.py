"""Contrastive losses and their gradients, against float64 numpy and, marked `torch`, MuQ-MuLan's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.original import import_original
from muq_jax import parallel
from muq_jax.objectives.contrastive import LOSSES, encode_in_parts, pair_losses
from muq_jax.objectives.objective import split_rows


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def plain_loss(audio, text, log_temperature, loss, bias=0.0, valid=None, same=None):
    """The formulae pair by pair, float64: the mean over valid pairs."""
    size = len(audio)
    valid = np.ones(size, bool) if valid is None else valid
    same = np.zeros((size, size), bool) if same is None else same
    s = np.exp(log_temperature) * (audio @ text.T)
    total = 0.0
    for i in np.flatnonzero(valid):
        others = [j for j in np.flatnonzero(valid) if j != i and not same[i, j]]
        if loss == "sigmoid":
            total += np.logaddexp(0, -(s[i, i] + bias)) + sum(np.logaddexp(0, s[i, j] + bias) for j in others)
            continue
        counted = others if loss == "decoupled" else [*others, i]
        if counted:
            total += (np.logaddexp.reduce(s[i, counted]) + np.logaddexp.reduce(s[counted, i])) / 2 - s[i, i]
    return total / max(valid.sum(), 1)


def slopes(function, *arrays, step=1e-5):
    """Central differences of a function of float64 arrays."""
    found = []
    for number, array in enumerate(arrays):
        slope = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = [np.array(a) for a in arrays]
                moved[number][index] += sign * step
                ends.append(function(*moved))
            slope[index] = (ends[0] - ends[1]) / (2 * step)
        found.append(slope)
    return found


def mean_loss(audio, text, log_temperature, bias, **options):
    valid = options.get("valid")
    losses = pair_losses(audio, text, log_temperature, bias=bias, **options)
    return losses.mean() if valid is None else losses.sum() / valid.sum()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size, masked", [(2, False), (3, False), (7, True), (17, True)])
def test_loss_and_gradients_are_the_formulae(loss, size, masked):
    rng = np.random.default_rng(size)
    audio, text = unit(rng, size, 5), unit(rng, size, 5)
    log_temperature, bias = np.array(1.3), np.array(-0.7)
    options = {}
    if masked:
        options["valid"] = np.arange(size) != 2
        same = np.eye(size, dtype=bool)
        same[0, 3] = same[3, 0] = True
        options["same"] = same

    def plain(audio, text, log_temperature, bias):
        return plain_loss(audio, text, log_temperature, loss, bias, **options)

    arguments = (audio, text, log_temperature, bias)
    ours = [jnp.asarray(a, jnp.float32) for a in arguments]
    function = jax.value_and_grad(lambda *a: mean_loss(*a, loss=loss, **options), argnums=(0, 1, 2, 3))
    found, gradients = jax.jit(function)(*ours)
    np.testing.assert_allclose(found, plain(*arguments), rtol=2e-6)
    for gradient, slope in zip(gradients, slopes(plain, *arguments), strict=True):
        np.testing.assert_allclose(gradient, slope, atol=3e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_large_temperatures_overflow_nothing(loss):
    """exp(200) has no float32: MuQ-MuLan's own loss is infinite here."""
    rng = np.random.default_rng(0)
    audio = unit(rng, 6, 4)
    text = unit(rng, 6, 4)
    text[0] = -audio[0]
    log_temperature = np.log(200.0)
    found, gradients = jax.value_and_grad(mean_loss, argnums=(0, 1, 2))(
        *(jnp.asarray(a, jnp.float32) for a in (audio, text, log_temperature)), jnp.float32(0), loss=loss
    )
    np.testing.assert_allclose(found, plain_loss(audio, text, log_temperature, loss), rtol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("loss", ["decoupled", "infonce"])
@pytest.mark.parametrize("valid", [[True], [True, False], [False, False]])
def test_a_pair_without_others_is_no_loss_and_has_no_gradient(loss, valid):
    valid = np.array(valid)
    rng = np.random.default_rng(0)
    audio, text = (jnp.asarray(unit(rng, len(valid), 4), jnp.float32) for _ in range(2))

    def total(audio, text, log_temperature):
        return pair_losses(audio, text, log_temperature, loss=loss, valid=valid).sum()

    found, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(audio, text, jnp.float32(2))
    np.testing.assert_allclose(found, 0.0, atol=1e-6)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_same_texts_repel_nothing():
    rng = np.random.default_rng(1)
    audio, text = unit(rng, 4, 3), unit(rng, 4, 3)
    text[1] = text[0]
    same = np.all(text[:, None] == text, axis=-1)
    losses = pair_losses(jnp.asarray(audio), jnp.asarray(text), jnp.float32(2), same=jnp.asarray(same))
    without = pair_losses(
        jnp.asarray(audio[[0, 2, 3]]), jnp.asarray(text[[0, 2, 3]]), jnp.float32(2)
    )  # pair 0 as if pair 1 were not there
    np.testing.assert_allclose(losses[0], without[0], rtol=1e-6)


def test_no_such_loss():
    with pytest.raises(ValueError, match="'triplet'; expected one of"):
        pair_losses(jnp.ones((2, 2)), jnp.ones((2, 2)), jnp.float32(1), loss="triplet")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("data, fsdp", [(8, 1), (2, 4)])
def test_eight_devices_give_the_gradient_of_one(loss, data, fsdp):
    """To the towers' weights, of which MuQ-MuLan's own gather loses a part on several processes."""
    rng = np.random.default_rng(2)
    heard, read = (rng.standard_normal((24, 6)).astype(np.float32) for _ in range(2))
    params = {
        "audio": rng.standard_normal((6, 5)).astype(np.float32),
        "text": rng.standard_normal((6, 5)).astype(np.float32),
        "log_temperature": np.float32(1.0),
    }
    valid = np.arange(24) < 22

    def total(params, heard, read, valid):
        audio, text = heard @ params["audio"], read @ params["text"]
        audio, text = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (audio, text))
        losses = pair_losses(audio, text, params["log_temperature"], loss=loss, valid=valid)
        return losses.sum() / valid.sum()

    function = jax.jit(jax.value_and_grad(total))
    expected = function(params, heard, read, valid)
    mesh = parallel.make_mesh(data, fsdp)
    rows = parallel.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        batch = [jax.device_put(x, rows) for x in (heard, read, valid)]
        found = function(jax.device_put(params, parallel.replicated(mesh)), *batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, expected)


def towers(width):
    """Returns parameters, and an encoder that counts its parts in the state."""
    rng = np.random.default_rng(3)
    params = {name: rng.standard_normal((7, width)).astype(np.float32) for name in ("audio", "text", "out")}

    def encode(params, count, part):
        def vectors(name):
            hidden = jnp.tanh(part[name] @ params[name])
            x = (hidden @ params["out"].T).astype(jnp.float32)
            return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

        return count + 1, (vectors("audio"), vectors("text"))

    return params, encode


def loss_in_parts(encode, num_parts):
    def total(params, batch):
        parts = split_rows(batch, num_parts)
        (audio, text), count = encode_in_parts(lambda s, part: encode(params, s, part), jnp.int32(0), parts)
        return pair_losses(audio, text, jnp.float32(2)).mean(), (audio, count)

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def batch_of(size):
    rng = np.random.default_rng(4)
    return {name: rng.standard_normal((size, 7)).astype(np.float32) for name in ("audio", "text")}


@pytest.mark.parametrize("num_parts", [1, 2, 4])
def test_parts_give_the_loss_and_gradient_of_the_whole(num_parts):
    params, encode = towers(9)
    batch = batch_of(12)
    (expected, (vectors, _)), gradients = loss_in_parts(encode, 1)(params, batch)
    (found, (in_parts, count)), in_parts_gradients = loss_in_parts(encode, num_parts)(params, batch)
    assert count == num_parts
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(in_parts, vectors, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), in_parts_gradients, gradients
    )


def test_parts_of_7680_pairs_take_a_part_of_the_memory():
    """MuQ-MuLan's batch, with an encoder that is wide within."""
    params, encode = towers(2048)
    batch = batch_of(7680)
    compiled = {n: loss_in_parts(encode, n).lower(params, batch).compile() for n in (1, 32)}
    whole, parts = (compiled[n].memory_analysis().temp_size_in_bytes for n in (1, 32))
    pairs = 7680**2 * 4
    assert whole > 2 * 7680 * 2048 * 4 + pairs  # the activations of all pairs beside the similarities
    assert parts < whole - 7680 * 2048 * 4
    (found, _), _ = compiled[32](params, batch)
    (expected, _), _ = compiled[1](params, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("size", [2, 5, 33])
def test_the_original_gives_the_same_loss_and_gradients(decoupled, size, tmp_path):
    """Its loss gathers over processes, which takes a group of one here."""
    import torch

    import_original()
    from muq.muq_mulan.modules.contrastive import RankSoftmaxContrastiveLearning

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
        )
    rng = np.random.default_rng(size)
    audio, text = (unit(rng, size, 16).astype(np.float32) for _ in range(2))
    theirs = RankSoftmaxContrastiveLearning(decoupled_contrastive_learning=decoupled)
    vectors = [torch.tensor(x, requires_grad=True) for x in (audio, text)]
    value = theirs(*vectors)
    value.backward()
    loss = "decoupled" if decoupled else "infonce"
    found, gradients = jax.value_and_grad(mean_loss, argnums=(0, 1, 2))(
        jnp.asarray(audio), jnp.asarray(text), jnp.log(jnp.float32(10)), None, loss=loss
    )
    np.testing.assert_allclose(found, value.item(), rtol=1e-5)
    expected = [*(v.grad.numpy() for v in vectors), theirs.temperatures.grad.numpy().item()]
    for ours, original in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, original, atol=2e-6)


@pytest.mark.torch
def test_the_original_gives_the_same_sigmoid_loss():
    import torch

    import_original()
    from muq.muq_mulan.modules.contrastive import SigmoidContrastiveLearning

    rng = np.random.default_rng(9)
    audio, text = (unit(rng, 11, 16).astype(np.float32) for _ in range(2))
    theirs = SigmoidContrastiveLearning()
    vectors = [torch.tensor(x, requires_grad=True) for x in (audio, text)]
    value = theirs(*vectors)
    value.backward()
    found, gradients = jax.value_and_grad(mean_loss, argnums=(0, 1, 2, 3))(
        jnp.asarray(audio), jnp.asarray(text), jnp.log(jnp.float32(10)), jnp.float32(-10), loss="sigmoid"
    )
    np.testing.assert_allclose(found, value.item(), rtol=1e-5)
    parameters = (theirs.temperatures, theirs.bias)
    expected = [*(v.grad.numpy() for v in vectors), *(p.grad.numpy().item() for p in parameters)]
    for ours, original in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, original, atol=2e-6)
