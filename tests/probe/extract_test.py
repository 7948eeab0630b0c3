import dataclasses
from functools import partial

import numpy as np
import pytest
import soundfile

from muq_jax.errors import UserError
from muq_jax.probe import extract
from muq_jax.probe.extract import Cut, features_of, load_wave, long_enough, windows
from muq_jax.probe.ready import ReadyFeatures
from muq_jax.probe.task import Item
from tests.probe import planted
from tests.probe.planted import Hearing

RATE_HZ = 24_000


def wave(seconds, seed=0):
    return np.random.default_rng(seed).normal(size=round(seconds * RATE_HZ)).astype(np.float32)


def planted_item(number, levels, **changes):
    return dataclasses.replace(planted.item(number, "train", "a", levels), **changes)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 2.0, 2.5, 4.0, 4.001])
def test_windows_cover_a_clip_once(seconds):
    found = windows(wave(seconds), Cut(1.0))
    whole = np.concatenate(found)
    assert all(len(w) == RATE_HZ for w in found[:-1])
    # A remainder too short to be heard, under 1,025 samples, is left out.
    assert 0 <= round(seconds * RATE_HZ) - len(whole) < 1025
    np.testing.assert_array_equal(whole, wave(seconds)[: len(whole)])


@pytest.mark.parametrize(("seconds", "count"), [(0.4, 1), (1.0, 1), (1.9, 1), (2.0, 2), (2.99, 2)])
def test_a_short_last_window_is_dropped_unless_it_is_all(seconds, count):
    assert len(windows(wave(seconds), Cut(1.0, drop_short=True))) == count


def test_silence_is_trimmed_and_windows_standardised():
    silent = np.zeros(RATE_HZ, np.float32)
    (found,) = windows(np.concatenate([silent, 0.1 + wave(0.5), silent]), Cut(3.0, trim_silence=True))
    assert len(found) < 0.7 * RATE_HZ
    assert abs(found.mean()) < 1e-4 and found.std() == pytest.approx(1, abs=1e-3)
    (nothing,) = windows(silent, Cut(3.0, trim_silence=True))
    assert np.isfinite(nothing).all()


def test_a_clip_is_cropped_before_it_is_cut():
    assert [len(w) for w in windows(wave(5.0), Cut(2.0, crop_seconds=3.0))] == [2 * RATE_HZ, RATE_HZ]


def test_remainders_count_only_where_they_are_all():
    assert long_enough(np.array([5.0, 5.0, 0.3])).tolist() == [True, True, False]
    assert long_enough(np.array([0.3])).tolist() == [True]


def test_a_stretch_of_a_recording(tmp_path):
    sound = 0.1 * wave(3.0)
    soundfile.write(tmp_path / "a.wav", sound, RATE_HZ, subtype="FLOAT")
    item = Item("a", "train", "x", tmp_path / "a.wav", start_seconds=1.0, end_seconds=2.5)
    np.testing.assert_array_equal(load_wave(item), sound[RATE_HZ : round(2.5 * RATE_HZ)])
    with pytest.raises(UserError, match=r"a: 0.000 s of sound from 4 s on.*needs 0.043 s"):
        load_wave(dataclasses.replace(item, start_seconds=4.0, end_seconds=None))


def test_every_clip_is_heard_once_in_batches_of_one_shape(tmp_path):
    items = [planted_item(i, [i % 5] * (20 + i)) for i in range(7)]
    encoder = Hearing()
    shapes = set()
    frames = encoder.frames
    encoder.frames = lambda waves, lengths: shapes.add(waves.shape) or frames(waves, lengths)
    first = features_of(items, encoder, Cut(2.0), tmp_path)
    assert shapes == {(4, 2 * RATE_HZ)} and encoder.calls == 2
    again = features_of(items, encoder, Cut(2.0), tmp_path)
    assert encoder.calls == 2
    for a, b in zip(first.pooled, again.pooled, strict=True):
        np.testing.assert_array_equal(a.vectors, b.vectors)
    # The same sound under another name is the same sound.
    twin = planted_item(99, [3] * 23)
    features_of([twin], encoder, Cut(2.0), tmp_path)
    assert encoder.calls == 2
    features_of(items, encoder, Cut(1.0), tmp_path)
    assert encoder.calls > 2, "other windows are other features"


@pytest.mark.parametrize("pooled_first", [True, False])
def test_frames_of_all_windows_follow_each_other_and_are_what_is_pooled(pooled_first, tmp_path):
    levels = np.arange(120) % 8
    items = [planted_item(0, levels), planted_item(1, levels[:30])]
    if pooled_first:
        features_of(items, Hearing(), Cut(2.0), tmp_path)
    found = features_of(items, Hearing(), Cut(2.0), tmp_path, frames=True)
    frames = found.frames(0)
    assert frames.shape == (2, 120, 9)
    np.testing.assert_array_equal(frames[1, :, :8].argmax(axis=1), levels)
    pooled = found.pooled[0]
    assert pooled.seconds.tolist() == [2.0, 2.0, pytest.approx(0.8)]
    np.testing.assert_allclose(pooled.vectors[1], frames[:, 50:100].mean(axis=1), atol=2e-2)
    assert found.frames(1).shape == (2, 30, 9)


def test_clips_that_cannot_be_heard_are_named_and_the_rest_goes_on(tmp_path):
    good = planted_item(0, [1] * 30)
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing")
    soundfile.write(tmp_path / "short.wav", np.zeros(100), RATE_HZ)
    bad = [
        Item("bad", "train", "a", tmp_path / "bad.wav"),
        Item("gone", "train", "a", tmp_path / "gone.wav"),
        Item("short", "train", "a", tmp_path / "short.wav"),
    ]
    found = features_of([bad[0], good, *bad[1:]], Hearing(), Cut(2.0), tmp_path / "cache")
    assert [item.id for item in found.items] == ["clip-0"]
    assert set(found.failures) == {"bad", "gone", "short"}
    assert "no such file" in found.failures["gone"] and "0.004 s of sound" in found.failures["short"]
    with pytest.raises(UserError, match=r"no clip could be heard; the first: .*(bad|gone)\.wav"):
        features_of(bad, Hearing(), Cut(2.0), tmp_path / "cache")


def test_features_that_are_no_numbers_are_refused(tmp_path):
    class Broken(Hearing):
        def frames(self, waves, num_samples):
            states, num_valid = super().frames(waves, num_samples)
            return np.full_like(states, np.nan), num_valid

    with pytest.raises(UserError, match=r"no clip could be heard; the first: hearing: .*hold NaN"):
        features_of([planted_item(0, [1] * 30)], Broken(), Cut(2.0), tmp_path)


def test_an_encoder_without_frames(tmp_path):
    encoder = Hearing()
    encoder.frame_rate_hz = None
    with pytest.raises(UserError, match="one vector a clip; this task needs one a frame"):
        features_of([planted_item(0, [1] * 30)], encoder, Cut(2.0), tmp_path, frames=True)


def test_a_function_is_asked_for_its_sound_once_to_know_it(tmp_path):
    calls = []

    def sound():
        calls.append(1)
        return planted.steps([2] * 30)

    item = dataclasses.replace(planted_item(0, [1]), audio=partial(sound))
    features_of([item], Hearing(), Cut(2.0), tmp_path)
    num_calls = len(calls)
    features_of([item], Hearing(), Cut(2.0), tmp_path)
    assert num_calls == 2 and len(calls) == 2, "once to know it, once to hear it"


@pytest.mark.parametrize(("more", "lengths"), [(0, [24_000]), (1024, [24_000]), (1025, [24_000, 1025])])
def test_a_remainder_is_heard_from_1025_samples_on(more, lengths):
    sound = wave(2.0)[: RATE_HZ + more]
    assert [len(w) for w in windows(sound, Cut(1.0))] == lengths


def test_what_is_cropped_may_leave_a_short_window():
    cut = Cut(2.0, drop_short=True, crop_seconds=1.5)
    assert [len(w) for w in windows(wave(5.0), cut)] == [36_000], "dropped unless it is all"


def test_every_window_is_standardised_by_itself():
    loud_and_quiet = np.concatenate([3 + wave(1.0), 0.5 * wave(1.0, 1) - 1])
    first, second = windows(loud_and_quiet, Cut(1.0, trim_silence=True))
    for found, seed in ((first, 0), (second, 1)):
        sound = wave(1.0, seed).astype(np.float64)
        np.testing.assert_allclose(found, (sound - sound.mean()) / sound.std(), atol=1e-3)
        assert found.dtype == np.float32


def test_a_click_in_silence_is_not_trimmed_to_nothing():
    click = np.zeros(3 * RATE_HZ, np.float32)
    click[RATE_HZ] = 1.0
    (found,) = windows(click, Cut(5.0, trim_silence=True))
    assert 1025 <= len(found) < 3 * RATE_HZ and np.isfinite(found).all()


@pytest.mark.parametrize("times", [(-1.0, None), (float("nan"), None), (1.0, 0.5), (0.0, -0.1), (9.0, 10.0)])
def test_impossible_stretches_fail_alone(times, tmp_path):
    good = planted_item(0, [1] * 100)
    bad = planted_item(1, [2] * 100, start_seconds=times[0], end_seconds=times[1])
    found = features_of([good, bad], Hearing(), Cut(2.0), tmp_path)
    assert [item.id for item in found.items] == ["clip-0"] and list(found.failures) == ["clip-1"]
    assert "clip-1" in found.failures["clip-1"] and "times" in found.failures["clip-1"]


def test_a_file_that_may_not_be_read_fails_alone(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "secret.wav", 0.1 * wave(1.0), RATE_HZ)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(extract, "load_audio", refuse)
    items = [planted_item(0, [1] * 30), Item("secret", "train", "a", tmp_path / "secret.wav")]
    found = features_of(items, Hearing(), Cut(2.0), tmp_path / "cache")
    assert list(found.failures) == ["secret"] and "Permission denied" in found.failures["secret"]


def test_a_function_that_has_no_sound_fails_alone(tmp_path):
    def broken():
        raise UserError("example 7 is damaged")

    items = [planted_item(0, [1] * 30), dataclasses.replace(planted_item(1, [1]), audio=broken)]
    found = features_of(items, Hearing(), Cut(2.0), tmp_path)
    assert found.failures == {"clip-1": "example 7 is damaged"}


def test_a_name_that_is_not_in_utf_8(tmp_path):
    path = tmp_path / "caf\udce9.wav"
    try:
        soundfile.write(tmp_path / "a.wav", planted.steps([0.5] * 30), RATE_HZ)
        (tmp_path / "a.wav").rename(path)
    except OSError:
        pytest.skip("this file system has no such names")
    found = features_of([Item("a", "train", "x", path)], Hearing(), Cut(2.0), tmp_path / "cache")
    assert found.failures == {}


@pytest.mark.parametrize("cached", [True, False])
def test_the_same_sound_under_two_ids_is_heard_once(cached, tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * wave(1.0), RATE_HZ)
    soundfile.write(tmp_path / "short.wav", np.zeros(100), RATE_HZ)
    encoder = Hearing()
    encoder.batch_size = 1
    files = ["a.wav", "a.wav", "short.wav", "short.wav"]
    items = [Item(str(i), "train", "x", tmp_path / name) for i, name in enumerate(files)]
    found = features_of(items, encoder, Cut(2.0), tmp_path / "cache" if cached else None)
    assert encoder.calls == 1 and [item.id for item in found.items] == ["0", "1"]
    np.testing.assert_array_equal(found.pooled[0].vectors, found.pooled[1].vectors)
    assert set(found.failures) == {"2", "3"}


def test_two_stretches_of_a_file_are_two_sounds(tmp_path):
    soundfile.write(tmp_path / "a.wav", planted.steps([0.25] * 25 + [0.75] * 25), RATE_HZ, subtype="FLOAT")
    whole = Item("a", "train", "x", tmp_path / "a.wav", end_seconds=1.0)
    rest = dataclasses.replace(whole, id="b", start_seconds=1.0, end_seconds=None)
    found = features_of([whole, rest], Hearing(), Cut(2.0), tmp_path / "cache")
    assert [float(pooled.vectors[0, 1, -1]) for pooled in found.pooled] == [0.25, 0.75]


def test_one_shape_in_every_block_and_what_a_kill_left_is_not_heard_again(tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "_BLOCK_CLIPS", 3)
    items = [planted_item(i, [1 + i / 100] * (10 + 20 * i)) for i in range(8)]

    class Killed(Hearing):
        shapes, left = set(), 2

        def frames(self, waves, num_samples):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.shapes.add((waves.shape, num_samples.shape))
            return super().frames(waves, num_samples)

    encoder = Killed()
    with pytest.raises(KeyboardInterrupt):
        features_of(items, encoder, Cut(2.0), tmp_path)
    first = encoder.calls
    encoder.left = 1000
    resumed = features_of(items, encoder, Cut(2.0), tmp_path)
    fresh = Hearing()
    whole = features_of(items, fresh, Cut(2.0), None)
    assert encoder.shapes == {((4, 2 * RATE_HZ), (4,))}
    assert encoder.calls < first + fresh.calls, "the first block is there"
    for a, b in zip(resumed.pooled, whole.pooled, strict=True):
        np.testing.assert_array_equal(a.vectors, b.vectors)


def test_frames_after_pooled_alone_and_then_nothing(tmp_path):
    items = [planted_item(i, np.arange(70 + i) % 8) for i in range(3)]
    encoder = Hearing()
    features_of(items, encoder, Cut(2.0), tmp_path)
    pooled_calls = encoder.calls
    found = features_of(items, encoder, Cut(2.0), tmp_path, frames=True)
    assert encoder.calls > pooled_calls
    calls = encoder.calls
    again = features_of(items, encoder, Cut(2.0), tmp_path)
    features_of(items, encoder, Cut(2.0), tmp_path, frames=True)
    assert encoder.calls == calls
    for i in range(3):
        np.testing.assert_array_equal(found.pooled[i].vectors, again.pooled[i].vectors)
        exact = features_of(items, encoder, Cut(2.0), None, frames=True)
        first_window = exact.frames(i)[:, :50].mean(axis=1)
        np.testing.assert_allclose(found.pooled[i].vectors[0], first_window, rtol=1e-6)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_times_do_not_drift_where_a_window_has_a_frame_too_many_or_too_few(off, tmp_path):
    class Off(Hearing):
        def frames(self, waves, num_samples):
            states, num_valid = super().frames(waves, num_samples)
            padded = np.pad(states, ((0, 0), (0, 0), (0, 1), (0, 0)))
            return padded, np.maximum(num_valid + off, 1)

    levels = np.arange(290) % 8
    found = features_of([planted_item(0, levels)], Off(f"off {off}"), Cut(2.0), tmp_path, frames=True)
    heard = found.frames(0)[1, :, :8].argmax(axis=1)
    assert abs(len(heard) - len(levels)) <= 1
    inside = [t for t in range(285) if t % 50 < 49]
    np.testing.assert_array_equal(heard[inside], levels[inside])


def test_windows_that_are_no_whole_number_of_frames(tmp_path):
    item = planted_item(0, [1] * 60)
    with pytest.raises(UserError, match=r"windows of 0\.5 s are no whole number of hearing's frames \(25 a"):
        features_of([item], Hearing(), Cut(0.5), tmp_path, frames=True)
    features_of([item], Hearing(), Cut(0.5), tmp_path)  # a mean has no times


def test_ready_frames_have_no_windows(tmp_path):
    (tmp_path / "features.json").write_text('{"frame_rate_hz": 86.1328125}')
    np.save(tmp_path / "clip-0.npy", np.ones((2, 9, 5)))
    found = features_of([planted_item(0, [1])], ReadyFeatures(tmp_path), Cut(30.0), None, frames=True)
    assert found.frames(0).shape == (2, 9, 5)


@pytest.mark.parametrize("pools", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_clip_whose_features_are_no_numbers_fails_alone_and_is_not_kept(value, pools, tmp_path):
    class Broken(Hearing):
        pools_frames = pools

        def frames(self, waves, num_samples):
            states, num_valid = super().frames(waves, num_samples)
            states[waves[:, 0] == 7, :, 0] = value
            return states, num_valid

        def pooled(self, waves, num_samples):
            return np.nan_to_num(super().pooled(waves, num_samples), posinf=0)

    items = [planted_item(0, [1] * 30), planted_item(1, [7] * 30), planted_item(2, [2] * 30)]
    for _ in range(2):
        found = features_of(items, Broken(), Cut(2.0), tmp_path, frames=True)
        assert [item.id for item in found.items] == ["clip-0", "clip-2"]
        assert "NaN" in found.failures["clip-1"] and np.isfinite(found.frames(1)).all()


def test_no_clip_at_all(tmp_path):
    with pytest.raises(UserError, match="no clip could be heard; the first: there is none"):
        features_of([], Hearing(), Cut(2.0), tmp_path)
