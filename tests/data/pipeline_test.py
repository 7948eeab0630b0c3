"""The order of the data: a function of (seed, step), whatever hosts and workers read it."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from muq_jax.data.pipeline import make_batches, make_eval_batches
from muq_jax.data.transforms import Augment
from muq_jax.errors import UserError

ROOT = Path(__file__).parents[2]
CROP = 50
GLOBAL = 8


class Ramps:
    """Clip i has i * 13 % 97 + 1 samples, each telling its clip and its place: i + place / 1000."""

    def __init__(self, num_clips):
        self.num_clips = num_clips

    def __len__(self):
        return self.num_clips

    def __getitem__(self, index):
        length = index * 13 % 97 + 1
        return {"id": f"clip{index}", "wave": (index + np.arange(length) / 1000).astype(np.float32)}


def read(num_batches, *, hosts=1, workers=0, start=0, **options):
    """The global batches, put together from what every host reads."""
    n = GLOBAL // hosts
    parts = []
    for host in range(hosts):
        with make_batches(
            Ramps(37),
            batch_size=GLOBAL,
            crop_samples=CROP,
            seed=3,
            start_step=start,
            rows=range(host * n, host * n + n),
            num_workers=workers,
            num_threads=2,
            **options,
        ) as batches:
            parts.append(list(itertools.islice(batches, num_batches)))
    return [
        {
            "id": [id for part in step for id in part["id"]],
            **{
                name: np.concatenate([part[name] for part in step]) for name in ("wave", "num_samples", "row")
            },
        }
        for step in zip(*parts, strict=True)
    ]


def assert_same(got, expected):
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        assert a["id"] == b["id"]
        for name in ("wave", "num_samples", "row"):
            np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture(scope="module")
def reference():
    return read(9, augment=Augment(gain_db=(-6.0, 6.0)))


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 3])
def test_any_host_count_and_start_reads_the_same_rows(reference, hosts, start):
    got = read(6, hosts=hosts, start=start, augment=Augment(gain_db=(-6.0, 6.0)))
    assert_same(got, reference[start : start + 6])


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "start"), [(1, 3), (2, 0), (4, 3)])
def test_worker_processes_read_the_same_rows(reference, hosts, start):
    got = read(6, hosts=hosts, start=start, workers=2, augment=Augment(gain_db=(-6.0, 6.0)))
    assert_same(got, reference[start : start + 6])


@pytest.mark.slow
def test_finite_epochs_through_workers_lose_nothing():
    expected = read(100, num_epochs=2)
    assert len(expected) == 2 * 37 // GLOBAL
    assert_same(read(100, num_epochs=2, workers=2), expected)


def test_batch_layout(reference):
    for batch in reference:
        assert batch["wave"].shape == (GLOBAL, CROP) and batch["wave"].dtype == np.float32
        assert batch["num_samples"].dtype == batch["row"].dtype == np.int32
        np.testing.assert_array_equal(batch["row"], np.arange(GLOBAL))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_every_clip_exactly_once_an_epoch(hosts, workers):
    ids = [id for batch in read(37, hosts=hosts, workers=workers) for id in batch["id"]]
    assert len(ids) == 8 * 37
    epochs = [ids[i : i + 37] for i in range(0, len(ids), 37)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(f"clip{i}" for i in range(37))
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs), "every epoch should have its own order"


def test_crops_lie_inside_their_clip_and_padding_is_zero():
    starts = set()
    for batch in read(20):
        for id, wave, n in zip(batch["id"], batch["wave"], batch["num_samples"], strict=True):
            clip = Ramps(37)[int(id.removeprefix("clip"))]["wave"]
            assert n == min(len(clip), CROP)
            start = int(np.flatnonzero(clip == wave[0])[0])
            np.testing.assert_array_equal(wave[:n], clip[start : start + n])
            np.testing.assert_array_equal(wave[n:], 0)
            starts.add((id, start))
    assert len(starts) > 37, "clips should be cropped at several places"


def test_another_seed_is_another_order():
    def ids(seed):
        with make_batches(Ramps(37), batch_size=GLOBAL, crop_samples=CROP, seed=seed) as batches:
            return next(batches)["id"]

    assert ids(1) == ids(1) != ids(2)


def test_unshuffled_batches_follow_the_source():
    assert [id for batch in read(4, shuffle=False) for id in batch["id"]] == [f"clip{i}" for i in range(32)]


@pytest.mark.parametrize("hosts", [1, 2])
def test_eval_batches_are_complete_and_static(hosts):
    n = GLOBAL // hosts
    rows = []
    for host in range(hosts):
        with make_eval_batches(
            Ramps(37), batch_size=GLOBAL, crop_samples=CROP, rows=range(host * n, host * n + n)
        ) as batches:
            for k, batch in enumerate(batches):
                assert batch["wave"].shape == (n, CROP)
                rows += [
                    (k * GLOBAL + int(row), *rest)
                    for row, *rest in zip(
                        batch["row"], batch["id"], batch["wave"], batch["num_samples"], strict=True
                    )
                ]
    rows.sort(key=lambda row: row[0])
    assert [id for _, id, _, _ in rows] == [f"clip{i}" for i in range(37)] + [""] * 3
    for index, id, wave, num_samples in rows:
        if not id:
            assert num_samples == 0 and not wave.any()
            continue
        clip = Ramps(37)[index]["wave"]
        start = max(len(clip) - CROP, 0) // 2
        np.testing.assert_array_equal(wave[:num_samples], clip[start : start + CROP])


def test_a_source_smaller_than_a_batch():
    with pytest.raises(UserError, match=r"3 examples in 1 epochs do not fill one batch of 8"):
        make_batches(Ramps(3), batch_size=8, crop_samples=CROP, seed=0, num_epochs=1)
    with make_batches(Ramps(3), batch_size=8, crop_samples=CROP, seed=0) as batches:
        assert set(next(batches)["id"]) == {"clip0", "clip1", "clip2"}


def test_an_empty_source():
    for make in (make_eval_batches, lambda *args, **kwargs: make_batches(*args, seed=0, **kwargs)):
        with pytest.raises(UserError, match="no example"):
            make(Ramps(0), batch_size=8, crop_samples=CROP)


def test_a_closed_iterator_is_at_its_end():
    batches = make_batches(Ramps(37), batch_size=GLOBAL, crop_samples=CROP, seed=0)
    next(batches)
    batches.close()
    batches.close()
    assert list(batches) == []


@pytest.mark.parametrize("rows", [(4, 9), (-1, 2), (3, 2), (2, 2), ()])
def test_rows_that_are_none_of_the_batch(rows):
    with pytest.raises(ValueError, match="rows"):
        make_batches(Ramps(37), batch_size=8, crop_samples=CROP, seed=0, rows=rows)


def test_a_host_may_read_rows_that_are_no_neighbours():
    [whole] = read(1)
    with make_batches(Ramps(37), batch_size=GLOBAL, crop_samples=CROP, seed=3, rows=(1, 2, 6)) as batches:
        part = next(batches)
    assert part["id"] == [whole["id"][row] for row in (1, 2, 6)]
    for name in ("wave", "num_samples", "row"):
        np.testing.assert_array_equal(part[name], whole[name][[1, 2, 6]])


class Broken(Ramps):
    def __getitem__(self, index):
        raise UserError("song.mp3: cannot be decoded")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_source_error_reaches_the_reader(workers):
    with (
        make_batches(Broken(37), batch_size=8, crop_samples=CROP, seed=0, num_workers=workers) as batches,
        pytest.raises(UserError, match=r"song\.mp3"),
    ):
        next(batches)


class Fatal(Ramps):
    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_dies_is_named():
    with (
        make_batches(Fatal(37), batch_size=8, crop_samples=CROP, seed=0, num_workers=2) as batches,
        pytest.raises(UserError, match=r"a data worker of this host has died with exit code -9"),
    ):
        next(batches)


def test_the_room_itself_imports_no_jax():
    # grain imports jax where it is installed; what is checked is that our own modules do without.
    program = (
        "import sys; sys.modules['jax'] = None\n"
        "from muq_jax.data import pipeline, prepare, statistics, tfds_source"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from muq_jax.data.pipeline import make_batches

class Tones:
    def __len__(self): return 16
    def __getitem__(self, index): return {"id": str(index), "wave": np.ones(80, np.float32)}

if __name__ == "__main__":
    batches = make_batches(Tones(), batch_size=4, crop_samples=50, seed=0, num_workers=int(sys.argv[1]))
    batch = next(batches)
    if sys.argv[2] == "close":
        batches.close()
"""


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("end", ["close", "leave"])
def test_a_program_ends_quietly(tmp_path, workers, end):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, str(script), str(workers), end],
        capture_output=True, text=True, timeout=120, env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert result.returncode == 0
    assert result.stderr == ""
