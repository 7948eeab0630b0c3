"""Records what host and devices do in some steps, for TensorBoard (its profile plugin) and Perfetto."""

import logging
from pathlib import Path

import jax

FOLDER = "profile"

# What is slow only once, at the beginning, is not what is asked about.
_WARM_UP_STEPS = 2

_log = logging.getLogger(__name__)


class Profile:
    """A recording of `num_steps` steps, two steps after the first one that compiles."""

    def __init__(self, workdir: Path, start: int, num_steps: int) -> None:
        """Records nothing yet.

        Args:
            workdir: the recording goes into its folder `profile`.
            start: steps done before this start of the run.
            num_steps: how many to record; 0 for none.
        """
        self._folder = workdir / FOLDER
        self._first = start + 1 + _WARM_UP_STEPS
        self._end = self._first + num_steps
        self._records = False

    def before(self, step: int) -> None:
        """To be called before a step begins."""
        if step == self._first < self._end:
            jax.profiler.start_trace(str(self._folder))
            self._records = True
        elif step == self._end:
            self.close()

    def close(self) -> None:
        """Ends the recording, if there is one."""
        if self._records:
            self._records = False
            jax.profiler.stop_trace()
            _log.info(
                "profile of %d steps in %s: open it by `tensorboard --logdir` (with its profile "
                "plugin), or its trace.json.gz at ui.perfetto.dev",
                self._end - self._first,
                self._folder,
            )
