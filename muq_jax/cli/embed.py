"""`embed MODEL AUDIO... --out STORE`."""

import argparse
from collections.abc import Sequence

from muq_jax.cli import DONE, FAILED, SOME_FILES_FAILED

EXAMPLE = "python -m muq_jax embed models/muq-large ~/music --out stores/music"
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder, a work directory or an id on the hub")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="files and folders")
    parser.add_argument(
        "--out", required=True, metavar="STORE", help="the store; interrupted, the same command goes on"
    )
    parser.add_argument(
        "--layers", default="last", type=_layers, help="'last', 'all' or numbers: 0,6,12 (default: last)"
    )
    parser.add_argument(
        "--window_seconds",
        type=float,
        help="length of the windows (default: 30; MuQ-MuLan: its own); shorter is faster for short files",
    )
    parser.add_argument(
        "--pool", default="mean", help="'mean' or 'max' over a file's tokens (default: %(default)s)"
    )
    parser.add_argument("--frames", action="store_true", help="also write every token's vector")
    parser.add_argument(
        "--batch_size", type=int, help="windows embedded at a time (default: 4 a device, on a CPU 1)"
    )
    parser.add_argument("--workers", type=int, default=2, help="threads that decode (default: %(default)s)")
    parser.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="i/n", help="every n-th file, from the i-th (0 first)"
    )
    parser.add_argument(
        "--retry", action="store_true", help="also files that failed, and files that have changed"
    )


def run(args: argparse.Namespace) -> int:
    from muq_jax.inference.embed_to_store import embed_to_store

    done = embed_to_store(
        args.model,
        args.audio,
        args.out,
        layers=args.layers,
        window_seconds=args.window_seconds,
        pool=args.pool,
        frames=args.frames,
        batch_size=args.batch_size,
        workers=args.workers,
        shard=args.shard,
        retry=args.retry,
    )
    what = f"{done.embedded} files in {done.store}"
    print(f"embedded: {what}" if done.new else f"already embedded: {what}")
    if done.others:
        print(
            f"{len(done.others)} were left alone: the store has other files, or earlier ones, of these names:"
        )
        _show(done.others)
        print("Give another store, or replace what it holds: --retry.")
    if done.failures:
        earlier = "" if done.new else " earlier; --retry tries again"
        print(f"{len(done.failures)} failed, listed in {done.store / 'failures.jsonl'}{earlier}:")
        _show([f"{failure.id}: {failure.reason}" for failure in done.failures])
    if done.new and not done.embedded:
        return FAILED
    return SOME_FILES_FAILED if done.others or (done.new and done.failures) else DONE


def _show(lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        print(f"  {line}")
    if len(lines) > _SHOWN:
        print(f"  and {len(lines) - _SHOWN} more")


def _layers(text: str) -> str | list[int]:
    if text in ("last", "all"):
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'last', 'all' nor numbers: 0,6,12") from None


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not i/n with i from 0 to n - 1, such as 0/8")
    return int(index), int(count)
