"""Commands that are run inside the tests' own process leave it as they found it."""

import logging

import pytest
from absl import logging as absl_logging


@pytest.fixture(autouse=True)
def logging_as_before():
    logger, verbosity = logging.getLogger("muq_jax"), absl_logging.get_verbosity()
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)
    absl_logging.set_verbosity(verbosity)
