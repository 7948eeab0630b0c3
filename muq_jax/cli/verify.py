"""`verify MODEL`."""

import argparse

from muq_jax.cli import DONE

EXAMPLE = "python -m muq_jax verify models/muq-large --against activations.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="as SRC of convert")
    parser.add_argument(
        "--against",
        metavar="ACTIVATIONS.npz",
        help="what experiments/record_activations.py recorded of the original",
    )


def run(args: argparse.Namespace) -> int:
    from muq_jax.convert.port import prove
    from muq_jax.report.text import proved

    print(f"{args.model}: {proved(prove(args.model, args.against))}")
    return DONE
