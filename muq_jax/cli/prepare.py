"""`prepare FOLDER_OR_MANIFEST OUT`, and `prepare --check OUT`."""

import argparse
import os

from muq_jax.cli import DONE, FAILED, SOME_FILES_FAILED

EXAMPLE = "python -m muq_jax prepare ~/music runs/corpus"
_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        metavar="FOLDER_OR_MANIFEST",
        help="a folder of audio, or a manifest (JSON Lines); gs://... too, as OUT",
    )
    parser.add_argument(
        "out",
        nargs="?",
        metavar="OUT",
        help="the folder to make; if it is interrupted, the same command goes on from what is in OUT.partial",
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="only every N-th clip, from the I-th on (0/N to N-1/N); the last of N such runs joins them",
    )
    parser.add_argument(
        "--beam",
        type=int,
        metavar="N",
        help="N parts on the workers of Apache Beam (extra `beam`), which see source and OUT as named here",
    )
    parser.add_argument(
        "--beam_options",
        default="",
        metavar="OPTIONS",
        help='Beam\'s own, as in --beam_options="--runner=FlinkRunner --parallelism=8"',
    )
    parser.add_argument(
        "--check",
        metavar="OUT",
        help="instead: read OUT back, and name what is damaged (exit status 1) or say that it is whole",
    )
    parser.set_defaults(wrong_usage=parser.error)
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
    if args.check:
        if args.source:
            args.wrong_usage("--check takes OUT alone")
        return _check(args)
    if not args.out:
        args.wrong_usage("FOLDER_OR_MANIFEST and OUT are required")
    if (args.beam and args.shard) or (args.beam_options and not args.beam):
        args.wrong_usage("--beam N makes all parts, --shard I/N one; --beam_options goes with --beam")
    return _prepare(args)


def _check(args: argparse.Namespace) -> int:
    from muq_jax.data.check import check

    checked = check(args.check, num_threads=args.processes)
    if not checked.damage:
        print(f"{args.check} is whole: {checked.num_records} records in {checked.num_shards} shards")
        return DONE
    _print_some(f"{args.check}: {len(checked.damage)} damaged:", checked.damage)
    return FAILED


def _prepare(args: argparse.Namespace) -> int:
    from muq_jax.data.prepare import Settings, prepare
    from muq_jax.data.prepare_beam import prepare_on_beam
    from muq_jax.data.slices import Slice

    settings = Settings(args.channel, args.piece_seconds, args.codec, args.min_seconds)
    if args.beam:
        report = prepare_on_beam(
            args.source,
            args.out,
            num_parts=args.beam,
            beam_options=args.beam_options,
            settings=settings,
            max_rejects=args.max_rejects,
        )
    else:
        report = prepare(
            args.source,
            args.out,
            settings=settings,
            max_rejects=args.max_rejects,
            num_processes=args.processes,
            part=Slice(*args.shard) if args.shard else None,
        )
    what = f"{report.num_clips} clips, {report.num_pieces} pieces, {report.hours:.2f} h"
    print(f"already prepared: {report.out} ({what})" if report.already else f"prepared {report.out}: {what}")
    if report.missing:
        few = ", ".join(f"--shard {part}" for part in report.missing[:3])
        more = f" and {len(report.missing) - 3} more" if len(report.missing) > 3 else ""
        print(f"still to come: {few}{more}; the last one joins them")
    if report.already or not report.rejects:
        return DONE
    rejects = [f"{reject.path}: {reject.reason}" for reject in report.rejects]
    _print_some(f"{len(rejects)} rejected, listed in {report.out / 'rejects.jsonl'}:", rejects)
    return SOME_FILES_FAILED


def _print_some(title: str, lines: list[str]) -> None:
    print(title)
    for line in lines[:_SHOWN]:
        print(f"  {line}")
    if len(lines) > _SHOWN:
        print(f"  and {len(lines) - _SHOWN} more")


def _shard(text: str) -> tuple[int, int]:
    index, _, of = text.partition("/")
    if index.isdecimal() and of.isdecimal() and int(index) < int(of):
        return int(index), int(of)
    raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N-1, such as 0/16 to 15/16")


def _channel(text: str) -> str | int:
    if text == "mean" or text.isdecimal():
        return text if text == "mean" else int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither 'mean' nor the number of a channel, from 0")
