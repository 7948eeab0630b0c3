"""Zero-shot tasks with planted vectors: the answers are known."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from muq_jax.errors import UserError
from muq_jax.inference.tag import Tagger
from muq_jax.probe import zero_shot as module
from muq_jax.probe.datasets.captions import read_captions
from muq_jax.probe.datasets.folder import published_problem
from muq_jax.probe.prompts import Prompts
from muq_jax.probe.task import Dataset, Item, Task
from muq_jax.probe.tasks import find_task
from muq_jax.probe.zero_shot import (
    is_done,
    load_mulan,
    parts_of,
    select,
    texts_of,
    train_counts,
    wanted,
    zero_shot,
)
from muq_jax.probe.zero_shot_scores import CALIBRATED, RAW, WEIGHTED, over_tracks
from tests.probe.planted_words import encoder_of, hear

SIZE = 16
AXES = np.eye(SIZE)
GENRES = ("rock", "jazz", "folk")
GENRE = Task("genre", "genre", "classification", ("accuracy",), lambda data: None)


def plain(labels):
    return Prompts({label: [label] for label in labels}, "test")


def genre_dataset(labels, tmp_path):
    items = [Item(f"t{n}", "test", label, tmp_path / f"{n}.wav") for n, label in enumerate(labels)]
    return Dataset([*items, Item("other", "val", "rock", tmp_path / "val.wav")], GENRES)


def test_genres_by_the_nearest_word(tmp_path, monkeypatch):
    labels = ["rock", "jazz", "folk", "jazz", "jazz"]
    vectors = {f"t{n}": AXES[GENRES.index(label)] for n, label in enumerate(labels)}
    vectors["t2"] = 0.8 * AXES[0] + 0.6 * AXES[2]  # folk that sounds like rock
    monkeypatch.setattr(module, "hear_tracks", hear(vectors))
    dataset = select(GENRE, genre_dataset(labels, tmp_path), "test")
    encoder = encoder_of(dict(zip(GENRES, AXES, strict=False)))
    prompts = plain(GENRES)
    found = zero_shot(GENRE, dataset, encoder, prompts, tmp_path, command="probe it")
    content, (part,) = found.content, found.content["parts"]
    assert part["scores"][RAW] == {"accuracy": 0.8} and part["num_items"] == 5
    assert part["chance"] == {"accuracy": pytest.approx(1 / 3)} and part["majority"] == {"accuracy": 0.6}
    assert content["confusion"] == [[1, 0, 0], [0, 3, 0], [1, 0, 0]]
    assert content["label_counts"] == {"rock": 1, "jazz": 3, "folk": 1}
    assert (content["weights_sha256"], content["prompts_sha256"]) == ("w" * 64, prompts.sha256)
    assert content["prompts"]["texts"] == {label: [label] for label in GENRES}
    assert content["published"] == {} and content["problems"] == [] and content["command"] == "probe it"
    json.dumps(content)
    view = found.view
    np.testing.assert_allclose(view.similarities[2], [0.8, 0, 0.6], atol=1e-6)
    assert view.right.sum() == 5 and view.right[2].tolist() == [False, False, True]
    assert view.said[3] == "jazz" and view.texts == list(GENRES)


def test_frequent_labels_weigh_more_where_a_training_split_tells(tmp_path, monkeypatch):
    dataset = genre_dataset(["rock", "jazz"], tmp_path)
    assert train_counts(GENRE, dataset, "test") is None
    labels = ["jazz"] * 30 + ["rock"] * 2
    more = [Item(f"l{n}", "train", label, tmp_path / f"l{n}.wav") for n, label in enumerate(labels)]
    whole = dataclasses.replace(dataset, items=[*dataset.items, *more])
    counts = train_counts(GENRE, whole, "test")
    assert counts == {"jazz": 30, "rock": 2}
    assert train_counts(dataclasses.replace(GENRE, kind="multilabel"), whole, "test") is None
    assert train_counts(GENRE, whole, "train") is None  # labels of what is scored are not looked at
    # The second is jazz that sounds a little more like rock.
    vectors = {"t0": AXES[0], "t1": 0.75 * AXES[0] + 0.66 * AXES[1]}
    monkeypatch.setattr(module, "hear_tracks", hear(vectors))
    encoder = encoder_of(dict(zip(GENRES, AXES, strict=False)))
    encoder.mulan.variables = {"params": {"log_temperature": np.log(10.0)}}
    test, prompts = select(GENRE, whole, "test"), plain(GENRES)
    found = zero_shot(GENRE, test, encoder, prompts, tmp_path, counts=counts)
    (part,) = found.content["parts"]
    assert part["scores"][RAW]["accuracy"] == 0.5 and part["scores"][WEIGHTED]["accuracy"] == 1.0
    assert found.content["train_counts"] == counts
    path = tmp_path / "result.json"
    path.write_text(json.dumps(found.content))
    assert is_done(path, wanted(GENRE, test, encoder, prompts, counts), test)
    with pytest.raises(UserError, match="holds a result whose train_counts is "):
        is_done(path, wanted(GENRE, test, encoder, prompts, {"jazz": 1}), test)


def test_calibrated_scores_are_the_tagger_s_over_tracks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    labels = [GENRES[n % 3] for n in range(11)]
    vectors = {f"t{n}": 0.05 * rng.standard_normal(SIZE) + AXES[n % 3] for n in range(11)}
    monkeypatch.setattr(module, "hear_tracks", hear(vectors))
    # "rock" is a hub: it fits every track better than the others do.
    words = {"rock": AXES[:3].sum(axis=0), "jazz": 0.2 * AXES[1] + AXES[8], "folk": 0.2 * AXES[2] + AXES[9]}
    encoder = encoder_of(words)
    dataset = select(GENRE, genre_dataset(labels, tmp_path), "test")
    found = zero_shot(GENRE, dataset, encoder, plain(GENRES), tmp_path)
    scores, similarities = Tagger(encoder.mulan, GENRES, ["{}"])(
        np.stack(list(vectors.values())).astype(np.float32)
    )
    np.testing.assert_allclose(found.view.scores, over_tracks(scores), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.view.similarities, similarities, atol=1e-5)
    accuracy = {name: own["accuracy"] for name, own in found.content["parts"][0]["scores"].items()}
    assert accuracy[CALIBRATED] > accuracy[RAW]


@pytest.fixture
def tagged(tmp_path):
    """MagnaTagATune of 40 test clips, 13 without a tag, and vectors that have something of their tags."""
    task, rng = find_task("magnatagatune"), np.random.default_rng(1)
    tags = ("guitar", "flute", "no vocals", "choral")
    items, vectors = [], {}
    for n in range(40):
        label = tuple(tag for tag in tags[:3] if rng.random() < 0.35) if n >= 13 else ()
        label = label or (("guitar",) if n >= 13 else ())
        items.append(Item(f"f/{n}", "test", label, tmp_path / f"{n}.mp3"))
        own = sum((AXES[tags.index(tag)] for tag in label), np.zeros(SIZE))
        vectors[f"f/{n}"] = own + 0.8 * rng.standard_normal(SIZE)
    return task, Dataset(items, tags, {"audio missing": 2}), vectors, dict(zip(tags, AXES, strict=False))


def test_both_test_splits_of_magnatagatune(tagged, tmp_path, monkeypatch):
    task, dataset, vectors, words = tagged
    monkeypatch.setattr(module, "hear_tracks", hear(vectors))
    found = zero_shot(task, select(task, dataset, "test"), encoder_of(words), plain(words), tmp_path)
    whole, cleaned = found.content["parts"]
    assert (whole["name"], whole["num_items"], whole["num_published"]) == ("test", 40, 5_329)
    assert (cleaned["name"], cleaned["num_items"], cleaned["num_published"]) == ("test, cleaned", 27, 4_332)
    right = np.array([[tag in item.label for tag in words] for item in dataset.items])
    similarities = np.stack([vectors[item.id] for item in dataset.items]) @ AXES[:4].T
    for part, rows in ((whole, slice(None)), (cleaned, slice(13, None))):
        truth, scores = right[rows, :3], similarities[rows, :3]
        assert part["scores"][RAW] == {
            "roc_auc": pytest.approx(roc_auc_score(truth, scores), abs=1e-6),
            "average_precision": pytest.approx(average_precision_score(truth, scores), abs=1e-6),
        }
        assert part["without_positives"] == {"roc_auc": ["choral"], "average_precision": ["choral"]}
    assert whole["scores"] != cleaned["scores"]
    # Not the published clips, so no published score stands beside these.
    assert found.content["published"] == {}
    assert [problem.split(":")[0] for problem in found.content["problems"]] == [
        "magnatagatune, test",
        "magnatagatune, test, cleaned",
    ]


def test_published_scores_stand_beside_their_own_split_alone(tagged, tmp_path, monkeypatch):
    task, dataset, vectors, words = tagged
    monkeypatch.setattr(module, "hear_tracks", hear(vectors))
    monkeypatch.setattr(module, "NUM_TEST_CLEANED", 27)
    whole = dataclasses.replace(task, counts=(1, 1, 40))
    found = zero_shot(
        whole, select(whole, dataset, "test"), encoder_of(words), plain(words), tmp_path
    ).content
    assert list(found["published"]) == ["test, cleaned"] and found["problems"] == []
    rows = {row["model"]: row for row in found["published"]["test, cleaned"]}
    assert rows["MuQ-MuLan"]["scores"] == {"roc_auc": 0.793, "average_precision": 0.293}
    assert rows["MuQ-MuLan"]["source"] == "MuQ (arXiv 2501.01108) table 5" and len(rows) == 6
    # One that was not heard, and they are other clips.
    del vectors["f/20"]
    monkeypatch.setattr(module, "hear_tracks", hear(vectors, {"f/20": "f/20.mp3: no such file"}))
    fewer = zero_shot(
        whole, select(whole, dataset, "test"), encoder_of(words), plain(words), tmp_path
    ).content
    assert fewer["published"] == {} and "26 clips were heard; published are 27" in fewer["problems"][-1]
    # Of another split than test, nothing is published.
    assert [part.has_published_scores for part in parts_of(task, "val")] == [False, False]


@pytest.fixture
def captions(tmp_path):
    """Seven tracks with five texts; two of them share one."""
    said = ["a", "b", "c", "a", "d", "e", "e"]
    rows = [{"path": f"{n}.wav", "caption": f"text {text}", "tags": [text]} for n, text in enumerate(said)]
    path = tmp_path / "clips.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_captions(path), {f"text {text}": AXES["abcde".index(text)] for text in "abcde"}


def test_retrieval(captions, tmp_path, monkeypatch):
    dataset, words = captions
    vectors = {item.id: words[item.label[0].caption] for item in dataset.items}
    vectors["3"] = AXES[9]  # text a, but nothing like it: its other track is a hit all the same
    monkeypatch.setattr(module, "hear_tracks", hear(vectors))
    found = zero_shot(None, dataset, encoder_of(words), texts_of(dataset), tmp_path)
    texts, tracks = found.content["parts"]
    assert texts["scores"][RAW]["recall_at_1"] == 1 and texts["scores"][RAW]["median_rank"] == 1
    assert texts["scores"][RAW]["map_at_10"] < 1
    # Track 3 is alike to all five texts, so a guess.
    assert tracks["scores"][RAW]["recall_at_1"] == pytest.approx((6 + 1 / 5) / 7)
    assert tracks["chance"]["recall_at_1"] == pytest.approx(1 / 5)
    assert texts["chance"]["recall_at_1"] == pytest.approx((3 * 1 / 7 + 2 * 2 / 7) / 5)
    assert found.content["num_texts"] == 5 and "texts" not in found.content["prompts"]
    assert found.view.groups[4] == ("d",) and found.view.said[4] == "text d"


def test_a_track_of_which_two_things_are_said_is_found_by_both(tmp_path, monkeypatch):
    said = (("a", 0), ("b", 1), ("c", 0))
    rows = [{"path": f"{n}.wav", "id": text, "caption": text} for text, n in said]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = read_captions(tmp_path / "clips.jsonl")
    monkeypatch.setattr(module, "hear_tracks", hear({"a": AXES[0], "b": AXES[1]}))
    words = {"a": AXES[0], "b": AXES[1], "c": AXES[0] - 0.1 * AXES[1]}
    found = zero_shot(None, dataset, encoder_of(words), texts_of(dataset), tmp_path)
    texts, tracks = found.content["parts"]
    assert (texts["num_items"], tracks["num_items"]) == (3, 2) and found.view.said == ["a; c", "b"]
    assert texts["scores"][RAW]["recall_at_1"] == 1 and tracks["scores"][RAW]["recall_at_1"] == 1
    assert tracks["chance"]["recall_at_1"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_long_texts_and_odd_names_are_told(tmp_path, monkeypatch):
    items = [Item(f"t\udce9{n}", "test", GENRES[n], tmp_path / f"{n}.wav") for n in range(2)]
    monkeypatch.setattr(module, "hear_tracks", hear({item.id: AXES[n] for n, item in enumerate(items)}))
    dataset = select(GENRE, Dataset(items, GENRES), "test")
    prompts = Prompts({label: [label, label + " music" * 100] for label in GENRES}, "test")
    found = zero_shot(GENRE, dataset, encoder_of({}), prompts, tmp_path)
    said = "Of 6 texts 3 are longer than the model reads; their ends are not read."
    assert said in found.content["problems"]
    assert found.view.names == ["t\\udce90", "t\\udce91"]


def test_a_text_whose_tracks_all_failed_is_not_asked_for(captions, tmp_path, monkeypatch):
    dataset, words = captions
    vectors = {item.id: words[item.label[0].caption] for item in dataset.items if item.id != "2"}
    monkeypatch.setattr(module, "hear_tracks", hear(vectors, {"2": "2.wav: no such file"}))
    found = zero_shot(None, dataset, encoder_of(words), texts_of(dataset), tmp_path)
    assert found.view.texts == [f"text {text}" for text in "abde"] and found.view.right.any(axis=0).all()
    assert found.content["parts"][0]["num_items"] == 4 and found.content["failures"] == {
        "2": "2.wav: no such file"
    }
    assert "Of 7 tracks 1 could not be heard" in found.content["problems"][-1]


def test_a_result_that_is_there(captions, tmp_path, monkeypatch):
    dataset, words = captions
    vectors = {item.id: words[item.label[0].caption] for item in dataset.items if item.id != "2"}
    monkeypatch.setattr(module, "hear_tracks", hear(vectors, {"2": "no"}))
    encoder, prompts = encoder_of(words), texts_of(dataset)
    path = tmp_path / "result.json"
    asked = wanted(None, dataset, encoder, prompts)
    assert not is_done(path, asked, dataset)
    path.write_text(json.dumps(zero_shot(None, dataset, encoder, prompts, tmp_path).content))
    assert not is_done(path, asked, dataset)  # one could not be heard: it is tried again
    monkeypatch.setattr(module, "hear_tracks", hear(vectors | {"2": AXES[7]}))
    path.write_text(json.dumps(zero_shot(None, dataset, encoder, prompts, tmp_path).content))
    assert is_done(path, asked, dataset)
    for name, value in {"encoder": "another", "metrics": ["accuracy"]}.items():
        with pytest.raises(UserError, match=f"holds a result whose {name} is"):
            is_done(path, {**asked, name: value}, dataset)
    fewer = Dataset(dataset.items[1:], dataset.classes)
    with pytest.raises(UserError, match=r"holds a result whose split_sha256 is .*Give another --out"):
        is_done(path, asked, fewer)
    with pytest.raises(UserError, match="holds a result whose prompts_sha256"):
        is_done(path, {**asked, "prompts_sha256": "0"}, dataset)
    encoder.mulan.tokenizer = SimpleNamespace(source=b"other pieces")
    with pytest.raises(UserError, match="holds a result whose tokenizer_sha256"):
        is_done(path, wanted(None, dataset, encoder, prompts), dataset)
    path.write_text("[]")
    with pytest.raises(UserError, match="not a result of `probe`"):
        is_done(path, asked, dataset)


def test_a_vocabulary_of_one_s_own(tmp_path):
    dataset = genre_dataset(["rock", "jazz"], tmp_path)
    assert select(GENRE, dataset, "test", ("jazz", "rock", "polka")).classes == ("jazz", "rock", "polka")
    assert [item.id for item in select(GENRE, dataset, "test").items] == ["t0", "t1"]


def test_tracks_that_are_also_trained_on_are_told(tmp_path):
    dataset = genre_dataset(["rock", "jazz"], tmp_path)
    assert select(GENRE, dataset, "test").problems == ()
    again = dataclasses.replace(dataset.items[1], id="again", split="train")
    more = dataclasses.replace(dataset, items=[*dataset.items, again])
    (problem,) = select(GENRE, more, "test").problems
    assert problem.startswith("Of 2 tracks 1 are in another split, too, such as")


@pytest.mark.parametrize(
    ("changes", "split", "classes", "says"),
    [
        (
            {"kind": "regression"},
            "test",
            None,
            "these are regression; zero_shot takes classification and multilabel",
        ),
        ({}, "dev", None, "no split 'dev'; expected train, val, test"),
        ({}, "val", None, "found 0 train, 1 val, 2 test clips; expected at least two in val"),
        ({}, "test", ("rock",), "the classes are rock; expected two or more, each once"),
        ({}, "test", ("rock", "rock", "jazz"), "expected two or more, each once"),
        (
            {},
            "test",
            ("rock", "folk"),
            "clip 't1' has the label 'jazz', which is out of the vocabulary: rock, folk",
        ),
    ],
)
def test_tasks_that_cannot_be_done_by_words(changes, split, classes, says, tmp_path):
    task = dataclasses.replace(GENRE, **changes)
    with pytest.raises(UserError, match=says):
        select(task, genre_dataset(["rock", "jazz"], tmp_path), split, classes)


def test_counts_of_splits_that_are_not_heard_are_no_problem(tagged):
    task, dataset, _, _ = tagged
    problems = (*published_problem((0, 0, 40), task.counts), "Something else.")
    counted = dataclasses.replace(dataset, problems=problems)
    assert len(problems) == 2
    assert select(task, counted, "test").problems == ("Something else.",)


def test_models_that_know_no_text_are_refused():
    with pytest.raises(UserError, match=r"logmel has no text tower, .* needs a MuQ-MuLan"):
        load_mulan("logmel")
