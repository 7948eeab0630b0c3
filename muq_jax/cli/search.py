"""`search STORE --text T` or `--audio FILE`."""

import argparse
import dataclasses
import json

from muq_jax.cli import DONE

EXAMPLE = 'python -m muq_jax search stores/music --model models/mulan --text "a slow piano piece"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", nargs="+", help="of embed; several are searched as one")
    parser.add_argument("--text", help="what to look for, in a store of a MuQ-MuLan")
    parser.add_argument("--audio", metavar="FILE", help="an example: a name in the store, or a file")
    parser.add_argument("--model", help="what made the store; not needed for an example that is in it")
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json, where the model has none")
    parser.add_argument(
        "--layer", type=int, help="the layer to compare, in a store with several (default: its last)"
    )
    parser.add_argument("-k", "--k", type=int, default=10, help="how many matches (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a line of JSON a match")


def run(args: argparse.Namespace) -> int:
    from muq_jax.inference.search import search

    matches = search(
        args.store,
        text=args.text,
        audio=args.audio,
        model=args.model,
        tokenizer=args.tokenizer,
        layer=args.layer,
        k=args.k,
    )
    for match in matches:
        if args.json:
            print(json.dumps(dataclasses.asdict(match)))
        else:
            print(f"{match.score:7.4f}  {match.id}")
    return DONE
