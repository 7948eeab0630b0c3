"""The public classes: what goes in, what comes out, and what a clip's features may depend on."""

import errno
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.original import upstream_config
from muq_jax.convert import folder as model_folder
from muq_jax.convert import muq as muq_names
from muq_jax.convert import rules
from muq_jax.convert.reader import WEIGHTS, read_tensors
from muq_jax.errors import UserError
from muq_jax.inference import pretrained
from muq_jax.inference.mel_rvq import MelRVQ
from muq_jax.inference.pretrained import MuQ
from muq_jax.models.config_json import from_upstream_json
from tests.inference.conftest import random_muq


def assert_same_features(found, want, atol=2e-5):
    for a, b in zip(found.hidden_states, want.hidden_states, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def test_shapes_and_counts(muq, clips):
    out = muq(clips, sampling_rate=24_000)
    assert out.num_valid.tolist() == [25, 1, 11]
    assert len(out.hidden_states) == 3
    assert all(states.shape == (3, 25, 64) and states.dtype == np.float32 for states in out.hidden_states)
    assert out.last_hidden_state is out.hidden_states[2]
    np.testing.assert_allclose(out.times_seconds, np.arange(25) / 25)
    assert (muq.sample_rate_hz, muq.frame_rate_hz) == (24_000, 25)
    assert not out.last_hidden_state[2, 11:].any() and out.last_hidden_state[2, 10].any()


def test_a_clip_has_the_features_it_has_alone_in_any_order(muq, clips):
    alone = [muq([clip], sampling_rate=24_000) for clip in clips]
    for order in ([0, 1, 2], [2, 0, 1]):
        batch = muq([clips[i] for i in order], sampling_rate=24_000)
        for row, i in enumerate(order):
            tokens = alone[i].num_valid[0]
            assert batch.num_valid[row] == tokens
            for states, want in zip(batch.hidden_states, alone[i].hidden_states, strict=True):
                np.testing.assert_allclose(states[row, :tokens], want[0], atol=2e-5)


def test_alone_is_the_plain_pass_of_the_model(muq, clips):
    for clip in (clips[0], clips[2]):
        plain = jax.jit(muq.apply)(muq.variables, clip[None]).hidden_states
        np.testing.assert_allclose(
            np.stack(muq([clip], sampling_rate=24_000).hidden_states), plain, atol=2e-5
        )


def test_arrays_and_lists_agree_and_padding_is_not_heard(muq, clips):
    padded = np.full((2, 24_000), np.nan, np.float32)
    padded[0], padded[1, :9_961] = clips[0], clips[2]
    found = muq(padded, sampling_rate=24_000, num_samples=[24_000, 9_961])
    assert_same_features(found, muq([clips[0], clips[2]], sampling_rate=24_000))


def test_upstream_hears_the_padding(muq, clips):
    batch = np.stack([clips[0], np.pad(clips[2], (0, 24_000 - 9_961))])
    plain = jax.jit(muq.apply)(muq.variables, batch).hidden_states
    found = muq([clips[0], clips[2]], sampling_rate=24_000, compat="upstream")
    np.testing.assert_allclose(np.stack(found.hidden_states), plain, atol=2e-5)
    alone = muq([clips[0], clips[2]], sampling_rate=24_000)
    assert np.abs(found.last_hidden_state[1, :11] - alone.last_hidden_state[1, :11]).max() > 0.1
    assert found.num_valid.tolist() == alone.num_valid.tolist()


def test_other_rates_are_resampled(muq):
    def tone(rate):
        return (0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)

    found = muq([tone(48_000)], sampling_rate=48_000)
    want = muq([tone(24_000)], sampling_rate=24_000)
    assert found.num_valid == want.num_valid
    inner = slice(2, -2)  # the resampler's filter rings at the ends
    error = found.hidden_states[0][0, inner] - want.hidden_states[0][0, inner]
    assert np.sqrt(np.mean(error**2)) < 0.3 * want.hidden_states[0].std()


@pytest.mark.parametrize(
    "layers, numbers", [("last", [2]), (2, [2]), (-1, [2]), ([0, -1], [0, 2]), (np.array([2, 0]), [0, 2])]
)
def test_only_the_layers_asked_for_come_back(muq, clips, layers, numbers):
    every = muq(clips[:1], sampling_rate=24_000)
    some = muq(clips[:1], sampling_rate=24_000, layers=layers)
    for number, states in enumerate(some.hidden_states):
        if number in numbers:
            np.testing.assert_allclose(states, every.hidden_states[number], atol=1e-6)
        else:
            assert states is None
    assert (some.last_hidden_state is None) == (2 not in numbers)


@pytest.mark.parametrize("window_seconds", [1, 3.3, 1e9])
def test_a_window_that_holds_the_clips_is_one_pass_whatever_its_size(muq, clips, window_seconds):
    whole = muq(clips, sampling_rate=24_000)
    compiled = pretrained._features._cache_size()
    found = muq(clips, sampling_rate=24_000, window_seconds=window_seconds)
    assert_same_features(found, whole, atol=0)
    assert pretrained._features._cache_size() == compiled


def test_windows_match_the_pass_over_each_window(muq):
    rng = np.random.default_rng(0)
    clips = [(0.2 * rng.standard_normal(n)).astype(np.float32) for n in (24_000 * 3 + 333, 20_000)]
    found = muq(clips, sampling_rate=24_000, window_seconds=0.96).last_hidden_state
    assert found.shape == (2, 76, 64)
    # Windows of 24 tokens start every 12; of the second one, tokens 6 to 18 are kept.
    second = muq([clips[0][11_520:34_560]], sampling_rate=24_000).last_hidden_state
    np.testing.assert_allclose(found[0, 18:30], second[0, 6:18], atol=2e-5)
    alone = muq(clips[1:], sampling_rate=24_000).last_hidden_state
    np.testing.assert_allclose(found[1, :21], alone[0], atol=2e-5)


def test_one_compilation_serves_many_lengths_and_any_window_count(muq):
    rng = np.random.default_rng(0)
    before = pretrained._features._cache_size()
    for seconds in (0.95, 0.97, 1.0):
        muq(
            [rng.standard_normal(int(24_000 * seconds)).astype(np.float32)],
            sampling_rate=24_000,
            layers="last",
        )
    for seconds in (1.3, 2.7, 4.1):
        wave = rng.standard_normal(int(24_000 * seconds)).astype(np.float32)
        muq([wave], sampling_rate=24_000, layers="last", window_seconds=1)
    again = MuQ(muq.config, muq.variables)
    again([wave], sampling_rate=24_000, layers="last", window_seconds=1)
    assert pretrained._features._cache_size() <= before + 1


@pytest.mark.parametrize(
    "options, says",
    [
        ({"layers": 3}, "layers holds 3; this model's layers are numbered 0 to 2"),
        ({"layers": [0, -4]}, "layers holds -4"),
        ({"layers": "first"}, "layers is 'first'"),
        ({"layers": [True]}, "layers holds True"),
        ({"layers": []}, "layers is empty"),
        ({"compat": "torch"}, "compat is 'torch'"),
        ({"window_seconds": 0}, "window_seconds is 0"),
        ({"window_seconds": 5, "compat": "upstream"}, "compat='alone'"),
        ({"sampling_rate": -1}, "sampling_rate is -1"),
    ],
)
def test_wrong_options_are_named(muq, clips, options, says):
    with pytest.raises(UserError, match=says):
        muq(clips, **{"sampling_rate": 24_000, **options})


def test_the_rate_must_be_given(muq, clips):
    with pytest.raises(TypeError, match="sampling_rate"):
        muq(clips)


def test_apply_is_pure(muq, clips):
    wave = jnp.asarray(np.stack([clips[0], np.pad(clips[2], (0, 24_000 - 9_961))]))
    lengths = jnp.array([24_000, 9_961])

    @jax.jit
    def loss(variables):
        return jnp.mean(jnp.square(muq.apply(variables, wave, lengths).hidden_states[1]))

    params = jax.grad(loss)(muq.variables)["params"]
    assert jnp.abs(params["conformer"]["layers"]["ffn1"]["expand"]["kernel"][0]).max() > 0
    called = muq([clips[0], clips[2]], sampling_rate=24_000)
    found = jax.jit(muq.apply)(muq.variables, wave, lengths).hidden_states
    np.testing.assert_allclose(found, np.stack(called.hidden_states), atol=2e-5)


def test_apply_in_training_returns_new_statistics(muq, clips):
    wave = jnp.asarray(np.stack([clips[0], clips[0][::-1]]))
    train = jax.jit(lambda v, w, key: muq.apply(v, w, train=True, rngs={"dropout": key}))
    output, changed = train(muq.variables, wave, jax.random.key(0))
    assert output.hidden_states.shape == (3, 2, 25, 64)
    before, after = muq.variables["batch_stats"], changed["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert not np.allclose(jax.tree.leaves(before)[0], jax.tree.leaves(after)[0])
    evaluated = muq(wave, sampling_rate=24_000).hidden_states
    assert not np.allclose(output.hidden_states, np.stack(evaluated))


def test_bfloat16_is_close(muq, clips):
    half = MuQ(muq.config, muq.variables, dtype="bfloat16")
    found, want = (m(clips[:1], sampling_rate=24_000).last_hidden_state for m in (half, muq))
    assert found.dtype == np.float32
    error = np.sqrt(np.mean((found - want) ** 2) / np.mean(want**2))
    assert 1e-5 < error < 0.05
    with pytest.raises(UserError, match="dtype is 'float16'"):
        MuQ(muq.config, muq.variables, dtype="float16")


def test_save_and_load(muq, clips, tmp_path):
    muq.save_pretrained(tmp_path / "new" / "model")
    again = MuQ.from_pretrained(tmp_path / "new" / "model")
    assert again.config == muq.config
    for (path, a), (_, b) in zip(rules.flatten(again.variables), rules.flatten(muq.variables), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["model"]
    digest = rules.params_sha256(muq_names.to_torch_names(again.variables, again.config))
    assert digest in (tmp_path / "new" / "model" / "README.md").read_text()
    assert again.params is again.variables["params"]


def test_tensors_that_nobody_reads_survive(tmp_path):
    config = from_upstream_json(upstream_config())
    muq = random_muq(upstream_config())
    muq.save_pretrained(tmp_path / "a")
    tensors = read_tensors(tmp_path / "a")
    assert not tensors["model.cls_token"].any()
    tensors["model.cls_token"] = np.full(64, 0.5, np.float32)
    bias = tensors.pop("model.conformer.pos_conv_embed.conv.parametrizations.weight.original0")
    tensors["model.conformer.pos_conv_embed.conv.weight_g"] = bias + 2
    model_folder.write(tmp_path / "b", json.loads((tmp_path / "a" / "config.json").read_text()), tensors, "")
    MuQ.from_pretrained(tmp_path / "b").save_pretrained(tmp_path / "c")
    copied = read_tensors(tmp_path / "c")
    assert (copied["model.cls_token"] == 0.5).all()
    name = "model.conformer.pos_conv_embed.conv.parametrizations.weight.original0"
    assert (copied[name] == 2).all()
    assert (
        copied.keys()
        == rules.complete(muq_names.to_torch_names(muq.variables, config), muq_names.muq_table(config)).keys()
    )


def test_a_folder_in_upstreams_own_words_loads(muq, clips, tmp_path):
    muq.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(upstream_config()))
    assert_same_features(
        MuQ.from_pretrained(str(tmp_path / "model"))(clips, sampling_rate=24_000),
        muq(clips, sampling_rate=24_000),
        atol=0,
    )


def test_saving_twice_replaces_and_never_overwrites_what_is_no_model(muq, tmp_path):
    muq.save_pretrained(tmp_path / "model")
    muq.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["README.md", "config.json", WEIGHTS]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    with pytest.raises(UserError, match=r"photos holds cat\.jpg, which is no file of a model"):
        muq.save_pretrained(tmp_path / "photos")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "photos"]


def test_a_licence_goes_along(muq, tmp_path):
    muq.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "LICENSE").write_text("CC BY-NC 4.0")
    for model in (MuQ, MelRVQ):
        model.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b" / model.__name__)
        assert (tmp_path / "b" / model.__name__ / "LICENSE").read_text() == "CC BY-NC 4.0"


def test_a_full_disk_leaves_the_old_model_whole(muq, tmp_path, monkeypatch):
    muq.save_pretrained(tmp_path / "model")
    before = (tmp_path / "model" / WEIGHTS).read_bytes()

    def fails_halfway(path, tensors):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_folder, "write_tensors", fails_halfway)
    with pytest.raises(UserError, match="the disk is full"):
        muq.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_is_no_model_folder_is_named(muq, tmp_path):
    with pytest.raises(UserError, match="hf download OpenMuQ/MuQ-large-msd-iter"):
        MuQ.from_pretrained("OpenMuQ/MuQ-large-msd-iter", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(UserError, match="There is no folder"):
        MuQ.from_pretrained(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        MuQ.from_pretrained(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        MuQ.from_pretrained(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="does not say its model_type"):
        MuQ.from_pretrained(tmp_path / "empty")
    muq.save_pretrained(tmp_path / "odd")
    described = json.loads((tmp_path / "odd" / "config.json").read_text())
    (tmp_path / "odd" / "config.json").write_text(json.dumps(described | {"label_rate": "fast"}))
    with pytest.raises(UserError, match=r"odd: config\.json: label_rate is 'fast'; expected a whole number"):
        MuQ.from_pretrained(tmp_path / "odd")
    MelRVQ(muq.config.mel_rvq, muq.variables["rvq"]).save_pretrained(tmp_path / "rvq")
    with pytest.raises(UserError, match=r"type 'mel_rvq'; expected muq\. Load it with muq_jax\.MelRVQ"):
        MuQ.from_pretrained(tmp_path / "rvq")


def test_a_model_in_use_does_not_see_what_happens_to_its_file(muq, tmp_path):
    muq.save_pretrained(tmp_path / "a")
    again = MuQ.from_pretrained(tmp_path / "a")
    (tmp_path / "a" / WEIGHTS).write_bytes(b"")  # in place: the mapped pages are gone
    again.save_pretrained(tmp_path / "b")
    muq.save_pretrained(tmp_path / "c")
    assert (tmp_path / "b" / WEIGHTS).read_bytes() == (tmp_path / "c" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("window_seconds", [None, 0.5])
def test_a_call_after_warmup_compiles_nothing(muq, window_seconds):
    options = dict(layers=[1], window_seconds=window_seconds)
    assert muq.warmup(1.2, batch_size=3, **options) > 0
    before = pretrained._features._cache_size()
    muq([np.ones(28_000, np.float32)] * 3, sampling_rate=24_000, **options)
    assert pretrained._features._cache_size() == before
