import json
import logging
import os
import queue

import pytest

from muq_jax.train import watchdog
from muq_jax.train.watchdog import Watchdog


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


class MemoryBoard:
    """Where other hosts have written what they are doing."""

    def __init__(self, **hosts):
        self.texts = {int(name.removeprefix("host")): json.dumps(doing) for name, doing in hosts.items()}

    def write(self, host, text):
        self.texts[host] = text

    def read(self):
        return self.texts


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ends():
    return []


def test_progress_is_left_alone_and_a_halt_ends_the_process(clock, ends, caplog):
    dog = Watchdog(100, end=ends.append, clock=clock)
    for step in range(1, 9):
        dog.doing("training", step)
        clock.seconds += 24
        dog.look()
    assert not ends and not caplog.records
    clock.seconds += 76
    dog.look()
    assert ends == [
        "host 0: no progress for 100 s, training, step 8. Ending this process; run the same command again to "
        "go on."
    ]


def test_it_warns_once_of_each_halt(clock, ends, caplog):
    dog = Watchdog(100, end=ends.append, clock=clock)
    for step in (1, 2):
        dog.doing("waiting for data", step)
        for _ in range(3):
            clock.seconds += 25
            dog.look()
    assert not ends
    assert [record.getMessage() for record in caplog.records] == [
        f"host 0: no progress for 25 s, waiting for data, step {step}. This process will end at 100 s "
        "(train.timeout_seconds)"
        for step in (1, 2)
    ]


def test_the_hosts_that_are_behind_are_named_first(clock, ends):
    board = MemoryBoard(
        host1=["training", 7, 99.0], host2=["waiting for data", 6, 98.0], host3=["waiting for data", 7, 97.0]
    )
    dog = Watchdog(100, board=board, end=ends.append, clock=clock)
    dog.doing("training", 7)
    clock.seconds = 100
    dog.look()
    named = "; host 2: waiting for data for 98 s, step 6; host 3: waiting for data for 97 s, step 7. Ending"
    assert named in ends[0] and "host 1" not in ends[0]
    assert json.loads(board.texts[0]) == ["training", 7, 100.0], "and the others can read where this one is"


def test_a_host_that_fails_leaves_word():
    board = MemoryBoard()
    with pytest.raises(ValueError), Watchdog(100, board=board) as dog:
        dog.doing("training", 7)
        raise ValueError
    assert json.loads(board.texts[0]) == ["failed (ValueError)", 7, 0.0]


@pytest.mark.parametrize(
    "said, ended", [("UNKNOWN: Gloo AllGather failed: Connection reset by peer", 1), ("x", 0)]
)
def test_a_host_that_is_gone_is_no_failure_of_this_one(ends, said, ended):
    board = MemoryBoard(host1=["failed (UserError)", 7, 0.0])
    with pytest.raises(ValueError), Watchdog(100, board=board, end=ends.append) as dog:
        dog.doing("training", 8)
        raise ValueError(said)
    assert len(ends) == ended
    assert (
        not ended or f"another host is gone ({said}), training, step 8; host 1: failed (UserError)" in ends[0]
    )


def test_hosts_that_wait_together_are_said_to(clock, ends):
    dog = Watchdog(100, board=MemoryBoard(host1=["training", 7, 99.0]), end=ends.append, clock=clock)
    dog.doing("training", 7)
    clock.seconds = 100
    dog.look()
    assert "; the other hosts are in the same place. Ending" in ends[0]


def test_a_coordinator_that_is_gone_stops_no_clock(clock, ends):
    class Gone(MemoryBoard):
        def write(self, host, text):
            raise RuntimeError("UNAVAILABLE: failed to connect")

    dog = Watchdog(100, board=Gone(), end=ends.append, clock=clock)
    dog.doing("training", 7)
    dog.look()
    clock.seconds = 100
    dog.look()
    assert len(ends) == 1 and "; the coordinator does not answer (UNAVAILABLE" in ends[0]


def test_a_thread_looks_until_it_is_left():
    ended = queue.Queue()
    with Watchdog(0.02, end=ended.put) as dog:
        dog.doing("saving", 3)
        assert "saving, step 3" in ended.get(timeout=60)
    assert not dog._thread.is_alive()


def test_the_exit_status_is_one_to_start_again_on(monkeypatch, caplog):
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    watchdog.end_process("host 0: no progress")
    assert statuses == [75] and "no progress" in caplog.text
