"""From audio files to shards that training reads: decoded once, resampled and checked.

OUT holds

    shard-00000.array_record ...   pieces of at most a minute, mono at 24 kHz (see shards.py)
    manifest.jsonl                 a row a clip, in the order of their records: `path` is its shard,
                                   `num_pieces` its records, `original` the file it came from; labels are
                                   carried over
    stats.json                     mean, std and count of the mel values in dB; the settings; clips and hours
    rejects.jsonl                  id, path and reason of every clip that was left out

Everything is written into OUT.partial and renamed at the end, so OUT is there whole or not at all.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from muq_jax.audio.decode import SAMPLE_RATE_HZ, Channel, audio_info, load_audio
from muq_jax.data.manifest import Clip, read_manifest, scan_folder, write_manifest
from muq_jax.data.shards import CODECS, SHARD_SUFFIX, ShardWriter, encode_record
from muq_jax.data.statistics import MelMoments
from muq_jax.errors import UserError

# What 16 bits round to zero.
_SILENT_PEAK = 2.0**-16
# Encoders pad by up to 50 ms (MP3, AAC), which tools count or not; a length further off is a mistake.
_SLACK_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the bytes of the shards.

    Attributes:
      channel: "mean" of all channels, or the number of one (upstream trained on single channels).
      piece_seconds: longer clips are cut into equal pieces of at most this; so a piece of a long clip is
        never shorter than half of it, and a 30 s crop of a default piece is a full one.
      codec: "flac" or "pcm16".
      min_seconds: shorter clips are rejected.
    """

    channel: Channel = "mean"
    piece_seconds: float = 60.0
    codec: str = "flac"
    min_seconds: float = 0.05


@dataclasses.dataclass(frozen=True)
class Reject:
    """A clip that was left out, and why."""

    id: str
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What is in OUT. `already` is True if an earlier run made it and this one changed nothing."""

    out: Path
    num_clips: int
    num_pieces: int
    hours: float
    rejects: list[Reject]
    already: bool = False


@dataclasses.dataclass(frozen=True)
class _Converted:
    records: list[bytes]
    num_samples: int
    moments: MelMoments


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    settings: Settings | None = None,
    max_rejects: float = 0.5,
    num_processes: int = 1,
) -> Report:
    """Prepares a folder of audio, or the files of a manifest, for training.

    The bytes written do not depend on the number of processes.

    Args:
      source: a folder, or a manifest (JSON Lines).
      out: the folder to make. If an earlier run with this source and these settings made it, nothing is done.
      settings: what to write.
      max_rejects: the largest share of rejected clips, from 0 to 1, that is still a success.
      num_processes: how many decode. More than one needs the `if __name__ == "__main__"` guard in a script.

    Raises:
      UserError: no audio there; `out` holds something else; too many rejects; the disk is full.
    """
    source, out, settings = Path(source), Path(out), settings or Settings()
    _check_settings(settings, max_rejects)
    made_from = {"source": str(source.resolve()), **dataclasses.asdict(settings)}
    if (out / "manifest.jsonl").is_file() and (out / "stats.json").is_file():
        return _finished(out, made_from)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: already there and not made by `prepare`; give a new or empty folder")
    clips = read_manifest(source) if source.is_file() else scan_folder(source)

    partial = out.with_name(out.name + ".partial")
    rejects_left = out.with_name(out.name + ".rejects.jsonl")
    try:
        _remove_partial(partial)
        partial.mkdir(parents=True)
        rejects_left.unlink(missing_ok=True)
        report = _write(clips, partial, out, settings, made_from, num_processes)
        if len(report.rejects) > max_rejects * len(clips) or report.num_clips == 0:
            os.replace(partial / "rejects.jsonl", rejects_left)
            raise UserError(_too_many(report, len(clips), max_rejects, rejects_left))
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); nothing was kept") from error
    finally:
        _remove_partial(partial)
    return report


def _remove_partial(partial: Path) -> None:
    """Removes what an earlier run left, and nothing else that happens to have its name."""
    if not partial.exists():
        return
    if any(path.suffix not in (SHARD_SUFFIX, ".json", ".jsonl") for path in partial.iterdir()):
        raise UserError(
            f"{partial}: not made by `prepare`, which needs this name; move it, or give another OUT"
        )
    shutil.rmtree(partial)


def _write(
    clips: Sequence[Clip],
    folder: Path,
    out: Path,
    settings: Settings,
    made_from: dict[str, Any],
    num_processes: int,
) -> Report:
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    moments = MelMoments()
    with ShardWriter(folder) as shards:
        results = _convert_all(clips, settings, num_processes)
        # `disable=None`: no bar where there is no terminal.
        for clip, result in zip(
            clips, tqdm(results, total=len(clips), unit="clip", disable=None), strict=True
        ):
            if isinstance(result, str):
                rejects.append(Reject(clip.id, str(clip.path), result))
                continue
            moments = moments.merge(result.moments)
            rows.append(
                {
                    **clip.labels,
                    "id": clip.id,
                    "path": shards.write(result.records),
                    "sample_rate_hz": SAMPLE_RATE_HZ,
                    "num_samples": result.num_samples,
                    **({} if clip.split is None else {"split": clip.split}),
                    "num_pieces": len(result.records),
                    "original": str(clip.path),
                }
            )
    report = Report(
        out,
        num_clips=len(rows),
        num_pieces=sum(row["num_pieces"] for row in rows),
        hours=sum(row["num_samples"] for row in rows) / SAMPLE_RATE_HZ / 3600,
        rejects=rejects,
    )
    totals = {"num_clips": report.num_clips, "num_pieces": report.num_pieces, "hours": report.hours}
    (folder / "stats.json").write_text(
        json.dumps({**moments.summary(), **totals, "made_from": made_from}, indent=1) + "\n"
    )
    write_manifest(folder / "rejects.jsonl", map(dataclasses.asdict, rejects))
    write_manifest(folder / "manifest.jsonl", rows)
    return report


def _convert_all(clips: Sequence[Clip], settings: Settings, num_processes: int) -> Iterator[_Converted | str]:
    """Yields `_convert` of every clip, in order."""
    num_processes = min(num_processes, len(clips))
    if num_processes <= 1:
        yield from (_convert(clip, settings) for clip in clips)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        num_processes, context, initializer=_ignore_interrupt
    ) as pool:
        waiting = iter(clips)
        # A bounded queue: one long file at its head must not let all others pile up in memory behind it.
        futures = collections.deque(
            pool.submit(_convert, clip, settings) for clip in itertools.islice(waiting, 4 * num_processes)
        )
        try:
            while futures:
                yield futures.popleft().result()
                futures.extend(pool.submit(_convert, clip, settings) for clip in itertools.islice(waiting, 1))
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(
                "a decoding process died, probably for want of memory; run again with fewer processes"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupt() -> None:
    """The parent alone answers Ctrl-C: it waits for the few clips at work and cleans up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _convert(clip: Clip, settings: Settings) -> _Converted | str:
    """Returns one clip's records, or the reason why it is rejected."""
    try:
        info = audio_info(clip.path)
        wave = load_audio(clip.path, channel=settings.channel, require_complete=True)
    except UserError as error:
        return str(error).removeprefix(f"{clip.path}: ")
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    seconds = len(wave) / SAMPLE_RATE_HZ
    if np.abs(wave).max() < _SILENT_PEAK:
        return f"silent: all of its {seconds:.3f} s are zero"
    if seconds < settings.min_seconds:
        return f"too short: {seconds:.3f} s, at least {settings.min_seconds:g} s are asked for"
    if reason := _lie(clip, info.sample_rate_hz, seconds):
        return reason

    num_pieces = math.ceil(seconds / settings.piece_seconds)
    records, start = [], 0
    for piece in np.array_split(wave, num_pieces):
        start_seconds = start / SAMPLE_RATE_HZ
        header = {
            "id": clip.id if num_pieces == 1 else f"{clip.id}@{start_seconds:.2f}",
            "clip": clip.id,
            "start_seconds": start_seconds,
            "sample_rate_hz": SAMPLE_RATE_HZ,
        }
        records.append(encode_record(header, piece, settings.codec))
        start += len(piece)
    return _Converted(records, len(wave), MelMoments.of(wave))


def _lie(clip: Clip, sample_rate_hz: int, seconds: float) -> str | None:
    """Says how the manifest's row differs from the file, if it does."""
    if clip.sample_rate_hz not in (None, sample_rate_hz):
        return f"the manifest says {clip.sample_rate_hz} Hz, the file has {sample_rate_hz} Hz"
    if clip.num_samples is None:
        return None
    stated = clip.num_samples / sample_rate_hz
    if abs(stated - seconds) > _SLACK_SECONDS:
        found = round(seconds * sample_rate_hz)
        return (
            f"the manifest says {clip.num_samples} samples ({stated:.3f} s), "
            f"the file has {found} ({seconds:.3f} s)"
        )
    return None


def _check_settings(settings: Settings, max_rejects: float) -> None:
    if settings.codec not in CODECS:
        raise UserError(f"codec is {settings.codec!r}; expected one of {', '.join(CODECS)}")
    if not settings.piece_seconds >= 1:
        raise UserError(f"piece_seconds is {settings.piece_seconds}; expected at least 1")
    if not 0 <= max_rejects <= 1:
        raise UserError(f"max_rejects is {max_rejects}; expected a share, from 0 to 1")


def _finished(out: Path, made_from: dict[str, Any]) -> Report:
    stats = json.loads((out / "stats.json").read_text())
    earlier = stats.get("made_from", {})
    differing = [name for name in made_from if earlier.get(name) != made_from[name]]
    if differing:
        name = differing[0]
        raise UserError(
            f"{out}: already prepared with {name} {earlier.get(name)!r}, asked for is {made_from[name]!r}; "
            "give another OUT, or remove this one"
        )
    lines = (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    return Report(
        out,
        num_clips=stats["num_clips"],
        num_pieces=stats["num_pieces"],
        hours=stats["hours"],
        rejects=[Reject(**json.loads(line)) for line in lines],
        already=True,
    )


def _too_many(report: Report, num_clips: int, max_rejects: float, listed: Path) -> str:
    few = "; ".join(f"{reject.path}: {reject.reason}" for reject in report.rejects[:3])
    share = (
        "none could be used"
        if report.num_clips == 0
        else f"more than the share of {max_rejects:g} that is allowed"
    )
    return (
        f"{len(report.rejects)} of {num_clips} clips were rejected, {share}; listed in {listed}. First: {few}"
    )
