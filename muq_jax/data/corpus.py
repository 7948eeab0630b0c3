"""A folder of shards and lists from clips, whole or not at all; what was stopped goes on.

Everything is written into a folder of its own beside OUT (`work_folder`) and published at the end. A run that
is stopped, by whatever, leaves its finished shards there (see progress.py), and the same call goes on.
"""

import concurrent.futures
import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.data.contents import MANIFEST, Contents, merge, write_lists
from muq_jax.data.convert import Settings
from muq_jax.data.manifest import Clip
from muq_jax.data.paths import publish, size_and_time, work_folder
from muq_jax.data.progress import PROGRESS_FILE, add_part, finished_parts
from muq_jax.data.shards import ShardWriter
from muq_jax.data.workers import convert_all


def make_corpus(
    clips: Sequence[Clip],
    out: Path,
    *,
    made_from: dict[str, Any],
    settings: Settings,
    num_processes: int,
    accept: Callable[[Contents], None] = lambda _: None,
) -> Contents:
    """Converts clips into shards, and publishes these with their lists as `out`.

    Args:
        clips: what to convert, in this order.
        out: a folder that is not there, or empty.
        made_from: kept in `stats.json`; what an earlier call with another left unfinished is made again.
        settings: what to write.
        num_processes: how many decode.
        accept: raises if there is something in the contents for which they must not be published.

    Returns:
        What is in it.

    Raises:
        UserError: the disk is full, or a process died.
        OSError: `out` cannot be written.
        UnreachableError: a store does not answer.
    """
    folder = work_folder(out)
    identity = {**made_from, "clips_sha256": _clips_sha256(clips)}
    parts = finished_parts(folder, identity)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _convert_to_shards(clips, folder, parts, settings, identity, num_processes)
        contents = merge(parts)
        accept(contents)
        write_lists(contents, folder, made_from)
        if parts[-1].rows:  # the last shard: should it not get to `out`, it need not be made again
            add_part(folder, identity, parts[-1])
        publish(folder, out, last=MANIFEST, without=PROGRESS_FILE)
    finally:
        # Stopped or failed, finished shards stay for the same call; where there is none, nothing does.
        if not finished_parts(folder, identity):
            shutil.rmtree(folder, ignore_errors=True)
    return contents


def _clips_sha256(clips: Sequence[Clip]) -> str:
    """Returns a digest of what is known of the clips, and of their files' sizes and times."""
    digest = hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor(32) as pool:  # a store takes its time to answer
        for clip, known in zip(clips, pool.map(size_and_time, (clip.path for clip in clips)), strict=True):
            digest.update(ascii((clip, known)).encode())
    return digest.hexdigest()


def _convert_to_shards(
    clips: Sequence[Clip],
    folder: Path,
    parts: list[Contents],
    settings: Settings,
    made_from: dict[str, Any],
    num_processes: int,
) -> None:
    """Converts the clips that come after those of `parts`, and appends theirs."""
    num_done = sum(part.num_clips for part in parts)
    part = Contents()
    with ShardWriter(folder, first=len(parts)) as shards:
        results = convert_all(clips[num_done:], settings, num_processes)
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
                part.sha256 = shards.close()
                add_part(folder, made_from, part)
                parts.append(part)
                part = Contents()
        part.sha256 = shards.close()
    parts.append(part)
