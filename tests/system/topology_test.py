"""One device and eight, a whole batch and micro-batches, jit and pmap: the same MuQ learns the same."""

import jax
import numpy as np
import pytest

from experiments import build
from experiments.configs import muq
from muq_jax import parallel
from muq_jax.train.optim import make_optimizer
from muq_jax.train.state import abstract_state, init_state
from muq_jax.train.step import jit_train_step, make_train_step, pmap_train_step

STEPS = 3


@pytest.fixture(scope="module")
def config():
    config = muq.get_config("smoke")
    config.targets.name = "random_projection"
    config.data.batch_size, config.data.crop_seconds = 16, 0.8
    # The heads are large enough to be split over the devices of a copy.
    config.model.num_books, config.model.num_codes = 4, 512
    return config


def batches(config):
    rng = np.random.default_rng(0)
    samples = round(config.data.crop_seconds * 24_000)
    for _ in range(STEPS):
        wave = rng.standard_normal((16, samples)).astype(np.float32)
        num_samples = rng.integers(samples // 2, samples + 1, 16).astype(np.int32)
        wave *= np.arange(samples) < num_samples[:, None]
        yield {"wave": wave, "num_samples": num_samples, "row": np.arange(16, dtype=np.int32)}


def losses(config, mesh):
    """Returns the losses of the first steps and the largest share of a parameter that one device holds."""
    trainee = build.make_trainee(config, None)
    optimizer = make_optimizer(build.optim_config(config))
    found = []
    with jax.set_mesh(mesh):
        state = init_state(trainee.objective, optimizer, mesh, jax.random.key(0))
        step = jax.jit(make_train_step(trainee.objective, optimizer, accumulate=config.optim.accumulate))
        for batch in batches(config):
            state, output = step(state, parallel.put_batch(batch, mesh), jax.random.key(1))
            found.append(float(output.loss))
    kernel = state.params["head"]["kernel"]
    return np.array(found), kernel.addressable_shards[0].data.size / kernel.size


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_eight_devices_learn_what_one_learns(config, accumulate):
    config.optim.accumulate = accumulate
    one, whole = losses(config, parallel.make_mesh(1, 1, devices=jax.devices()[:1]))
    eight, share = losses(config, parallel.make_mesh(2, 4))
    assert whole == 1.0 and share == 0.25
    assert one[-1] < one[0]
    np.testing.assert_allclose(eight, one, rtol=2e-5)


@pytest.mark.slow
def test_micro_batches_mask_the_same_tokens(config):
    """The first loss, before any update: BatchNorm sees other rows, so it is near and not equal."""
    mesh = parallel.make_mesh(1, 1, devices=jax.devices()[:1])
    config.model.conformer.update({name: 0.0 for name in config.model.conformer if name.endswith("dropout")})
    config.optim.accumulate = 1
    whole, _ = losses(config, mesh)
    config.optim.accumulate = 2
    parts, _ = losses(config, mesh)
    np.testing.assert_allclose(parts[0], whole[0], rtol=0.02)


@pytest.mark.slow
def test_pmap_of_the_same_step_learns_the_same(config):
    config.model.conformer.update({name: 0.0 for name in config.model.conformer if name.endswith("dropout")})
    of_a_device = build.make_trainee(config, None).objective
    config.model.conformer.batch_norm_groups = 8
    objective, optim = build.make_trainee(config, None).objective, build.optim_config(config)
    mesh, optimizer = parallel.make_mesh(8, 1), make_optimizer(optim)
    with jax.set_mesh(mesh):
        state = init_state(objective, optimizer, mesh, jax.random.key(0))
        abstract = abstract_state(objective, optimizer, mesh)
        jitted = jit_train_step(objective, optim, abstract, mesh)
        copies = jax.tree.map(lambda a: np.broadcast_to(np.asarray(a), (8, *a.shape)), state)
    pmapped = pmap_train_step(of_a_device, optim)
    key = jax.random.key(1)
    for batch in batches(config):
        with jax.set_mesh(mesh):
            state, output = jitted(state, parallel.put_batch(batch, mesh), key)
        parts = {name: rows.reshape(8, 2, *rows.shape[1:]) for name, rows in batch.items()}
        copies, outputs = pmapped(copies, parts, key)
        mapped = jax.tree.map(lambda a: np.asarray(a)[0], outputs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), mapped, jax.device_get(output))
    for ours, mapped in zip(jax.tree.leaves(jax.device_get(state)), jax.tree.leaves(copies), strict=True):
        mapped = np.asarray(mapped)
        assert (mapped == mapped[:1]).all(), "every device has the same copy"
        np.testing.assert_allclose(mapped[0], ours, rtol=1e-4, atol=1e-5)
