"""What is not finished, whole and made from the same is never taken for finished."""

import os

import pytest

from muq_jax.data.contents import Contents
from muq_jax.data.progress import PROGRESS_FILE, add_part, finished_parts
from muq_jax.data.statistics import MelMoments
from muq_jax.errors import UserError

MADE_FROM = {"source": "music", "piece_seconds": 60.0}


def shard(number):
    return f"shard-{number:05d}.array_record"


@pytest.fixture
def folder(tmp_path):
    """Three finished shards, and a begun one."""
    folder = tmp_path / "out.partial"
    folder.mkdir()
    for number in range(3):
        (folder / shard(number)).write_bytes(b"x" * (10 + number))
        add_part(folder, MADE_FROM, part(number))
    (folder / shard(3)).write_bytes(b"begun")
    return folder


def part(number):
    rows = [{"id": f"{number}.{i}", "path": shard(number), "tempo": 0.1 + i} for i in range(2)]
    rejects = [{"id": "caf\udce9", "path": "caf\udce9.wav", "reason": "silent"}] if number else []
    return Contents(rows, rejects, MelMoments(number + 1, 1 / 3, 2e-17), {shard(number): "ab" * 32})


def names(folder):
    return sorted(os.listdir(folder))


def test_finished_parts_come_back_exactly_and_the_rest_is_removed(folder):
    assert finished_parts(folder, MADE_FROM) == [part(0), part(1), part(2)]
    assert names(folder) == [PROGRESS_FILE, shard(0), shard(1), shard(2)]
    assert [p.num_clips for p in finished_parts(folder, MADE_FROM)] == [2, 3, 3]


@pytest.mark.parametrize("missing", [1, 2, 30, 10_000])
def test_a_line_cut_short_is_not_a_part_and_the_next_one_is_not_added_to_it(folder, missing):
    progress = folder / PROGRESS_FILE
    last = len(progress.read_bytes().splitlines(keepends=True)[-1])
    os.truncate(progress, progress.stat().st_size - min(missing, last - 1))
    assert finished_parts(folder, MADE_FROM) == [part(0), part(1)]
    assert shard(2) not in names(folder)
    (folder / shard(2)).write_bytes(b"again")
    add_part(folder, MADE_FROM, part(2))
    assert finished_parts(folder, MADE_FROM) == [part(0), part(1), part(2)]


@pytest.mark.parametrize("damage", ["missing", "shorter", "longer"])
def test_a_shard_that_is_not_whole_ends_what_is_finished(folder, damage):
    path = folder / shard(1)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"x" * (5 if damage == "shorter" else 50))
    assert finished_parts(folder, MADE_FROM) == [part(0)]
    assert names(folder) == [PROGRESS_FILE, shard(0)]


@pytest.mark.parametrize("kept", [slice(10, None), slice(0, 20), slice(0, 0)])
def test_a_damaged_first_line_means_that_nothing_is_finished(folder, kept):
    progress = folder / PROGRESS_FILE
    progress.write_bytes(progress.read_bytes()[kept])
    assert finished_parts(folder, MADE_FROM) == []
    assert names(folder) == []


def test_another_run_s_parts_are_removed(folder):
    assert finished_parts(folder, {**MADE_FROM, "piece_seconds": 30.0}) == []
    assert names(folder) == []


def test_no_folder_has_no_parts(tmp_path):
    assert finished_parts(tmp_path / "none", MADE_FROM) == []


def test_what_is_not_ours_is_left_alone(folder):
    (folder / "thesis.tex").write_text("ten years of work")
    before = names(folder)
    with pytest.raises(UserError, match=r"out\.partial: not made by `prepare`"):
        finished_parts(folder, MADE_FROM)
    assert names(folder) == before
