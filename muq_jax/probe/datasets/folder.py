"""Looking things up in a dataset's folder."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from muq_jax.audio.files import audio_files
from muq_jax.errors import UserError
from muq_jax.probe.task import SPLITS, Item

AUDIO_MISSING = "audio missing"
"""The reason in `Dataset.left_out` of clips whose recording is not there."""


def find(folder: Path, names: Sequence[str]) -> Path | None:
    """Returns the first of these relative paths or globs that exists below a folder, or None."""
    for name in names:
        if name == ".":
            return folder
        if found := next(iter(sorted(folder.glob(name))), None):
            return found
    return None


def require(folder: Path, names: Sequence[str], source: str) -> Path:
    """Returns the first of these relative paths or globs that exists below a folder.

    Args:
        folder: the dataset's.
        names: the places where it has been published, relative, in order of preference.
        source: what to download, from where, and where to put it.

    Raises:
        UserError: none of them is there.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}. {source}")
    found = find(folder, names)
    if found is None:
        raise UserError(f"{folder}: found none of {', '.join(names)}. {source}")
    return found


def audio_by_stem(folder: Path) -> dict[str, Path]:
    """Returns the audio files of a folder, and of those in it, by their names without the last suffix.

    Of several with one name it is the first in the order of their paths. Empty where there are none.
    """
    found: dict[str, Path] = {}
    try:
        names = audio_files(folder)
    except UserError:  # no folder, or nothing in it
        return found
    for name in names:
        found.setdefault(Path(name).stem, folder / name)
    return found


def read_text(path: Path) -> str:
    """Returns what a file says.

    Raises:
        UserError: it is no text in UTF-8, or cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text in UTF-8 ({error}); download it anew") from None


def numbered_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a table whose first line names its columns, each with the number of its line.

    Blanks around names and cells are taken off, empty lines left out.

    Raises:
        UserError: it is no text, it is empty, or a row has more or fewer cells than there are columns.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; download it anew") from None
    header: list[str] = []
    for number, cells in rows:
        if not any(cells):
            continue
        if not header:
            header = cells
            continue
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {number}: {len(cells)} cells; expected {len(header)}, one for each "
                f"column that the first line names, separated by {delimiter!r}. Download it anew"
            )
        yield number, dict(zip(header, cells, strict=True))
    if not header:
        raise UserError(f"{path}: empty; expected a table whose first line names its columns")


def read_table(path: Path, delimiter: str) -> list[dict[str, str]]:
    """Returns the rows of `numbered_rows`.

    Raises:
        UserError: as there.
    """
    return [row for _, row in numbered_rows(path, delimiter)]


def check_columns(path: Path, row: dict[str, str], columns: Sequence[str]) -> None:
    """Raises UserError if a row of a table lacks one of these columns."""
    if missing := [column for column in columns if column not in row]:
        raise UserError(
            f"{path}: no column {', '.join(missing)}; its columns are {', '.join(row)}. Is it the right file?"
        )


def count_splits(items: Iterable[Item]) -> tuple[int, int, int]:
    """Returns the numbers of items in train, val and test."""
    counts = dict.fromkeys(SPLITS, 0)
    for item in items:
        counts[item.split] += 1
    return counts["train"], counts["val"], counts["test"]


def published_problem(counts_found: Sequence[int], counts_published: Sequence[int]) -> tuple[str, ...]:
    """Returns a sentence, for `Dataset.problems`, if the splits have not the sizes that are published."""
    if tuple(counts_found) == tuple(counts_published):
        return ()
    found, published = ("/".join(f"{n:,}" for n in counts) for counts in (counts_found, counts_published))
    return (
        f"Of train, val and test {found} clips were found; published are {published}: the score is not "
        "comparable with published ones.",
    )
