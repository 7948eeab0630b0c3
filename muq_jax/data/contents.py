"""What is in a shard, or in a corpus of many, and the four lists that say so beside the shards.

    manifest.jsonl   a row a clip, in the order of their records: `path` is its shard, `num_pieces` its
                     records, `original` the file it came from; labels are carried over
    stats.json       mean, std and count of the mel values in dB; clips, pieces and hours; the settings
    rejects.jsonl    id, path and reason of every clip that was left out
    SHA256SUMS       the digest of every other file, as `sha256sum` writes and checks them

A folder with a `manifest.jsonl` and a `stats.json` is whole: they are there once all else is.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from muq_jax.audio.decode import SAMPLE_RATE_HZ
from muq_jax.data.manifest import write_manifest
from muq_jax.data.shards import SHARD_SUFFIX, sha256_of
from muq_jax.data.statistics import MelMoments

MANIFEST, STATS, REJECTS, SUMS = "manifest.jsonl", "stats.json", "rejects.jsonl", "SHA256SUMS"


@dataclasses.dataclass
class Contents:
    """What is in one shard or more.

    Attributes:
        rows: of the manifest.
        rejects: id, path and reason of clips that were left out, those since the shard before.
        moments: of the mels.
        sha256: the digest of every shard, by its name.
    """

    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    rejects: list[dict[str, str]] = dataclasses.field(default_factory=list)
    moments: MelMoments = dataclasses.field(default_factory=MelMoments)
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def num_clips(self) -> int:
        """How many were looked at."""
        return len(self.rows) + len(self.rejects)

    def totals(self) -> dict[str, Any]:
        """Returns how much there is: num_clips and num_pieces, hours."""
        return {
            "num_clips": len(self.rows),
            "num_pieces": sum(row["num_pieces"] for row in self.rows),
            "hours": sum(row["num_samples"] for row in self.rows) / SAMPLE_RATE_HZ / 3600,
        }

    def in_folder(self, name: str) -> "Contents":
        """Returns the same, seen from the folder above: shards are called name/shard."""
        rows = [{**row, "path": f"{name}/{row['path']}"} for row in self.rows]
        sha256 = {f"{name}/{shard}": digest for shard, digest in self.sha256.items()}
        return Contents(rows, self.rejects, self.moments, sha256)


def merge(parts: Sequence[Contents]) -> Contents:
    """Returns all of them together, in their order."""
    whole = Contents()
    for part in parts:
        whole.rows += part.rows
        whole.rejects += part.rejects
        whole.moments = whole.moments.merge(part.moments)
        whole.sha256 |= part.sha256
    return whole


def is_whole(folder: Path) -> bool:
    """Whether `prepare` finished this folder."""
    return (folder / MANIFEST).exists() and (folder / STATS).exists()


def write_lists(contents: Contents, folder: Path, made_from: dict[str, Any]) -> None:
    """Writes the four lists into a local folder."""
    stats = {**contents.moments.summary(), **contents.totals(), "made_from": made_from}
    (folder / STATS).write_text(json.dumps(stats, indent=1) + "\n")
    write_manifest(folder / REJECTS, contents.rejects)
    write_manifest(folder / MANIFEST, contents.rows)
    lists = {name: sha256_of(folder / name) for name in (MANIFEST, REJECTS, STATS)}
    sums = sorted({**lists, **contents.sha256}.items())
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums))


def read_lists(folder: Path) -> tuple[Contents, dict[str, Any]]:
    """Returns what is in a whole folder, local or remote, and its `stats.json`."""
    stats = json.loads((folder / STATS).read_bytes())
    moments = MelMoments.of_summary(stats)
    sha256 = {name: digest for name, digest in read_sums(folder).items() if name.endswith(SHARD_SUFFIX)}
    return Contents(list(_rows(folder / MANIFEST)), list(_rows(folder / REJECTS)), moments, sha256), stats


def read_sums(folder: Path) -> dict[str, str]:
    """Returns the digests in SHA256SUMS, by name; none where `prepare` did not write that file yet."""
    lines = (folder / SUMS).read_text().splitlines() if (folder / SUMS).exists() else []
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines():
        yield json.loads(line)
