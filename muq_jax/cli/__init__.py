"""The frame of the commands: finds one, parses its arguments, and turns the outcome into an exit status.

A command is a module here with

    EXAMPLE: str                                   one line that can be copied
    def add_arguments(parser) -> None
    def run(args) -> int                           an exit status, usually DONE

and a row in `COMMANDS`. Only the module of the command asked for is imported.
"""

import argparse
import difflib
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from muq_jax import __version__
from muq_jax.errors import UserError

DONE, FAILED, WRONG_USAGE, SOME_FILES_FAILED, INTERRUPTED = 0, 1, 2, 3, 75

COMMANDS = {
    "convert": "PyTorch weights or a run to a model folder that both sides load; proved before it is written",
    "embed": "vectors of files and folders of audio, into a store that can be searched; resumable",
    "info": "configuration, sizes, metrics, health and params sha256 of a model folder or work directory",
    "prepare": "decode, resample and check audio; write shards, a manifest, statistics and a list of rejects",
    "probe": "what features are worth: MARBLE's tasks or your own labels; results, tables and a page",
    "search": "the files of a store that are nearest to a text or to a file",
    "tag": "the labels that fit audio best, by text: your own or MagnaTagATune's",
    "verify": "prove a model folder: every tensor comes back, texts differ, activations are the original's",
}

PROGRAM = "python -m muq_jax"

_interrupted: list[int] = []  # signals that have come


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; see DONE and its neighbours."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if name in ("-h", "--help"):
        print(_overview())
        return DONE
    if name == "--version":
        print(__version__)
        return DONE
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(COMMANDS)}"
        print(f"error: no command {name!r}; {hint}" if name else _overview(), file=sys.stderr)
        return WRONG_USAGE

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is written out
            stream.reconfigure(errors="backslashreplace")
    command = importlib.import_module(f"muq_jax.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {name}",
        description=COMMANDS[name],
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    args = parser.parse_intermixed_args(rest)  # options may stand between files
    args.words = [name, *rest]
    # A machine that is taken away says so by SIGTERM: end as after Ctrl-C, with everything tidied up.
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    _interrupted.clear()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            status = command.run(args)
        sys.stdout.flush()
        if _interrupted:  # where an exception cannot be raised, as in a callback of the collector
            raise KeyboardInterrupt
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on, which is no fault
        return FAILED
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("error: out of memory; a smaller batch or shorter windows need less", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, *_: object) -> None:
    _interrupted.append(number)
    raise KeyboardInterrupt


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {does}" for name, does in COMMANDS.items())
    return f"usage: {PROGRAM} COMMAND ...\n\n{rows}\n\n`{PROGRAM} COMMAND --help` shows an example."
