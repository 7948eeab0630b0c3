"""Ends a process that makes no progress any more, after saying which host holds the others up.

A host that waits for another one inside a collective operation can neither be interrupted nor raise: it would
wait for ever, and a job that hangs costs as much as one that trains.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import jax

WARN_AFTER = 0.25
"""The share of the timeout after which a host that makes no progress says so."""

_SHOWN = 8

# What is raised where the network tells that the other end is gone. A TPU's does not: there it is a halt.
_LOST_HOST = re.compile(r"Gloo \w+ failed|NCCL.*(remote process|connection)|Connection (reset|closed)", re.I)

_log = logging.getLogger(__name__)


class Board(Protocol):
    """Where hosts read what each one is doing."""

    def write(self, host: int, text: str) -> None: ...

    def read(self) -> dict[int, str]: ...


class CoordinatorBoard:
    """A board at the coordinator of `jax.distributed`, which answers while all devices wait."""

    def __init__(self) -> None:
        # JAX has no public name for its key-value store; Orbax reaches it in the same way.
        from jax._src import distributed

        self._client: Any = distributed.global_state.client

    def write(self, host: int, text: str) -> None:
        self._client.key_value_set(f"muq_jax/doing/{host}", text, allow_overwrite=True)

    def read(self) -> dict[int, str]:
        return {
            int(key.rpartition("/")[2]): text
            for key, text in self._client.key_value_dir_get("muq_jax/doing/")
        }


class Watchdog:
    """Watches one process, in a thread of its own; `doing` tells it that there is progress."""

    def __init__(
        self,
        timeout_seconds: float,
        *,
        board: Board | None = None,
        end: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins to watch when it is entered.

        Args:
            timeout_seconds: without progress for so long, the process ends.
            board: where the other hosts are; by default at the coordinator, where there are several.
            end: what happens then; by default an error in the log and exit status 75, on which a scheduler
                starts the job again.
            clock: in seconds.
        """
        self._timeout, self._end, self._clock = timeout_seconds, end or end_process, clock
        self._board = board or (CoordinatorBoard() if jax.process_count() > 1 else None)
        self._host = jax.process_index()
        self._now = ("starting", 0, clock())  # replaced as one, so that the thread never sees half of it
        self._warned_of: tuple[str, int, float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def doing(self, what: str, step: int) -> None:
        """Notes progress: what this host begins now."""
        self._now = (what, step, self._clock())

    def look(self) -> None:
        """Tells the others what this host is doing; warns or ends the process where it has been too long."""
        what, step, since = now = self._now
        seconds = self._clock() - since
        halted = seconds >= WARN_AFTER * self._timeout
        others = ""
        if self._board is not None:
            try:
                self._board.write(self._host, json.dumps([what, step, seconds]))
                others = self._others(self._board, what, step) if halted else ""
            except RuntimeError as error:  # it may have died with its host: this one's clock goes on
                others = f"; the coordinator does not answer ({error})"
        if not halted:
            return
        said = f"host {self._host}: no progress for {seconds:.0f} s, {what}, step {step}{others}"
        if seconds >= self._timeout:
            self._end(f"{said}. Ending this process; run the same command again to go on.")
        elif self._warned_of != now:
            self._warned_of = now
            _log.warning("%s. This process will end at %g s (train.timeout_seconds)", said, self._timeout)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None or self._board is None:
            return
        what, step, _ = self._now
        others = ""
        with suppress(RuntimeError):
            # The other hosts will wait for this one.
            self._board.write(self._host, json.dumps([f"failed ({kind.__name__})", step, 0.0]))
            others = self._others(self._board, what, step)
        if _LOST_HOST.search(str(error)):
            reason = str(error).splitlines()[0]
            self._end(
                f"host {self._host}: another host is gone ({reason}), {what}, step {step}{others}. Ending "
                "this process; run the same command again to go on."
            )

    def _watch(self) -> None:
        while not self._stop.wait(min(self._timeout / 20, 10.0)):
            self.look()

    def _others(self, board: Board, what: str, step: int) -> str:
        """Which hosts are elsewhere, those that are furthest behind first."""
        hosts = {host: json.loads(text) for host, text in board.read().items() if host != self._host}
        elsewhere = [
            f"host {host}: {there} for {seconds:.0f} s, step {number}"
            for host, (there, number, seconds) in sorted(hosts.items(), key=lambda item: item[1][1])
            if (there, number) != (what, step)
        ]
        if not elsewhere:
            return "; the other hosts are in the same place"
        return f"; {'; '.join(elsewhere[:_SHOWN])}{'; ...' if len(elsewhere) > _SHOWN else ''}"


def end_process(said: str) -> None:
    """Logs an error and ends the process at once, with a status on which a scheduler starts it again."""
    _log.error(said)
    logging.shutdown()
    os._exit(os.EX_TEMPFAIL)
