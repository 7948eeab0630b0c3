"""`info MODEL`."""

import argparse

from muq_jax.cli import DONE

EXAMPLE = "python -m muq_jax info runs/muq"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder, or the work directory of a run")


def run(args: argparse.Namespace) -> int:
    from muq_jax.report.text import describe

    print(describe(args.model))
    return DONE
