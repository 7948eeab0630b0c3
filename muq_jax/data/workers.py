"""Clips converted by several processes at a time, in order, with an end to all of them."""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing.context
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from muq_jax.data.convert import Converted, Settings, convert
from muq_jax.data.manifest import Clip
from muq_jax.errors import UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def convert_all(clips: Sequence[Clip], settings: Settings, num_processes: int) -> Iterator[Converted | str]:
    """Yields `convert` of every clip, in order."""
    num_processes = min(num_processes, len(clips))
    if num_processes <= 1:
        yield from (convert(clip, settings) for clip in clips)
        return
    context = _Context()
    with concurrent.futures.ProcessPoolExecutor(num_processes, context, initializer=_follow_parent) as pool:
        waiting = iter(clips)
        try:
            with _signals_held_back():
                # A bounded queue: behind one long file, all others must not pile up in memory.
                futures = collections.deque(
                    pool.submit(convert, clip, settings)
                    for clip in itertools.islice(waiting, 4 * num_processes)
                )
            while futures:
                yield futures.popleft().result()
                futures.extend(pool.submit(convert, clip, settings) for clip in itertools.islice(waiting, 1))
        except concurrent.futures.process.BrokenProcessPool:
            # The pool waits for all, and asks by a signal that they ignore.
            for process in context.started:
                if process.is_alive():
                    process.kill()
            raise UserError(
                "a decoding process died, probably for want of memory; run again with fewer processes"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Context(multiprocessing.context.SpawnContext):
    """Starts processes anew, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[BaseProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override]
        self.started.append(super().Process(*args, **kwargs))
        return self.started[-1]


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Lets SIGINT and SIGTERM wait, here until the end, and for good in processes started meanwhile.

    One that is still importing would answer with a traceback or die, and so would one whose parent left off
    telling it what to do. The mask is inherited, but holds back this thread alone: any other of this process
    may take the signal, and Python's handler would then run here all the same.
    """
    multiprocessing.resource_tracker.ensure_running()  # its start lifts the mask
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # the only one where handlers run
        for number in _SIGNALS:
            handlers[number] = signal.signal(number, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _follow_parent() -> None:
    """Ties a worker to its parent.

    The parent alone answers Ctrl-C and SIGTERM: it waits for the few clips at work and cleans up. A worker
    that died while it sends would leave it waiting for the rest. If the parent is killed, the workers end
    with it: they would wait for clips for ever.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
