"""What is damaged in a prepared folder is found and named."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from muq_jax.data import shards as shards_module
from muq_jax.data.check import check
from muq_jax.data.contents import read_sums
from muq_jax.data.prepare import Settings, prepare
from muq_jax.data.shards import ShardWriter, encode_record, sha256_of
from muq_jax.data.slices import Slice
from muq_jax.errors import UserError

SHARD = "shard-00001.array_record"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Six clips in three shards; and the same in two slices."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "music").mkdir()
    for i in range(6):
        soundfile.write(folder / f"music/{i}.wav", np.random.default_rng(i).normal(0, 0.1, 8000), 24000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "_SHARD_BYTES", 20_000)
        prepare(folder / "music", folder / "out", settings=Settings(codec="pcm16"))
    for i in range(2):
        prepare(folder / "music", folder / "sliced", part=Slice(i, 2))
    return folder


@pytest.fixture
def out(prepared, tmp_path):
    return shutil.copytree(prepared / "out", tmp_path / "out")


def seal(out):
    """Writes the digests anew, so that only what they do not tell is found."""
    sums = {name: sha256_of(out / name) for name in read_sums(out)}
    (out / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def test_what_is_whole(prepared):
    checked = check(prepared / "out", num_threads=2)
    assert (checked.damage, checked.num_shards, checked.num_records) == ([], 3, 6)
    checked = check(prepared / "sliced")
    assert (checked.damage, checked.num_shards, checked.num_records) == ([], 2, 6)


def test_every_file_has_a_digest_that_sha256sum_can_check(prepared):
    for folder, num_files in (("out", 6), ("sliced", 5)):
        lines = (prepared / folder / "SHA256SUMS").read_text().splitlines()
        assert len(lines) == num_files
        for line in lines:
            digest, name = line.split("  ")
            assert sha256_of(prepared / folder / name) == digest


@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
def test_a_flipped_bit(out, place):
    data = bytearray((out / SHARD).read_bytes())
    data[int(place * len(data))] ^= 1
    (out / SHARD).write_bytes(data)
    damage = check(out).damage
    assert damage and all(line.startswith(SHARD) for line in damage)
    assert f"{SHARD}: its SHA-256 is {sha256_of(out / SHARD)}, SHA256SUMS says" in damage[0]


def test_a_shard_that_is_missing_cut_or_too_many(out):
    (out / "shard-00000.array_record").unlink()
    data = (out / SHARD).read_bytes()
    (out / SHARD).write_bytes(data[: len(data) // 2])
    shutil.copy(out / "shard-00002.array_record", out / "shard-00003.array_record")
    damage = check(out).damage
    assert damage[0] == "shard-00000.array_record: missing, with 2 clips"
    assert {line.split(":")[0].split(",")[0] for line in damage[1:]} == {SHARD, "shard-00003.array_record"}
    assert "shard-00003.array_record: not in SHA256SUMS" in damage
    assert "shard-00003.array_record: 2 records, manifest.jsonl says 0" in damage


@pytest.mark.parametrize("name", ["manifest.jsonl", "stats.json", "rejects.jsonl"])
def test_a_changed_list(out, name):
    (out / name).write_text((out / name).read_text() + "\n")
    assert [line.split(": ")[0] for line in check(out).damage if "SHA-256" in line] == [name]


@pytest.mark.parametrize("text", ["not JSON\n", '{"id": "a"}\n', "[1]\n"])
def test_a_manifest_that_cannot_be_read(out, text):
    (out / "manifest.jsonl").write_text(text)
    assert any(line.startswith("manifest.jsonl: its SHA-256") for line in check(out).damage)
    seal(out)
    assert len(check(out).damage) == 1


def edit(out, change):
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    rows = change(rows) or rows
    (out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seal(out)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: rows[2].update(id="x"), [f"{SHARD}, record 0: of clip '2', manifest.jsonl says 'x'"]),
        (lambda rows: rows[3].update(num_samples=7999),
         ["stats.json: hours is", f"{SHARD}: 8000 samples of clip '3', manifest.jsonl says 7999"]),
        (lambda rows: rows[:5],
         ["stats.json: num_clips is 6, manifest.jsonl has 5", "stats.json: num_pieces is 6",
          "stats.json: hours",
          "shard-00002.array_record: 2 records, manifest.jsonl says 1"]),
    ],
)  # fmt: skip
def test_a_manifest_that_is_not_of_these_records(out, change, expected):
    edit(out, change)
    damage = check(out).damage
    assert len(damage) == len(expected)
    for line, start in zip(damage, expected, strict=True):
        assert line.startswith(start)


def test_a_record_that_does_not_decode(out):
    header = {"id": "2", "clip": "2", "sample_rate_hz": 24000}
    (out / SHARD).unlink()
    with ShardWriter(out, first=1) as shards:
        shards.write(
            [b"noise" * 99, encode_record({**header, "id": "3", "clip": "3"}, np.ones(8000), "pcm16")]
        )
    seal(out)
    first, second = check(out).damage
    assert first.startswith(f"{SHARD}, record 0: not a record")
    assert second.startswith(f"{SHARD}: 0 samples of clip '2'")


def test_without_digests(out):
    (out / "SHA256SUMS").unlink()
    assert len(check(out).damage) == 6 and all("not in SHA256SUMS" in line for line in check(out).damage)


@pytest.mark.parametrize("data", [b"not a digest\n", b"\xff\xfe\n"])
def test_digests_that_cannot_be_read(out, data):
    (out / "SHA256SUMS").write_bytes(data)
    (line,) = check(out).damage
    assert line.startswith("SHA256SUMS, ") and "cannot be read" in line


def test_what_is_not_finished(out):
    (out / "manifest.jsonl").unlink()
    assert "not finished" in check(out).damage[0]
    with pytest.raises(UserError, match="no such folder"):
        check(out / "nowhere")
