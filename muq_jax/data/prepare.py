"""From audio files to shards that training reads: decoded once, resampled and checked.

OUT holds

    shard-00000.array_record ...   pieces of at most a minute, mono at 24 kHz (see shards.py)
    manifest.jsonl                 a row a clip, in the order of their records: `path` is its shard,
                                   `num_pieces` its records, `original` the file it came from; labels are
                                   carried over
    stats.json                     mean, std and count of the mel values in dB; the settings; clips and hours
    rejects.jsonl                  id, path and reason of every clip that was left out

Everything is written into OUT.partial and renamed at the end, so OUT is there whole or not at all. A run that
is stopped, by whatever, leaves its finished shards there (see progress.py), and the same command goes on.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from muq_jax.audio.decode import SAMPLE_RATE_HZ, Channel, audio_info, load_audio
from muq_jax.data.manifest import Clip, read_manifest, scan_folder, write_manifest
from muq_jax.data.progress import PROGRESS_FILE, Part, add_part, finished_parts
from muq_jax.data.shards import CODECS, ShardWriter, encode_record
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

    The bytes written do not depend on the number of processes, nor on whether a run was stopped and went on.

    Args:
        source: a folder, or a manifest (JSON Lines).
        out: the folder to make. If an earlier run with this source and these settings made it, nothing is
            done.
        settings: what to write.
        max_rejects: the largest share of rejected clips, from 0 to 1, that is still a success.
        num_processes: how many decode. More than one needs the `if __name__ == "__main__"` guard in a script.

    Raises:
        UserError: no audio there; `out` holds something else or cannot be renamed to; too many rejects; the
            disk is full.
    """
    # A link, or a dot, is not a name that the finished folder could be renamed to.
    source, out, settings = Path(source), Path(out).resolve(), settings or Settings()
    _check_settings(settings, max_rejects)
    made_from = {"source": str(source.resolve()), **dataclasses.asdict(settings)}
    if (out / "manifest.jsonl").is_file() and (out / "stats.json").is_file():
        return _finished(out, made_from)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: already there and not made by `prepare`; give a new or empty folder")
    if os.path.ismount(out):
        raise UserError(f"{out}: a mount point, which no folder can be renamed to; give a folder inside it")
    clips = read_manifest(source) if source.is_file() else scan_folder(source)

    partial = out.with_name(out.name + ".partial")
    rejects_left = out.with_name(out.name + ".rejects.jsonl")
    identity = {**made_from, "clips_sha256": _clips_sha256(clips)}
    parts = finished_parts(partial, identity)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        rejects_left.unlink(missing_ok=True)
        _convert_to_shards(clips, partial, parts, settings, identity, num_processes)
        report = _write_lists(parts, partial, out, made_from)
        if len(report.rejects) > max_rejects * len(clips) or report.num_clips == 0:
            os.replace(partial / "rejects.jsonl", rejects_left)
            raise UserError(_too_many(report, len(clips), max_rejects, rejects_left))
        os.replace(partial, out)
        (out / PROGRESS_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); mend that and run the same command again"
        ) from error
    finally:
        # Stopped or failed, finished shards stay for the same command; where there is none, nothing does.
        if not finished_parts(partial, identity):
            shutil.rmtree(partial, ignore_errors=True)
    return report


def _clips_sha256(clips: Sequence[Clip]) -> str:
    """Returns a digest of what is known of the clips, and of their files' sizes and times."""
    digest = hashlib.sha256()
    for clip in clips:
        stat = clip.path.stat() if clip.path.is_file() else None
        digest.update(ascii((clip, stat and (stat.st_size, stat.st_mtime_ns))).encode())
    return digest.hexdigest()


def _convert_to_shards(
    clips: Sequence[Clip],
    folder: Path,
    parts: list[Part],
    settings: Settings,
    made_from: dict[str, Any],
    num_processes: int,
) -> None:
    """Converts the clips that come after those of `parts`, and appends theirs."""
    num_done = sum(part.num_clips for part in parts)
    part = Part()
    with ShardWriter(folder, first=len(parts)) as shards:
        results = _convert_all(clips[num_done:], settings, num_processes)
        # `disable=None`: no bar where there is no terminal.
        progress = tqdm(results, initial=num_done, total=len(clips), unit="clip", disable=None)
        for clip, result in zip(clips[num_done:], progress, strict=True):
            if isinstance(result, str):
                part.rejects.append({"id": clip.id, "path": str(clip.path), "reason": result})
                continue
            part.moments = part.moments.merge(result.moments)
            part.rows.append(
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
            if shards.is_full:
                shards.close()
                add_part(folder, made_from, part)
                parts.append(part)
                part = Part()
    parts.append(part)


def _write_lists(parts: Sequence[Part], folder: Path, out: Path, made_from: dict[str, Any]) -> Report:
    """Writes what stands beside the shards."""
    rows = [row for part in parts for row in part.rows]
    rejects = [Reject(**reject) for part in parts for reject in part.rejects]
    moments = functools.reduce(MelMoments.merge, (part.moments for part in parts))
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
    with concurrent.futures.ProcessPoolExecutor(num_processes, context, initializer=_follow_parent) as pool:
        waiting = iter(clips)
        workers: Sequence[BaseProcess] = ()
        try:
            with _ctrl_c_held_back():
                # A bounded queue: behind one long file, all others must not pile up in memory.
                futures = collections.deque(
                    pool.submit(_convert, clip, settings)
                    for clip in itertools.islice(waiting, 4 * num_processes)
                )
                workers = multiprocessing.active_children()
            while futures:
                yield futures.popleft().result()
                futures.extend(pool.submit(_convert, clip, settings) for clip in itertools.islice(waiting, 1))
        except concurrent.futures.process.BrokenProcessPool:
            pool.shutdown(wait=True)
            # The pool ends the others by SIGTERM: if all ended so, the first was told to end, as we shall be.
            if workers and all(worker.exitcode == -signal.SIGTERM for worker in workers):
                raise KeyboardInterrupt from None
            raise UserError(
                "a decoding process died, probably for want of memory; run again with fewer processes"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Lets Ctrl-C wait, here until the end, and for good in processes started meanwhile.

    One that is still importing would answer it with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_parent() -> None:
    """Ties a worker to its parent.

    The parent alone answers Ctrl-C: it waits for the few clips at work and cleans up. If it is killed, the
    workers end with it: they would wait for clips for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _convert(clip: Clip, settings: Settings) -> _Converted | str:
    """Returns one clip's records, or the reason why it is rejected."""
    try:
        return _convert_readable(clip, settings)
    except UserError as error:
        return str(error).removeprefix(f"{clip.path}: ")
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except MemoryError:
        return "too long: it does not fit into memory"


def _convert_readable(clip: Clip, settings: Settings) -> _Converted | str:
    info = audio_info(clip.path)
    wave = load_audio(clip.path, channel=settings.channel, require_complete=True)
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
