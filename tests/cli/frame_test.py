"""What every command does with a signal, a full disk and too little memory."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from muq_jax import cli
from muq_jax.cli import FAILED, INTERRUPTED, main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(monkeypatch):
    """Returns a function that has `info` do something."""
    from muq_jax.cli import info

    return lambda run: monkeypatch.setattr(info, "run", run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_nobody_heard_ends_in_the_status_of_an_interruption(command, capsys, number):
    def run(args):
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            pass  # as in a callback, out of which no exception comes
        return 0

    command(run)
    assert main(["info", "x"]) == INTERRUPTED
    assert "interrupted; run the same command again" in capsys.readouterr().err
    command(lambda args: 0)
    assert main(["info", "x"]) == 0
    assert signal.getsignal(signal.SIGTERM) is not cli._interrupt


@pytest.mark.parametrize(
    "error, says",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "error: .*No space left"),
        (MemoryError(), "error: out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "error: out of memory"),
    ],
)
def test_what_a_machine_lacks_is_one_line(command, capsys, error, says):
    def run(args):
        raise error

    command(run)
    assert main(["info", "x"]) == FAILED
    import re

    assert re.match(says, printed := capsys.readouterr().err) and printed.count("\n") == 1


def test_other_errors_of_ours_are_not_hidden(command):
    def run(args):
        raise RuntimeError("a bug")

    command(run)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["info", "x"])


def test_output_that_nobody_reads_or_holds_is_no_traceback():
    help_of_all = [sys.executable, "-m", "muq_jax", "info", "nowhere"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(help_of_all, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == FAILED and "Traceback" not in done.stderr
