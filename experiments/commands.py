"""What the commands of this folder share: how they log, how they end, how they write down their settings."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from muq_jax.cli import DONE, FAILED, INTERRUPTED, WRONG_USAGE
from muq_jax.errors import UserError, is_full_disk

CONFIG = config_flags.DEFINE_config_file("config", help_string="FILE.py:VARIANT", lock_config=True)
"""The flag that names a configuration; a command that has it says `flags.declare_key_flag("config")`."""


def set_up_logging(line: str) -> None:
    """Shows what `muq_jax` logs, in this format, and of the libraries nothing."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(line, "%H:%M:%S"))
    logger = logging.getLogger("muq_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # Orbax logs a traceback for each thread that a failed save passes through; the failure itself is raised
    # to us.
    absl_logging.set_verbosity(absl_logging.FATAL)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """A parser for `app.run` that ends with one line and `WRONG_USAGE` where a flag is wrong."""
    try:
        rest = flags.FLAGS(argv)
        # A configuration file that could not be loaded says so only when something of it is read.
        getattr(CONFIG.value, "seed", None)
        return rest
    except SystemExit:  # --help and its kin, which absl ends as a failure
        sys.exit(DONE)
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        print(f"error: {_last_words(error)}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


def _last_words(error: Exception) -> str:
    """Returns what config_flags means: it puts the traceback of a configuration file into the message."""
    cause: Any = error
    while isinstance(cause, BaseException) and cause.args:
        cause = cause.args[0] if not isinstance(cause, OSError) else str(cause)
    text = str(cause).strip()
    if isinstance(error, AttributeError) and isinstance(error.__context__, KeyError):
        option, *hint = text.splitlines()
        text = " ".join([f"the configuration has no option {option}.", *hint])
    if "Traceback (most recent call last)" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def run_command(work: Callable[[], int], workdir: Path) -> int:
    """Does a command's work and returns its exit status; where it ends early, says why and how to go on."""
    # Before the training loop has its own handlers, SIGTERM ends the work as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as error:
        if is_full_disk(error):
            what = f"the disk is full ({error}). Make room and run the same command again."
        elif str(error).startswith("RESOURCE_EXHAUSTED"):  # XLA's word, on every kind of device
            what = (
                f"out of memory ({str(error).splitlines()[0]}). Lower data.batch_size or data.crop_seconds, "
                "or, where the configuration has it, raise optim.accumulate."
            )
        else:
            raise
        print(f"error: {workdir}: {what}", file=sys.stderr)
        return FAILED
    finally:
        signal.signal(signal.SIGTERM, before)
    if status == INTERRUPTED:
        print("interrupted; run the same command again to go on", file=sys.stderr)
    return status


def write_json(path: Path, content: Any) -> None:
    """Writes a file whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
