"""Whether a run is to stop: SIGINT or SIGTERM has come, on this host or, where there are several, on any."""

import itertools
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

_log = logging.getLogger(__name__)

# Hosts that are told to stop agree on the number of the call after which they do, one more than the highest
# that any of them has reached: a number that is left out is a signal lost. So calls are counted, from the
# first one of the process and over all its runs; a run's steps begin anywhere.
_calls = itertools.count(1)


@contextmanager
def stops() -> Iterator[Callable[[], bool]]:
    """Gives a function to be called after every step, by all hosts alike, which says whether to stop.

    A second signal acts as usual, and so does one that came too late to be asked for. Of several hosts one
    that has SIGTERM is enough: they stop after the same step; Ctrl-C ends them at once.
    """
    if jax.process_count() > 1:
        # SIGTERM has the handler of `jax.distributed`, without which no host would learn of it.
        yield lambda: multihost_utils.reached_preemption_sync_point(next(_calls))
        return
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield lambda: False
        return
    came: list[int] = []
    asked = False
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, frame: Any) -> None:
        came.append(number)
        restore()
        _log.warning("%s: saving after this step, then stopping", signal.Signals(number).name)

    def stop() -> bool:
        nonlocal asked
        asked = bool(came)
        return asked

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
    if came and not asked:
        signal.raise_signal(came[0])
