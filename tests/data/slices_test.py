"""n runs with every n-th clip each become one corpus, whatever the order in which they finish."""

import hashlib
import json
import os

import numpy as np
import pytest
import soundfile

from muq_jax.data import shards as shards_module
from muq_jax.data import slices as slices_module
from muq_jax.data.prepare import Settings, prepare
from muq_jax.data.slices import Slice
from muq_jax.data.sources import make_source
from muq_jax.data.splits import split_names
from muq_jax.data.statistics import load_statistics
from muq_jax.errors import UserError

SMALL = Settings(codec="pcm16", piece_seconds=1.0)


@pytest.fixture
def music(tmp_path):
    """Clips 0 to 6, of which 3 is silent; 5 is long enough for two pieces."""
    (tmp_path / "music").mkdir()
    for i in range(7):
        wave = np.random.default_rng(i).normal(0, 0.1 if i != 3 else 0, 36000 if i == 5 else 8000 + i)
        soundfile.write(tmp_path / f"music/{i}.wav", wave, 24000)
    rows = [
        {"path": f"music/{i}.wav", "id": f"c{i}", "split": "val" if i == 6 else "train"} for i in range(7)
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "m.jsonl"


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(music, out, *indices, of=3, **options):
    return [prepare(music, out, settings=SMALL, part=Slice(i, of), **options) for i in indices][-1]


def ids(source):
    return [source[i]["id"] for i in range(len(source))]


def test_all_parts_are_one_corpus(tmp_path, music):
    assert run(music, tmp_path / "out", 0).missing == (Slice(1, 3), Slice(2, 3))
    assert not (tmp_path / "out/manifest.jsonl").exists()
    with pytest.raises(UserError, match="parts of a corpus, not joined; run `prepare` for those"):
        make_source(tmp_path / "out")
    assert run(music, tmp_path / "out", 2).missing == (Slice(1, 3),)
    joined = run(music, tmp_path / "out", 1)
    assert (joined.missing, joined.num_clips, joined.num_pieces) == ((), 6, 7)
    assert [reject.id for reject in joined.rejects] == ["c3"]
    assert sorted(os.listdir(tmp_path / "out")) == [
        "SHA256SUMS",
        "manifest.jsonl",
        "rejects.jsonl",
        "slice-00000-of-00003",
        "slice-00001-of-00003",
        "slice-00002-of-00003",
        "stats.json",
    ]

    out = tmp_path / "out"
    assert ids(make_source(out)) == ["c0", "c6", "c1", "c4", "c2", "c5@0.00", "c5@0.75"]
    assert split_names(out) == {"train", "val"} and ids(make_source(out, split="val")) == ["c6"]
    whole = prepare(music, tmp_path / "whole", settings=SMALL)
    assert whole.hours == pytest.approx(joined.hours, rel=1e-12)
    assert load_statistics(out) == pytest.approx(load_statistics(tmp_path / "whole"), rel=1e-9)
    by_id = {
        example["id"]: example["wave"]
        for example in map(make_source(tmp_path / "whole").__getitem__, range(7))
    }
    for example in map(make_source(out).__getitem__, range(7)):
        np.testing.assert_array_equal(example["wave"], by_id[example["id"]])


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2)])
def test_the_bytes_do_not_depend_on_the_order_in_which_parts_finish(tmp_path, music, order):
    run(music, tmp_path / "a", 0, 1, 2)
    run(music, tmp_path / "b", *order)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(digests(tmp_path / "a")) == 4 + 3 * 5


def test_several_shards_a_part_keep_the_order_of_the_records(tmp_path, music, monkeypatch):
    monkeypatch.setattr(shards_module, "_SHARD_BYTES", 10_000)
    run(music, tmp_path / "out", 1, 0, of=2)
    assert len(list(tmp_path.glob("out/slice-*/*.array_record"))) == 6
    assert ids(make_source(tmp_path / "out")) == ["c0", "c2", "c4", "c6", "c1", "c5@0.00", "c5@0.75"]


def test_again_changes_nothing(tmp_path, music):
    run(music, tmp_path / "out", 0, 1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert run(music, tmp_path / "out", 1).already
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert not run(music, tmp_path / "out", 2).already
    before = digests(tmp_path / "out")
    again = run(music, tmp_path / "out", 0)
    assert again.already and again.num_clips == 6 and digests(tmp_path / "out") == before


def test_a_run_killed_before_it_joined_joins_when_it_is_run_again(tmp_path, music, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(slices_module, "put_files", interrupt)
        run(music, tmp_path / "out", 0, 1, 2)
    assert not (tmp_path / "out/manifest.jsonl").exists()
    assert run(music, tmp_path / "out", 1).num_clips == 6
    run(music, tmp_path / "straight", 0, 1, 2)
    assert digests(tmp_path / "out") == digests(tmp_path / "straight")


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_part_without_any_clip(tmp_path, music):
    joined = run(music, tmp_path / "out", *range(9), of=9)
    assert joined.num_clips == 6 and len(make_source(tmp_path / "out")) == 7


def test_too_many_rejects_are_too_many_of_all(tmp_path, music):
    run(music, tmp_path / "out", 0, 1, 2, 3, 4, 5, of=7, max_rejects=0.1)  # part 3 is all rejects
    with pytest.raises(
        UserError, match=r"1 of 7 clips were rejected.*share of 0.1.*listed in .*out\.rejects\.jsonl"
    ):
        run(music, tmp_path / "out", 6, of=7, max_rejects=0.1)
    assert "c3" in (tmp_path / "out.rejects.jsonl").read_text()
    assert run(music, tmp_path / "out", 6, of=7, max_rejects=0.2).num_clips == 6
    assert not (tmp_path / "out.rejects.jsonl").exists()


@pytest.mark.parametrize("change", ["clips", "settings"])
def test_parts_of_different_things_are_not_joined(tmp_path, music, change):
    run(music, tmp_path / "out", 0, 1)
    if change == "clips":
        music.write_text("".join(music.read_text().splitlines(keepends=True)[:5]))
        message = r"slice-00002-of-00003: the clips .*run `--shard 2/3` again"
        settings = SMALL
    else:
        message = "slice-00002-of-00003: the settings"
        settings = Settings(codec="flac", piece_seconds=1.0)
        message = "slice-00000-of-00003: the settings"
    with pytest.raises(UserError, match=message):
        prepare(music, tmp_path / "out", settings=settings, part=Slice(2, 3))
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_another_number_of_parts_or_something_else_in_out(tmp_path, music):
    run(music, tmp_path / "out", 0)
    with pytest.raises(UserError, match="holds slice-00000-of-00003, which is no slice of 4"):
        run(music, tmp_path / "out", 0, of=4)
    with pytest.raises(UserError, match="already there and not made by"):
        prepare(music, tmp_path / "out", settings=SMALL)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds thesis\.tex"):
        run(music, tmp_path / "thesis", 0)


@pytest.mark.parametrize(("index", "of"), [(3, 3), (-1, 3), (0, 0)])
def test_no_such_part(index, of):
    with pytest.raises(UserError, match="no such part"):
        Slice(index, of)
