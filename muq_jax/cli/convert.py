"""`convert SRC DST`."""

import argparse

from muq_jax.cli import DONE

EXAMPLE = "python -m muq_jax convert ~/MuQ-large-msd-iter models/muq-large"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a folder with config.json and PyTorch weights, a file of weights in one, a run's work "
        "directory, or an id on the hub",
    )
    parser.add_argument("destination", metavar="DST", help="the model folder to write")
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="a MuQ-MuLan's tokenizer.json, or an id on the hub"
    )
    parser.add_argument(
        "--licence", metavar="NAME", help="of the weights, for the card: cc-by-nc-4.0 (default: the source's)"
    )
    parser.add_argument(
        "--against",
        metavar="ACTIVATIONS.npz",
        help="what experiments/record_activations.py recorded of the original; what differs is not written",
    )


def run(args: argparse.Namespace) -> int:
    from muq_jax.convert.port import port
    from muq_jax.report.text import proved

    report = port(
        args.source,
        args.destination,
        tokenizer=args.tokenizer,
        activations=args.against,
        licence=args.licence,
    )
    print(f"{args.destination}: {proved(report)}")
    return DONE
