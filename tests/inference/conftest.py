"""A small MuQ with random weights, and clips of different lengths."""

import numpy as np
import pytest

from experiments.original import random_tensors, upstream_config
from muq_jax.convert import muq as muq_names
from muq_jax.convert import rules
from muq_jax.inference.pretrained import MuQ
from muq_jax.models.config_json import from_upstream_json

LENGTHS = (24_000, 700, 9_961)


def random_muq(upstream):
    config = from_upstream_json(upstream)
    shapes = rules.state_dict_shapes(muq_names.muq_table(config), muq_names.template(config))
    return MuQ(config, muq_names.from_torch_names(random_tensors(shapes), config))


@pytest.fixture(scope="module")
def muq():
    return random_muq(upstream_config())


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(3)
    return [(0.2 * rng.standard_normal(n)).astype(np.float32) for n in LENGTHS]
