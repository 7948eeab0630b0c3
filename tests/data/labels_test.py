"""Stored codes: written once, whole or not at all, and cut where the audio is cut."""

import itertools

import numpy as np
import pytest

from muq_jax.data import labels
from muq_jax.data.labels import LabelledSource, decode_labels, encode_labels, write_labels
from muq_jax.data.pipeline import make_batches, make_eval_batches
from muq_jax.data.shards import ShardWriter
from muq_jax.errors import UserError

TOKEN = 10
MADE_FROM = {"layer": 9}


class Stairs:
    """Clip i has 97 * i % 230 samples; each tells its clip and its token: 1000 i + token."""

    def __init__(self, num_clips=30, prefix="clip"):
        self.num_clips, self.prefix = num_clips, prefix

    def __len__(self):
        return self.num_clips

    def __getitem__(self, index):
        samples = np.arange(97 * index % 230)
        wave = (1000 * index + samples // TOKEN).astype(np.float32)
        return {"id": f"{self.prefix}{index}", "wave": wave}


def label(examples):
    """Two books: the clip and the token, as the wave tells them."""
    for example in examples:
        wave = example["wave"]
        tokens = wave[: len(wave) // TOKEN * TOKEN : TOKEN].astype(np.int64)
        yield np.stack([tokens // 1000, tokens % 1000], axis=1)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(labels, "_CLIPS_PER_FILE", 7)


@pytest.fixture
def labelled(tmp_path):
    write_labels(tmp_path, Stairs(), label, MADE_FROM)
    return LabelledSource(Stairs(), tmp_path, token_samples=TOKEN, num_books=2)


@pytest.mark.parametrize("shape", [(0, 8), (5, 8), (3, 1)])
def test_a_record_gives_back_its_codes(shape):
    codes = np.random.default_rng(0).integers(0, 2**16, shape)
    id, found = decode_labels(encode_labels("Ünïcode/é.wav", codes))
    assert id == "Ünïcode/é.wav" and found.dtype == np.int32
    np.testing.assert_array_equal(found, codes)


def test_every_clip_has_its_codes(labelled, tmp_path):
    assert len(labelled) == 30
    for index in range(30):
        example = labelled[index]
        np.testing.assert_array_equal(example["codes"], next(label([example])))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "labels.json",
        *(f"shard-0000{number}.array_record" for number in range(5)),
    ]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_crop_has_the_codes_of_its_tokens(labelled, workers):
    """Crops of 5 tokens and a rest start anywhere on a token."""
    batches = make_batches(
        labelled, batch_size=4, crop_samples=53, token_samples=TOKEN, seed=1, num_workers=workers
    )
    starts = set()
    with batches:
        for batch in itertools.islice(batches, 40):
            assert batch["codes"].shape == (4, 5, 2) and batch["codes"].dtype == np.int32
            for wave, num_samples, codes in zip(
                batch["wave"], batch["num_samples"], batch["codes"], strict=True
            ):
                tokens = min(num_samples // TOKEN, 5)
                expected = wave[: tokens * TOKEN].reshape(tokens, TOKEN)
                assert (expected == expected[:, :1]).all()  # begins on a token
                np.testing.assert_array_equal(codes[:tokens, 0] * 1000 + codes[:tokens, 1], expected[:, 0])
                if num_samples < 53:
                    assert (codes[tokens:] == -1).all()
                starts.add(codes[0, 1])
    assert len(starts) > 10


def test_evaluation_has_codes_in_every_row(labelled):
    with make_eval_batches(labelled, batch_size=8, crop_samples=50, token_samples=TOKEN) as batches:
        found = list(batches)
    assert [len(batch["codes"]) for batch in found] == [8, 8, 8, 8]
    assert (found[3]["codes"][6:] == -1).all() and found[3]["id"][6:] == ["", ""]
    codes, wave = found[0]["codes"][2], found[0]["wave"][2]
    np.testing.assert_array_equal(codes @ [1000, 1], wave[::TOKEN])


def test_a_host_of_padding_alone_has_codes_too(labelled):
    options = dict(batch_size=16, crop_samples=50, token_samples=TOKEN, rows=(14, 15))
    with make_eval_batches(labelled, **options) as batches:
        assert [batch["codes"].shape for batch in batches] == [(2, 5, 2), (2, 5, 2)]


def test_what_was_finished_is_not_made_again(labelled, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write_labels(tmp_path, Stairs(), lambda examples: pytest.fail("it labels"), MADE_FROM)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_run_that_was_ended_goes_on(tmp_path):
    heard, seen = [], []

    def dying(examples):
        for example, codes in zip(examples, label(Stairs()), strict=False):
            if example["id"] == "clip17":
                raise KeyboardInterrupt
            heard.append(example["id"])
            yield next(label([example]))
            del codes

    with pytest.raises(KeyboardInterrupt):
        write_labels(tmp_path, Stairs(), dying, MADE_FROM)
    assert len(heard) >= 14
    with pytest.raises(UserError, match=r"shard-00002.*is missing \(3 of 5\); run the same command again"):
        LabelledSource(Stairs(), tmp_path, token_samples=TOKEN, num_books=2)

    def noting(examples):
        for example in examples:
            seen.append(example["id"])
            yield next(label([example]))

    done = []
    write_labels(tmp_path, Stairs(), noting, MADE_FROM, progress=done.append)
    assert seen == [f"clip{index}" for index in range(14, 30)] and done == [14, 7, 7, 2]
    source = LabelledSource(Stairs(), tmp_path, token_samples=TOKEN, num_books=2)
    for index in range(30):
        np.testing.assert_array_equal(source[index]["codes"], next(label([Stairs()[index]])))


def test_hosts_share_the_files(tmp_path):
    for host in (1, 0):
        write_labels(tmp_path, Stairs(), label, MADE_FROM, host=(host, 2))
    source = LabelledSource(Stairs(), tmp_path, token_samples=TOKEN, num_books=2)
    assert source[29]["codes"][-1].tolist() == [29, 97 * 29 % 230 // TOKEN - 1]


def test_labels_of_something_else_are_refused(labelled, tmp_path):
    with pytest.raises(UserError, match=r"labels\.json: these labels.*layer 9 there, 3 now.*remove"):
        write_labels(tmp_path, Stairs(), label, {"layer": 3})
    with pytest.raises(UserError, match="num_clips 30 there, 29 now"):
        write_labels(tmp_path, Stairs(29), label, MADE_FROM)


def test_a_corpus_that_has_changed_is_noticed(labelled, tmp_path):
    renamed = LabelledSource(Stairs(prefix="song"), tmp_path, token_samples=TOKEN, num_books=2)
    with pytest.raises(UserError, match=r"of the clip 'clip4' with 15 tokens, the data has 'song4' with 15"):
        renamed[4]
    longer = LabelledSource(Stairs(), tmp_path, token_samples=5, num_books=2)
    with pytest.raises(UserError, match="with 31 there: it has changed since"):
        longer[4]


def test_an_error_of_the_labeller_is_not_taken_for_one_of_the_disk(tmp_path):
    def fails(examples):
        raise RuntimeError("out of memory")
        yield

    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        write_labels(tmp_path, Stairs(), fails, MADE_FROM)


def test_an_unfinished_file_is_written_over(tmp_path):
    (tmp_path / "unfinished-0").mkdir()
    with ShardWriter(tmp_path / "unfinished-0") as writer:
        writer.write([b"half"])
    write_labels(tmp_path, Stairs(), label, MADE_FROM)
    source = LabelledSource(Stairs(), tmp_path, token_samples=TOKEN, num_books=2)
    assert source[1]["codes"].shape == (9, 2)
    assert not (tmp_path / "unfinished-0").exists()
