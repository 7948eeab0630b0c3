import os
import signal
import threading

import jax
import pytest

from muq_jax.train import stopping
from muq_jax.train.stopping import stops

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def heard():
    """Returns the signals that reach the program's own handlers."""
    came = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in BOTH}
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_stops_the_run_and_a_second_one_is_the_program_s(heard, number):
    with stops() as is_to_stop:
        assert not is_to_stop()
        os.kill(os.getpid(), number)
        assert is_to_stop() and heard == []
        os.kill(os.getpid(), number)
        assert heard == [number]
    os.kill(os.getpid(), number)
    assert heard == [number, number]


def test_a_signal_after_the_last_step_is_not_lost(heard):
    with stops() as is_to_stop:
        assert not is_to_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == []
    assert heard == [signal.SIGTERM]


def test_a_thread_leaves_signals_alone():
    answers = []

    def run():
        with stops() as is_to_stop:
            answers.append(is_to_stop())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert answers == [False]


def test_several_hosts_count_their_questions_over_all_runs(monkeypatch, heard):
    """tests/system/hosts_test.py has SIGTERM act, which then is `jax.distributed`'s."""
    counted = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        stopping.multihost_utils,
        "reached_preemption_sync_point",
        lambda count: counted.append(count) or False,
    )
    handlers = [signal.getsignal(number) for number in BOTH]
    for questions in (2, 3):
        with stops() as is_to_stop:
            assert [signal.getsignal(number) for number in BOTH] == handlers
            assert not any(is_to_stop() for _ in range(questions))
    assert counted == list(range(counted[0], counted[0] + 5))
