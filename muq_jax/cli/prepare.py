"""`prepare FOLDER_OR_MANIFEST OUT`."""

import argparse
import os

from muq_jax.cli import DONE, SOME_FILES_FAILED

EXAMPLE = "python -m muq_jax prepare ~/music runs/corpus"
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="FOLDER_OR_MANIFEST", help="a folder of audio, or a manifest (JSON Lines)"
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        help="the folder to make; if it is interrupted, the same command goes on from what is in OUT.partial",
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="that decode (default: %(default)s)"
    )
    parser.add_argument(
        "--max_rejects",
        type=float,
        default=0.5,
        help="fail if a larger share is rejected (default: %(default)s)",
    )
    parser.add_argument(
        "--min_seconds", type=float, default=0.05, help="reject shorter clips (default: %(default)s)"
    )
    parser.add_argument(
        "--piece_seconds",
        type=float,
        default=60.0,
        help="cut longer clips into equal pieces (default: %(default)s)",
    )
    parser.add_argument(
        "--codec", choices=("flac", "pcm16"), default="flac", help="pcm16: twice the size, no decoding"
    )
    parser.add_argument(
        "--channel",
        type=_channel,
        default="mean",
        help="'mean' of the channels, or the number of one (default: mean)",
    )


def run(args: argparse.Namespace) -> int:
    from muq_jax.data.prepare import Settings, prepare

    report = prepare(
        args.source,
        args.out,
        settings=Settings(args.channel, args.piece_seconds, args.codec, args.min_seconds),
        max_rejects=args.max_rejects,
        num_processes=args.processes,
    )
    what = f"{report.num_clips} clips, {report.num_pieces} pieces, {report.hours:.2f} h"
    print(f"already prepared: {report.out} ({what})" if report.already else f"prepared {report.out}: {what}")
    if report.already or not report.rejects:
        return DONE
    print(f"{len(report.rejects)} rejected, listed in {report.out / 'rejects.jsonl'}:")
    for reject in report.rejects[:_SHOWN]:
        # A name that is not in UTF-8 cannot be printed as it is.
        print(f"  {reject.path}: {reject.reason}")
    if len(report.rejects) > _SHOWN:
        print(f"  and {len(report.rejects) - _SHOWN} more")
    return SOME_FILES_FAILED


def _channel(text: str) -> str | int:
    if text == "mean" or text.isdecimal():
        return text if text == "mean" else int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither 'mean' nor the number of a channel, from 0")
