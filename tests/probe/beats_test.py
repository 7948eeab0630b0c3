import itertools
import json
import time
from pathlib import Path

import mir_eval
import numpy as np
import pytest

from muq_jax.probe import beats
from muq_jax.probe.beats import beat_targets, decode_beats
from muq_jax.probe.task import Beats

POP909 = Path(__file__).parents[2].parent / "shared/data/corpus/annotations/pop909.jsonl"


def _f(truth, found):
    return mir_eval.beat.f_measure(np.asarray(truth, float), np.asarray(found, float))


def _song(rng, seconds, bpm, meter, drift=0.0, first=0.2, bpm_at_end=None):
    """Beats of a tempo that goes evenly to `bpm_at_end` and wanders by a share `drift` a beat."""
    times, wander, now = [], 0.0, first
    while now < seconds:
        times.append(now)
        goal = bpm if bpm_at_end is None else bpm + (bpm_at_end - bpm) * now / seconds
        wander = 0.9 * wander + rng.normal(0, drift)
        now += 60 / goal * (1 + wander)
    return Beats(tuple(times), tuple(times[::meter]))


def _activations(
    rng, song, frame_rate_hz, seconds, jitter=0.015, missing=0.1, spurious=0.1, swapped=0.1, floor=0.05
):
    """Peaks from 0.5 to 1 smeared over neighbours, some missing, too many or of the wrong kind, in noise."""
    at = np.arange(int(seconds * frame_rate_hz)) / frame_rate_hz
    width = max(0.015, 0.5 / frame_rate_hz)
    peaks = []
    for beat in song.beats:
        if rng.random() >= missing:
            height = rng.uniform(0.5, 1)
            is_down = (beat in song.downbeats) != (rng.random() < swapped)
            share = rng.uniform(0.5, 1) if is_down else rng.uniform(0, 0.3)
            peaks.append((beat + rng.normal(0, jitter), height, height * share))
    for _ in range(rng.binomial(len(song.beats), spurious)):
        height = rng.uniform(0.3, 1)
        peaks.append((rng.uniform(0, seconds), height, height * rng.uniform(0, 0.5)))
    curves = np.zeros((len(at), 2))
    for beat, *heights in peaks:
        bump = np.exp(-0.5 * ((at - beat) / width) ** 2)
        curves = np.maximum(curves, bump[:, None] * heights)
    return np.clip(curves + np.abs(rng.normal(0, floor, curves.shape)), 0, 1)


def _brute_force(model, none, beat):
    """(log likelihood, path) by Viterbi with one matrix of all states, written down state by state."""
    states = [
        (k, i, n)
        for k in range(sum(model.bars))
        for i, length in enumerate(model.intervals)
        for n in range(length)
    ]
    bar_of = np.repeat(np.arange(len(model.bars)), model.bars)
    begins = [True, *(bar_of[1:] != bar_of[:-1])]
    matrix = np.zeros((len(states), len(states)))
    for (a, (k, i, n)), (b, (k2, i2, n2)) in itertools.product(enumerate(states), repeat=2):
        if n < model.intervals[i] - 1:
            matrix[a, b] = (k2, i2, n2) == (k, i, n + 1)
        elif n2 == 0:
            ratios = model.intervals / model.intervals[i]
            weights = np.exp(-model.transition_lambda * abs(ratios - 1))
            last = k + 1 == len(bar_of) or begins[k + 1]
            if not last:
                step = float(k2 == k + 1)
            elif not begins[k2]:
                step = 0.0
            elif len(model.bars) == 1:
                step = 1.0
            else:
                same = bar_of[k2] == bar_of[k]
                step = 1 - beats._METER_CHANGE if same else beats._METER_CHANGE / (len(model.bars) - 1)
            matrix[a, b] = step * weights[i2] / weights.sum()
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    with np.errstate(divide="ignore"):
        matrix = np.log(matrix)
    emits = np.stack(
        [
            beat[int(begins[k])] if n < model.intervals[i] / model.observation_lambda else none
            for k, i, n in states
        ],
        axis=1,
    )
    score, came_from = emits[0], []
    for frame in range(1, len(none)):
        paths = score[:, None] + matrix
        came_from.append(paths.argmax(axis=0))
        score = paths.max(axis=0) + emits[frame]
    path = [int(score.argmax())]
    for back in reversed(came_from):
        path.append(int(back[path[-1]]))
    return score.max(), [states[s] for s in path[::-1]]


@pytest.mark.parametrize("bars", [(1,), (3,), (2, 3), (1, 2, 4)])
@pytest.mark.parametrize("num_frames", [1, 2, 5, 6, 41])
@pytest.mark.parametrize("transition_lambda", [3.0, 20.0])
def test_path_is_that_of_brute_force(bars, num_frames, transition_lambda):
    rng = np.random.default_rng(num_frames)
    model = beats.BarPointer(np.arange(3, 7), bars, transition_lambda, 2.5)
    beat, down = np.sort(rng.uniform(0, 1, (2, num_frames)), axis=0)[::-1]
    none, on = beats.log_likelihoods(np.stack([beat, down], axis=1), 2.5)
    # In a short clip several paths are equally likely, so there only the likelihoods are compared.
    score, states = _brute_force(model, none, on)
    path = beats.best_path(model, none, on)
    found = [
        (k, i, frame - first)
        for first, k, i in path
        for frame in range(max(first, 0), min(first + int(model.intervals[i]), num_frames))
    ]
    assert len(found) == num_frames
    if num_frames > 40:
        assert found == states
    own = sum(
        on[int(model.begins_bar[k]), t] if n < model.intervals[i] / 2.5 else none[t]
        for t, (k, i, n) in enumerate(found)
    )
    for (k, i, _), (k2, i2, n2) in itertools.pairwise(found):
        if n2 == 0:
            own += model.log_tempo()[i, i2] + model.log_position()[k, k2]
    assert own == pytest.approx(score)


@pytest.mark.parametrize("frame_rate_hz", [25, 50, 75, 100, 86.1328125])
@pytest.mark.parametrize("meter", [3, 4])
@pytest.mark.parametrize("bpm", [60, 97, 133, 200])
def test_clean_clicks(frame_rate_hz, meter, bpm):
    song = _song(np.random.default_rng(0), 20, bpm, meter, first=0.31)
    targets = beat_targets(song, int(20 * frame_rate_hz), frame_rate_hz)
    found = decode_beats(targets, frame_rate_hz)
    assert _f(song.beats, found.beats) > 0.98
    assert _f(song.downbeats, found.downbeats) > 0.96
    assert set(found.downbeats) <= set(found.beats)
    assert (np.diff(found.beats) > 0).all()


@pytest.mark.parametrize("frame_rate_hz", [25, 100])
@pytest.mark.parametrize("meter", [3, 4])
@pytest.mark.parametrize(("bpm", "bpm_at_end", "drift"), [(120, None, 0), (90, 130, 0), (80, None, 0.01)])
def test_noisy_songs(frame_rate_hz, meter, bpm, bpm_at_end, drift):
    scores = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        song = _song(rng, 30, bpm, meter, drift, bpm_at_end=bpm_at_end)
        found = decode_beats(_activations(rng, song, frame_rate_hz, 30), frame_rate_hz)
        scores.append((_f(song.beats, found.beats), _f(song.downbeats, found.downbeats)))
    beat, down = np.mean(scores, axis=0)
    assert beat >= 0.95
    assert down >= 0.85


@pytest.mark.parametrize(("frame_rate_hz", "num_songs"), [(25, 40), (100, 12)])
def test_annotated_songs(frame_rate_hz, num_songs):
    if not POP909.exists():
        pytest.skip("POP909's annotations are not here")
    splits = {}
    with open(POP909.parents[1] / "pieces.jsonl") as lines:
        for piece in map(json.loads, lines):
            splits[piece["id"]] = piece["split"]
    rng = np.random.default_rng(0)
    scores = []
    with open(POP909) as lines:
        pieces = [piece for piece in map(json.loads, lines) if splits[piece["id"]] == "test"]
    for piece in pieces[:num_songs]:
        start = piece["beats"][0] + 20
        song = Beats(
            *(
                tuple(t - start for t in piece[key] if start <= t < start + 30)
                for key in ("beats", "downbeats")
            )
        )
        found = decode_beats(_activations(rng, song, frame_rate_hz, 30), frame_rate_hz)
        scores.append((_f(song.beats, found.beats), _f(song.downbeats, found.downbeats)))
    beat, down = np.mean(scores, axis=0)
    assert beat >= 0.95
    assert down >= 0.8


@pytest.mark.parametrize("widen", [1, 2])
def test_plateaus_have_their_beat_in_the_middle(widen):
    song = _song(np.random.default_rng(0), 20, 100, 4)
    found = decode_beats(0.9 * beat_targets(song, 500, 25, widen), 25)
    assert _f(song.beats, found.beats) > 0.98
    assert _f(song.downbeats, found.downbeats) > 0.96


def test_one_odd_bar_does_not_spoil_the_rest():
    times = 0.5 * np.arange(80) + 0.2
    downs = np.concatenate([times[:40:4], times[42::4]])  # a bar of six beats before the 43rd
    song = Beats(tuple(times), tuple(downs))
    found = decode_beats(0.9 * beat_targets(song, 1010, 25), 25)
    assert _f(song.beats, found.beats) > 0.98
    assert _f(song.downbeats, found.downbeats) > 0.9


def test_beats_alone():
    song = _song(np.random.default_rng(0), 20, 100, 4)
    curve = beat_targets(song, 500, 25)[:, 0]
    found = decode_beats(curve, 25)
    assert found == decode_beats(curve[:, None], 25)
    assert found.downbeats == ()
    assert _f(song.beats, found.beats) > 0.98


def test_downbeats_are_beats_even_where_the_beat_is_not_active():
    song = _song(np.random.default_rng(0), 20, 100, 4)
    targets = beat_targets(song, 500, 25)
    apart = targets.copy()
    apart[:, 0] -= apart[:, 1]
    assert decode_beats(apart, 25) == decode_beats(targets, 25)


def test_silence_around_shifts_the_beats_and_nothing_else():
    rng = np.random.default_rng(1)
    song = _song(rng, 20, 110, 3, 0.005, first=2.0)
    curves = _activations(rng, song, 50, 20, floor=0)
    found = decode_beats(curves, 50)
    shifted = decode_beats(np.pad(curves, ((75, 33), (0, 0))), 50)
    np.testing.assert_allclose(shifted.beats, np.asarray(found.beats) + 1.5)
    np.testing.assert_allclose(shifted.downbeats, np.asarray(found.downbeats) + 1.5)
    hiss = np.pad(curves, ((75, 33), (0, 0)))
    hiss[:40], hiss[-20:] = 0.04, 0.02  # below the threshold
    assert decode_beats(hiss, 50) == shifted


def test_the_tempo_stays_within_its_limits():
    song = _song(np.random.default_rng(0), 30, 50, 4)
    targets = beat_targets(song, 750, 25)
    tempi = 60 / np.diff(decode_beats(targets, 25).beats)
    assert np.median(tempi) / 50 == pytest.approx(round(np.median(tempi) / 50), rel=0.03)
    assert (tempi > 53).all()
    found = decode_beats(targets, 25, min_bpm=40)
    assert _f(song.beats, found.beats) > 0.98
    # Half of 140 and twice 70 are possible too, but leave beats out or find too many.
    for bpm in (70, 105, 140, 190):
        song = _song(np.random.default_rng(0), 20, bpm, 4)
        found = decode_beats(beat_targets(song, 1000, 50), 50)
        assert np.median(60 / np.diff(found.beats)) == pytest.approx(bpm, rel=0.03)


def test_nothing_to_hear_has_no_beats():
    none = Beats((), ())
    assert decode_beats(np.zeros((500, 2)), 25) == none
    assert decode_beats(np.full((500, 2), 0.049), 25) == none
    assert decode_beats(np.zeros(1), 100) == none
    assert decode_beats(np.ones((1, 2)), 25) == none
    assert decode_beats(np.ones((6, 2)), 25) == none  # the shortest beat is 7 frames


@pytest.mark.parametrize("num_frames", [7, 8, 13, 26, 27, 28, 29, 55])
@pytest.mark.parametrize("frame_rate_hz", [25, 100])
def test_short_clips(num_frames, frame_rate_hz):
    curves = np.random.default_rng(num_frames).uniform(0, 1, (num_frames, 2)).astype(np.float32)
    found = decode_beats(curves, frame_rate_hz)
    assert set(found.downbeats) <= set(found.beats)
    assert all(0 <= t <= (num_frames - 1) / frame_rate_hz for t in found.beats)
    assert all(type(t) is float for t in found.beats)


@pytest.mark.parametrize(
    ("activations", "words"),
    [
        (np.zeros((0, 2)), "no frames"),
        (np.zeros((9, 3)), r"\(9, 3\)"),
        (np.zeros((1, 9, 2)), r"\(1, 9, 2\)"),
        (np.float32(0.5), "shape"),
        (np.array(["a"]), "type"),
        (np.array([0.0, np.nan]), "frame 1"),
        (np.array([np.inf, 0.0]), "frame 0"),
        (np.array([0.0, 0.5, -0.1]), "frame 2"),
        (np.array([1.1]), "1.1"),
    ],
)
def test_bad_activations(activations, words):
    with pytest.raises(ValueError, match=words):
        decode_beats(activations, 25)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frame_rate_hz": 0}, "frame rate"),
        ({"frame_rate_hz": float("nan")}, "frame rate"),
        ({"frame_rate_hz": 24000}, "at most"),
        ({"min_bpm": 100, "max_bpm": 100}, "min"),
        ({"min_bpm": 0}, "min"),
        ({"min_bpm": 117, "max_bpm": 118}, "whole frames"),
        ({"beats_per_bar": ()}, "beats_per_bar"),
        ({"beats_per_bar": (0, 4)}, "beats_per_bar"),
        ({"beats_per_bar": (4, 4)}, "beats_per_bar"),
        ({"transition_lambda": -1}, "transition_lambda"),
        ({"observation_lambda": 1}, "observation_lambda"),
        ({"threshold": 2}, "threshold"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        decode_beats(np.ones((100, 2)), **{"frame_rate_hz": 25, **settings})


def test_half_a_minute_takes_less_than_half_a_second():
    rng = np.random.default_rng(0)
    curves = _activations(rng, _song(rng, 30, 120, 4), 25, 30)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        decode_beats(curves, 25)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_targets():
    label = Beats((-0.1, 0.0, 0.099, 0.3, 0.375, 0.41, 7.0), (0.0, 0.375))
    expected = np.zeros((10, 2), np.float32)
    expected[[0, 2, 8, 9], 0] = 1
    expected[[0, 9], 1] = 1
    found = beat_targets(label, 10, 25)
    assert found.dtype == np.float32
    # 0.3 s is frame 7.5, a tie; 0.375 s is frame 9.375; 0.41 s is outside.
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(beat_targets(Beats((0.04, 0.39)), 10, 25)[:, 0], np.eye(10)[[1, 9]].sum(0))
    wide = beat_targets(Beats((0.04, 0.2), (0.2,)), 8, 25, widen=2)
    np.testing.assert_array_equal(wide.T, [[1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(beat_targets(Beats((-0.01, 0.33)), 8, 25, widen=2), np.zeros((8, 2)))
    np.testing.assert_array_equal(beat_targets(Beats((), (0.2,)), 8, 25)[5], [1, 1])
    assert beat_targets(Beats((0.0,)), 0, 25).shape == (0, 2)


@pytest.mark.parametrize(
    ("label", "num_frames", "frame_rate_hz", "widen"),
    [
        (Beats((float("nan"),)), 5, 25, 0),
        (Beats(()), -1, 25, 0),
        (Beats(()), 5, 0, 0),
        (Beats(()), 5, 25, -1),
    ],
)
def test_bad_targets(label, num_frames, frame_rate_hz, widen):
    with pytest.raises(ValueError):
        beat_targets(label, num_frames, frame_rate_hz, widen)
