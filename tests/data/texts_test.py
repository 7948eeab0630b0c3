"""Texts beside clips: read from labels, drawn as ids, whatever the clips are stored in."""

import json
import pickle

import numpy as np
import pytest
import soundfile

from muq_jax.data.convert import Settings
from muq_jax.data.pipeline import make_batches, make_eval_batches
from muq_jax.data.prepare import prepare
from muq_jax.data.sources import make_source
from muq_jax.data.texts import TextReader, check_texts, labels_at, text_of, texts_in, warn_of_cut_texts
from muq_jax.errors import UserError
from muq_jax.text.byte_pairs import fit_byte_pairs
from muq_jax.text.sentences import Sentences, Text
from muq_jax.text.tokenizer import open_tokenizer

ROWS = [
    {"path": "a.wav", "caption": "A slow piano piece.", "tags": ["piano", "slow"], "split": "train"},
    {"path": "b.wav", "tags": ["genre---folk", "instrument---fiddle"], "split": "train"},
    {"path": "c.wav", "caption": "一首缓慢的钢琴曲 🎹", "split": "train"},
    {"path": "d.wav", "caption": "long " * 2000, "split": "val"},
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for number, row in enumerate(ROWS):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 24_000 * (number + 1))
        soundfile.write(folder / row["path"], noise, 24_000)
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder / "all.jsonl"


@pytest.fixture(scope="module")
def tokenizer():
    return fit_byte_pairs(["A slow piano piece.", "piano, slow", "folk, fiddle"] * 5, 300)


def decoded(tokenizer, ids):
    return [open_tokenizer(tokenizer).decode([i for i in row if i != 1]) for row in ids.tolist()]


@pytest.mark.parametrize(
    "labels, expected",
    [
        ({"caption": " A song. "}, Text("A song.", ())),
        ({"tags": ["rock", "rock", "mood/theme---sad"]}, Text(None, (("", "rock"), ("mood/theme", "sad")))),
        (
            {"tags": {"genre": ["rock"], "mood": ["calm", "sad"]}},
            Text(None, (("genre", "rock"), ("mood", "calm"), ("mood", "sad"))),
        ),
        ({"caption": "x", "tags": [], "key": "C:maj"}, Text("x", ())),
        ({"caption": None, "tags": ["---"]}, Text(None, (("", "---"),))),
    ],
)
def test_captions_and_tags(labels, expected):
    assert text_of(labels, "here") == expected


@pytest.mark.parametrize(
    "labels, said",
    [
        ({}, "here: neither `caption` nor `tags`"),
        ({"tags": []}, "neither `caption` nor `tags`"),
        ({"caption": " \n", "tags": ["rock"]}, r"`caption` is ' \\n'; expected a text that is not empty"),
        ({"caption": 3}, "`caption` is 3; expected a text"),
        ({"tags": "rock"}, "`tags` is 'rock'; expected a list of names"),
        ({"tags": {"genre": "rock"}}, "expected a list of names"),
        ({"tags": ["rock", ""]}, "`tags` holds ''; expected names"),
        ({"tags": [None]}, "`tags` holds None"),
        ({"caption": "caf\udce9", "tags": ["a"]}, r"here: `caption`: the text 'caf\\udce9' has the half"),
        ({"tags": ["a", "\ud83c"]}, r"here: `tags`: the text '\\ud83c' has the half character"),
    ],
)
def test_what_is_no_text_is_named(labels, said):
    with pytest.raises(UserError, match=said):
        text_of(labels, "here")


def test_files_and_shards_have_the_same_texts(manifest, tmp_path):
    prepare(manifest, tmp_path / "shards", settings=Settings(piece_seconds=2.0))
    files, shards = make_source(manifest), make_source(tmp_path / "shards")
    assert len(shards) > len(files) == 4  # the longer clips lie there in pieces
    of_files = {labels_at(files, i)[0]: text for i, text in enumerate(texts_in(files))}
    found = [(labels_at(shards, i)[0], text) for i, text in enumerate(texts_in(shards))]
    assert {id for id, _ in found} == set(of_files)
    assert all(of_files[id] == text for id, text in found)
    for i in range(len(shards)):
        assert text_of(shards[i]["labels"], "") == of_files[shards[i]["id"].partition("@")[0]]


def test_labels_are_read_without_audio(manifest, monkeypatch):
    source = make_source(f"{manifest}=1,{manifest}=3")
    monkeypatch.setattr("muq_jax.data.sources.load_audio", lambda path: pytest.fail("it decodes"))
    assert len(list(texts_in(source))) == 8


def test_a_clip_without_text_is_named(manifest):
    rows = [*ROWS, {"path": "a.wav", "id": "mute"}]
    (manifest.parent / "mute.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mute = manifest.parent / "mute.jsonl"
    for spec in (mute, f"{manifest}=1,{mute}=1"):
        with pytest.raises(UserError, match=r"mute\.jsonl: clip 'mute': neither `caption` nor `tags`"):
            list(texts_in(make_source(spec)))


def test_a_source_without_texts_is_refused_before_it_is_read(manifest):
    rows = [{"path": "a.wav", "id": "mute"}, *ROWS, {"path": "b.wav", "id": "blank", "caption": " "}]
    (manifest.parent / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    some, whole = manifest.parent / "some.jsonl", make_source(manifest)
    for spec in (some, f"{manifest}=1,{some}=2"):
        with pytest.raises(
            UserError, match=r"some\.jsonl: audio without text, 2 of 6 .* The first: clip 'mute': neither"
        ):
            check_texts(make_source(spec))
    check_texts(whole)
    silent = [{"id": "x", "wave": np.zeros(9, np.float32)}]  # of which nothing is known without its audio
    with pytest.raises(UserError, match=r"1 of 1 examples that were looked at\. The first: clip 'x'"):
        check_texts(silent)


def test_text_without_audio_is_named(manifest):
    (manifest.parent / "gone.jsonl").write_text(json.dumps({"path": "gone.wav", "caption": "x"}))
    with pytest.raises(UserError, match=r"gone\.wav: no such audio file"):
        make_source(manifest.parent / "gone.jsonl")


def test_toy_music_says_what_it_is():
    assert all(text.caption for text in texts_in(make_source("toy_music:4")))


def test_evaluation_reads_every_text_whole_or_cut(manifest, tokenizer):
    texts = TextReader(Sentences(), tokenizer, 40)
    sizes = dict(batch_size=3, crop_samples=12_000)
    with make_eval_batches(make_source(manifest), texts=texts, **sizes) as batches:
        ids = np.concatenate([batch["ids"] for batch in batches])
    assert ids.shape == (6, 40) and ids.dtype == np.int32
    read = decoded(tokenizer, ids)
    assert read[:3] == ["a slow piano piece.", "folk, fiddle", "一首缓慢的钢琴曲 🎹"]
    assert read[3].startswith("long long") and ids[3, -1] == 2  # the mark of its end is kept
    assert (ids[4:] == 1).all()  # what fills up the last batch has no text


def test_it_is_said_how_many_texts_are_cut(manifest, tokenizer, caplog):
    reader = TextReader(Sentences(), tokenizer, 100)
    warn_of_cut_texts(make_source(manifest, split="train"), reader)
    warn_of_cut_texts([{"id": "x", "wave": np.zeros(9, np.float32)}], reader)  # not decoded to find out
    assert caplog.text == ""
    warn_of_cut_texts(make_source(f"{manifest}=1,toy_music:4=1"), reader)
    assert (
        "all.jsonl: of 4 texts that were looked at 1 are longer than data.text.max_tokens=100" in caplog.text
    )
    assert len(caplog.records) == 1


def test_training_draws_texts_and_changes_no_crop(manifest, tokenizer):
    texts = TextReader(Sentences(plain_rate=1.0, caption_dropout=0.5, tag_dropout=0.5), tokenizer, 40)
    source = make_source(manifest, split="train")

    def batches(**options):
        with make_batches(source, batch_size=3, crop_samples=6000, seed=3, num_epochs=20, **options) as found:
            return list(found)

    with_texts, without = batches(texts=texts), batches()
    for one, other in zip(with_texts, without, strict=True):
        np.testing.assert_array_equal(one["wave"], other["wave"])
        assert one["id"] == other["id"] and "ids" not in other
    drawn = {id: set() for id in "abc"}
    for batch in with_texts:
        for id, text in zip(batch["id"], decoded(tokenizer, batch["ids"]), strict=True):
            drawn[id].add(text)
    assert drawn["a"] == {"a slow piano piece.", "piano", "slow", "piano, slow", "slow, piano"}
    assert drawn["b"] == {"folk", "fiddle", "folk, fiddle", "fiddle, folk"}
    assert drawn["c"] == {"一首缓慢的钢琴曲 🎹"}
    again = batches(texts=pickle.loads(pickle.dumps(texts)))
    for one, other in zip(with_texts, again, strict=True):
        np.testing.assert_array_equal(one["ids"], other["ids"])


@pytest.mark.slow
def test_worker_processes_draw_the_same_texts(manifest, tokenizer):
    texts = TextReader(Sentences(caption_dropout=0.5), tokenizer, 40)
    found = []
    for num_workers in (0, 2):
        options = dict(batch_size=3, crop_samples=6000, seed=3, num_epochs=4, num_workers=num_workers)
        with make_batches(make_source(manifest, split="train"), texts=texts, **options) as batches:
            found.append(np.stack([batch["ids"] for batch in batches]))
    np.testing.assert_array_equal(*found)


def test_a_reader_is_told_in_few_words(tokenizer):
    """It is a part of a data set, which Grain prints."""
    assert len(repr(TextReader(Sentences(), tokenizer, 40))) < 300


def test_too_few_tokens_are_refused(tokenizer):
    with pytest.raises(UserError, match=r"data\.text\.max_tokens=2: expected 3 or more"):
        TextReader(Sentences(), tokenizer, 2)
