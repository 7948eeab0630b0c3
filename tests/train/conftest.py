"""A two-parameter regression as an objective, with everything that the training step has to look after."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muq_jax.objectives.metric import Mean
from muq_jax.objectives.objective import LossOutput

WIDTH = 16


@dataclasses.dataclass(frozen=True)
class Regression:
    """Predicts 3 mean(wave) + 1 from mean(wave) plus noise drawn by row; every row weighs its samples."""

    noise: float = 0.1
    replaces: bool = False

    def init(self, key):
        return {"slope": jax.random.normal(key, (WIDTH,)), "offset": jnp.zeros(())}, {
            "batches": jnp.zeros(())
        }

    def loss(self, params, model_state, batch, key, *, train):
        weight = batch["num_samples"].astype(jnp.float32)
        x = batch["wave"]
        noise = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row)))(batch["row"])
        error = x @ params["slope"] / WIDTH + params["offset"] + self.noise * noise - (3 * x.mean(-1) + 1)
        total = weight.sum()
        loss = jnp.where(total > 0, (weight * error**2).sum() / jnp.where(total > 0, total, 1.0), 0.0)
        new_state = {"batches": model_state["batches"] + 1} if train else model_state
        metrics = {"absolute": Mean((weight * jnp.abs(error)).sum(), total)}
        updates = {"offset": jnp.float32(100)} if self.replaces and train else None
        return LossOutput(loss, total, new_state, metrics, updates, None if train else {"error": error})

    def replace(self, params, updates):
        return {**params, "offset": updates["offset"]} if updates else params


def make_batch(step: int, size: int = 16, *, broken: bool = False) -> dict:
    """Returns batch `step`, a function of the step alone."""
    rng = np.random.default_rng(step)
    wave = rng.standard_normal((size, WIDTH)).astype(np.float32)
    if broken:
        wave[3] = np.nan
    return {
        "wave": wave,
        "num_samples": rng.integers(1, WIDTH + 1, size).astype(np.int32),
        "row": np.arange(size, dtype=np.int32),
        "id": [f"clip{step}-{row}" for row in range(size)],
    }


class Batches:
    """An endless stream of `make_batch`, as data.pipeline's."""

    def __init__(self, start: int, broken_steps=()):
        self.step, self.broken_steps, self.closed = start, broken_steps, False

    def __iter__(self):
        return self

    def __next__(self):
        self.step += 1
        return make_batch(self.step, broken=self.step in self.broken_steps)

    def close(self):
        self.closed = True


@pytest.fixture(scope="session")
def regression():
    return Regression


@pytest.fixture(scope="session")
def batch_of():
    return make_batch


@pytest.fixture(scope="session")
def batches_from():
    return Batches
