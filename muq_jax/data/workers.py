"""Clips converted by several processes at a time, in order, with an end to all of them."""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess

from muq_jax.data.convert import Converted, Settings, convert
from muq_jax.data.manifest import Clip
from muq_jax.errors import UserError


def convert_all(clips: Sequence[Clip], settings: Settings, num_processes: int) -> Iterator[Converted | str]:
    """Yields `convert` of every clip, in order."""
    num_processes = min(num_processes, len(clips))
    if num_processes <= 1:
        yield from (convert(clip, settings) for clip in clips)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_processes, context, initializer=_follow_parent) as pool:
        waiting = iter(clips)
        workers: Sequence[BaseProcess] = ()
        try:
            with _signals_held_back():
                # A bounded queue: behind one long file, all others must not pile up in memory.
                futures = collections.deque(
                    pool.submit(convert, clip, settings)
                    for clip in itertools.islice(waiting, 4 * num_processes)
                )
                workers = multiprocessing.active_children()
            while futures:
                yield futures.popleft().result()
                futures.extend(pool.submit(convert, clip, settings) for clip in itertools.islice(waiting, 1))
        except concurrent.futures.process.BrokenProcessPool:
            pool.shutdown(wait=True)
            # The pool ends the others by SIGTERM: if all ended so, the first was told to end, as we shall be.
            if workers and all(worker.exitcode == -signal.SIGTERM for worker in workers):
                raise KeyboardInterrupt from None
            raise UserError(
                "a decoding process died, probably for want of memory; run again with fewer processes"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Lets SIGINT and SIGTERM wait until the end, and SIGINT for good in processes started meanwhile.

    A process that is still importing would answer Ctrl-C with a traceback; so would one whose parent left
    off telling it what to do. The mask is inherited, but holds back this thread alone: any other of the
    process may take the signal, and Python's handler would then run here all the same.
    """
    multiprocessing.resource_tracker.ensure_running()  # its start lifts the mask
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # the only one where handlers run
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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

    The parent alone answers Ctrl-C: it waits for the few clips at work and cleans up. If it is killed, the
    workers end with it: they would wait for clips for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
