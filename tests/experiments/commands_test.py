import errno
import json
import logging
import os
import resource
import signal

import jax
import pytest
from absl import logging as absl_logging

from experiments import commands
from muq_jax.cli import DONE, FAILED, INTERRUPTED
from muq_jax.errors import UserError


def fails_with(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    "work, status, said",
    [
        (lambda: DONE, DONE, ""),
        (fails_with(UserError("no such folder")), FAILED, "error: no such folder\n"),
        (fails_with(KeyboardInterrupt()), INTERRUPTED, "run the same command again"),
        (lambda: INTERRUPTED, INTERRUPTED, "run the same command again"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), INTERRUPTED, "run the same command again"),
        (fails_with(OSError(errno.ENOSPC, "No space")), FAILED, "the disk is full"),
        (
            fails_with(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB\nat")),
            FAILED,
            "memory (RESOURCE_EXHAUSTED: 9 GiB). Lower data.batch_size",
        ),
    ],
    ids=["done", "mistake", "Ctrl-C", "saved and stopped", "SIGTERM", "full disk", "full memory"],
)
def test_how_a_command_ends(work, status, said, tmp_path, capsys):
    handler = signal.getsignal(signal.SIGTERM)
    assert commands.run_command(work, tmp_path) == status
    assert said in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handler


def test_our_own_mistakes_keep_their_traceback(tmp_path):
    with pytest.raises(PermissionError):
        commands.run_command(fails_with(PermissionError(errno.EACCES, "denied")), tmp_path)


def test_only_our_own_lines_are_logged(capsys, caplog):
    commands.set_up_logging("  %(message)s")
    logging.getLogger("muq_jax.train").info("step 1")
    absl_logging.error("Traceback of a thread of Orbax")
    assert capsys.readouterr().err == "  step 1\n"
    assert caplog.text == ""


def test_a_file_that_does_not_fit_leaves_the_one_before(tmp_path):
    path = tmp_path / "settings.json"
    commands.write_json(path, {"steps": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError):
            commands.write_json(path, {"steps": 2, "summary": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert json.loads(path.read_text()) == {"steps": 1}
