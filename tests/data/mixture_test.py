"""A mixture is drawn from with its weights, in an order that is a function of (seed, step)."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import soundfile

from muq_jax.data.mixture import Mixture, mix_statistics, parse_mixture
from muq_jax.data.pipeline import make_batches, make_eval_batches
from muq_jax.data.prepare import prepare
from muq_jax.data.sources import make_source
from muq_jax.data.splits import split_names
from muq_jax.data.statistics import MelMoments, load_statistics, mel_statistics
from muq_jax.data.transforms import Augment
from muq_jax.errors import UserError

GLOBAL, CROP = 8, 40


class Ramps:
    """Clip i of corpus c is c + i / 1000 + place / 1e6, 30 to 90 samples long."""

    def __init__(self, name, num_clips):
        self.name, self.num_clips = name, num_clips

    def __len__(self):
        return self.num_clips

    def __getitem__(self, index):
        wave = ord(self.name) + index / 1000 + np.arange(30 + index * 13 % 61) / 1e6
        return {"id": f"{self.name}{index}", "wave": wave.astype(np.float32)}


def mixture(weights=(0.6, 0.3, 0.1)):
    return Mixture([Ramps("a", 23), Ramps("b", 11), Ramps("c", 7)], weights)


def read(num_batches, *, source=None, hosts=1, workers=0, start=0, seed=3):
    """The global batches, put together from what every host reads."""
    n, parts = GLOBAL // hosts, []
    for host in range(hosts):
        with make_batches(
            source or mixture(),
            batch_size=GLOBAL,
            crop_samples=CROP,
            seed=seed,
            start_step=start,
            rows=range(host * n, host * n + n),
            num_workers=workers,
            num_threads=2,
            augment=Augment(gain_db=(-6.0, 6.0)),
        ) as batches:
            parts.append(list(itertools.islice(batches, num_batches)))
    return [
        ([id for part in step for id in part["id"]], np.concatenate([part["wave"] for part in step]))
        for step in zip(*parts, strict=True)
    ]


def assert_same(got, expected):
    assert len(got) == len(expected) > 0
    for (ids, waves), (expected_ids, expected_waves) in zip(got, expected, strict=True):
        assert ids == expected_ids
        np.testing.assert_array_equal(waves, expected_waves)


def ids_of(batches):
    return [id for ids, _ in batches for id in ids]


@pytest.fixture(scope="module")
def reference():
    return read(9)


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 3])
def test_any_host_count_and_start_reads_the_same_rows(reference, hosts, start):
    assert_same(read(6, hosts=hosts, start=start), reference[start : start + 6])


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "start"), [(1, 3), (2, 0), (4, 3)])
def test_worker_processes_read_the_same_rows(reference, hosts, start):
    assert_same(read(6, hosts=hosts, start=start, workers=2), reference[start : start + 6])


@pytest.mark.parametrize("weights", [(0.6, 0.3, 0.1), (1, 1, 1), (5, 100, 1)])
def test_every_corpus_has_its_share_and_evenly(weights):
    ids = ids_of(read(50, source=mixture(weights)))
    shares = np.array(weights) / sum(weights)
    for name, share in zip("abc", shares, strict=True):
        drawn = np.cumsum([id[0] == name for id in ids])
        expected = share * np.arange(1, len(ids) + 1)
        np.testing.assert_array_less(np.abs(drawn - expected), 2 + 0.01 * expected)


def test_every_clip_of_a_corpus_once_before_any_comes_again_and_in_a_new_order():
    ids = ids_of(read(60))
    for name, num_clips in (("a", 23), ("b", 11), ("c", 7)):
        own = [id for id in ids if id[0] == name]
        epochs = [own[i : i + num_clips] for i in range(0, len(own) - num_clips + 1, num_clips)]
        assert len(epochs) > 3
        assert all(sorted(epoch) == sorted(f"{name}{i}" for i in range(num_clips)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_weights_change_how_much_is_drawn_of_a_corpus_not_its_order():
    one, other = (ids_of(read(25, source=mixture(weights))) for weights in ((1, 1, 1), (0.4, 0.3, 0.3)))
    for name in "abc":
        first, second = ([id for id in ids if id[0] == name][:50] for ids in (one, other))
        assert first == second and len(first) == 50


def test_two_corpora_of_one_size_have_orders_of_their_own():
    ids = ids_of(read(6, source=Mixture([Ramps("a", 24), Ramps("b", 24)], [1, 1])))
    assert [id[1:] for id in ids if id[0] == "a"] != [id[1:] for id in ids if id[0] == "b"]


def test_another_seed_is_another_order_and_other_crops():
    long = Mixture([Ramps("a", 1), Ramps("b", 1)], [1, 1])
    (_, one), (_, two) = read(1, source=long, seed=1)[0], read(1, source=long, seed=2)[0]
    assert not np.array_equal(one, two)
    assert len({wave.tobytes() for wave in one}) == GLOBAL, "every row should draw its own gain"
    assert ids_of(read(3, seed=1)) != ids_of(read(3, seed=2))


def test_a_mixture_has_no_epochs():
    with pytest.raises(ValueError, match="no epochs"):
        make_batches(mixture(), batch_size=8, crop_samples=CROP, seed=0, num_epochs=1)


def test_evaluation_takes_every_clip_of_every_corpus_once():
    with make_eval_batches(mixture(), batch_size=8, crop_samples=CROP) as batches:
        ids = [id for batch in batches for id in batch["id"] if id]
    assert ids == [f"{name}{i}" for name, n in (("a", 23), ("b", 11), ("c", 7)) for i in range(n)]
    with pytest.raises(IndexError):
        mixture()[41]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("runs/a=0.7,toy_music:64=0.3", [("runs/a", 0.7), ("toy_music:64", 0.3)]),
        ("tfds:x:train[:50%]=2,gs://b/c=1e-1,d=1", [("tfds:x:train[:50%]", 2), ("gs://b/c", 0.1), ("d", 1)]),
        ("date=2020/a=1,b=2", [("date=2020/a", 1), ("b", 2)]),
        ("toy_music:64", None),
        ("tfds:nsynth:valid", None),
        ("runs/a=0.7", None),
        ("runs/rock,pop", None),
    ],
)
def test_the_form_of_a_mixture(spec, expected):
    assert parse_mixture(spec) == expected


@pytest.mark.parametrize("item", ["b", "b=", "=1", "b=much", "b=0", "b=-1", "b=nan", "b=inf"])
def test_not_the_form_of_a_mixture(item):
    with pytest.raises(UserError, match=r"is not CORPUS=WEIGHT .* such as runs/rock=0\.7,runs/folk=0\.3"):
        make_source(f"a=1,{item}")


def test_a_folder_that_has_such_a_name_is_that_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=1,b=2").mkdir()
    soundfile.write(tmp_path / "a=1,b=2/x.wav", np.ones(9000), 24000)
    assert len(make_source("a=1,b=2")) == 1


@pytest.fixture
def corpora(tmp_path):
    """A manifest with splits, shards with another one, and a folder without any."""
    for name, scale in (("one", 0.3), ("two", 0.1), ("three", 0.01)):
        (tmp_path / name).mkdir()
        for i in range(4):
            wave = np.random.default_rng(i).normal(0, scale, 6000)
            soundfile.write(tmp_path / name / f"{name}{i}.wav", wave, 24000)
        if name != "three":
            rows = [
                {"path": f"{name}/{name}{i}.wav", "split": "val" if i == 3 else "train"} for i in range(4)
            ]
            if name == "two":
                rows[3]["split"] = "train"
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(tmp_path / "two.jsonl", tmp_path / "shards")
    return f"{tmp_path}/one.jsonl=1,{tmp_path}/shards=2,{tmp_path}/three=1"


def test_splits_of_a_mixture(corpora, tmp_path):
    assert split_names(corpora) == {"train", "val"}
    train = make_source(corpora, split="train")
    assert Counter(train[i]["id"].rstrip("0123").rpartition("/")[2] for i in range(len(train))) == {
        "one": 3,
        "two": 4,
        "three": 4,
    }
    assert train.weights == [1, 2, 1]
    val = make_source(corpora, split="val")
    assert [val[i]["id"] for i in range(len(val))] == ["one/one3"]
    assert len(make_source(corpora)) == 12
    with pytest.raises(UserError, match="none of these has a split 'test'"):
        make_source(corpora, split="test")
    only_val = json.dumps({"path": "one/one3.wav", "split": "val"})
    (tmp_path / "val.jsonl").write_text(only_val + "\n")
    with pytest.raises(UserError, match=r"val\.jsonl: no clip of split 'train'"):
        make_source(f"{tmp_path}/val.jsonl=1,toy_music:64=1", split="train")


def test_statistics_of_a_mixture_are_those_of_what_is_drawn(corpora, tmp_path):
    prepare(tmp_path / "one.jsonl", tmp_path / "ones")
    spec = f"{tmp_path}/ones=1,{tmp_path}/shards=3"
    moments = MelMoments()
    for times, name in ((1, "ones"), (3, "shards")):
        source = make_source(tmp_path / name)
        for i in range(4 * times):
            moments = moments.merge(MelMoments.of(source[i % 4]["wave"]))
    expected = {name: moments.summary()[name] for name in ("mean", "std")}
    for found in (load_statistics(spec), mel_statistics(make_source(spec))):
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert load_statistics(corpora) is None


def test_mixed_statistics_by_hand():
    parts = [{"mean": 0.0, "std": 1.0, "count": 10}, {"mean": 4.0, "std": 2.0, "count": 5}]
    mixed = mix_statistics(parts, [30, 10])
    assert mixed == pytest.approx({"mean": 1.0, "std": np.sqrt(0.75 * (1 + 1) + 0.25 * (4 + 9)), "count": 15})
