"""Beats and downbeats from frame activations: the most likely path of a bar-pointer hidden Markov model."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from muq_jax.probe.task import Beats

# Whole frames are too coarse below this: at 25 Hz, 125 and 136 bpm are neighbours. 75 and 100 Hz did not
# help activations of 25 Hz.
WORKING_RATE_HZ = 50.0
HIGHEST_RATE_HZ = 200.0  # the work grows with the third power of the rate

# A head that is sure and wrong must not rule a path out: the share of P(beat) that is spread evenly over beat
# and none, and of P(downbeat | beat) over the two kinds of beat, which heads confuse more often.
# With only 0.1 for the kinds, heavy noise on POP909 (train, 25 Hz) makes the downbeat F 0.05 lower.
_DOUBT = 0.02
_KIND_DOUBT = 0.3
# Songs do have odd bars: in POP909 a 2/4 between 4/4, after which two bars of three put the downbeats right
# again. From 1e-3 to 1e-5 makes little difference there; 1e-7 is worse, as one odd bar spoils many others.
_METER_CHANGE = 1e-4
# A change of tempo that is less likely than double precision tells from none is left out, as in madmom.
_LEAST_LOG_TEMPO = math.log(np.finfo(np.float64).eps)
# Half a peak's width. A peak of one frame at 50 to 100 Hz would leave most frames that emit its beat without
# support, and 60 bpm could pass for 120; at 25 Hz the interpolation makes peaks this wide already.
_PEAK_SECONDS = 0.04
# Heads that learned widened targets make plateaus; smoothed, these have their top in the middle.
_SMOOTHING_SECONDS = 0.1


def decode_beats(
    activations: np.ndarray,
    frame_rate_hz: float,
    *,
    beats_per_bar: Sequence[int] = (3, 4),
    min_bpm: float = 55.0,
    max_bpm: float = 215.0,
    transition_lambda: float = 100.0,
    observation_lambda: float = 16,
    threshold: float = 0.05,
) -> Beats:
    """Returns the times of the beats, and of those that begin a bar; frame t is at second t / frame_rate_hz.

    A hidden Markov model after Whiteley, Cemgil and Godsill (2006) with the state space of Krebs, Böck and
    Widmer (2015): a state is a bar length, a beat of the bar, that beat's length in frames and the place in
    it. The tempo changes only from one beat to the next, with a probability that falls as
    exp(-transition_lambda * |ratio of lengths - 1|); the bar length changes only between bars, and rarely.
    The first 1 / observation_lambda of each beat emits "downbeat" or "other beat", the rest "none".

    With b and d the activations of beat and downbeat, a frame has P(downbeat) = d,
    P(other beat) = max(b, d) - d and P(none) = 1 - max(b, d), before a part of each is spread over the others
    (2 % of beat and none, 30 % of downbeat and other beat). Rates below 50 Hz are first interpolated linearly
    to a whole multiple of at least 50 Hz, and peaks widened to 40 ms on either side. Each beat is put at the
    top of the smoothed activations within its emitting frames.

    Args:
        activations: [T, 2] from 0 to 1, the probability of a beat (downbeats are beats) and of a downbeat;
            or [T, 1] or [T], of beats alone, which leaves the downbeats empty.
        frame_rate_hz: at most 200.
        beats_per_bar: the bar lengths that are possible.
        min_bpm, max_bpm: the tempi that are possible. A piece outside is heard at a multiple or part.
        transition_lambda: the larger, the steadier the tempo.
        observation_lambda: above 1.
        threshold: frames before the first and after the last one with so high an activation have no beats.

    Returns:
        Beats in order; none where no activation reaches the threshold or the rest is shorter than one beat.

    Raises:
        ValueError: for activations of another shape, none, or outside 0 to 1, and for impossible settings.
    """
    curves = _check_activations(activations)
    has_bars = curves.shape[1] == 2
    _check_settings(frame_rate_hz, beats_per_bar, transition_lambda, observation_lambda, threshold)
    _check(
        0 < min_bpm < max_bpm < math.inf,
        f"found tempi from {min_bpm} to {max_bpm} bpm; expected 0 < min < max",
    )
    factor = math.ceil(WORKING_RATE_HZ / frame_rate_hz)
    rate_hz = frame_rate_hz * factor
    intervals = np.arange(math.ceil(60 * rate_hz / max_bpm), math.floor(60 * rate_hz / min_bpm) + 1)
    _check(
        len(intervals) > 0 and intervals[0] > 1,
        f"no beat of whole frames at {rate_hz:g} Hz has a tempo from {min_bpm} to {max_bpm} bpm",
    )
    model = BarPointer(
        intervals, tuple(beats_per_bar) if has_bars else (1,), transition_lambda, observation_lambda
    )

    curves = _interpolate(curves, factor)
    beat = curves.max(axis=1)
    loud = np.flatnonzero(beat >= threshold)
    if len(loud) == 0:
        return Beats((), ())
    # So that the first and the last beat have all their emitting frames.
    margin = int(model.num_beat_frames.max())
    start, stop = max(0, loud[0] - margin), min(len(beat), loud[-1] + 1 + margin)
    if stop - start < intervals[0]:
        return Beats((), ())
    path = best_path(model, *log_likelihoods(_widen(curves[start:stop], rate_hz), observation_lambda))

    smooth = _smooth(beat, rate_hz)
    beats, downbeats = [], []
    for begin, position, interval in path:
        first = start + max(begin, 0)
        end = min(start + begin + int(model.num_beat_frames[interval]), stop)
        if first < end:  # otherwise the clip starts later in this beat
            seconds = float(_top(beat, smooth, first, end, threshold) / rate_hz)
            beats.append(seconds)
            if has_bars and model.begins_bar[position]:
                downbeats.append(seconds)
    return Beats(tuple(beats), tuple(downbeats))


def beat_targets(label: Beats, num_frames: int, frame_rate_hz: float, widen: int = 0) -> np.ndarray:
    """Returns float32 [T, 2], 1 at the frames of beats (downbeats are beats) and of downbeats, otherwise 0.

    Frame t is at second t / frame_rate_hz; a beat is given to the nearest frame, a tie to the later one.

    Args:
        label: those outside [0, num_frames / frame_rate_hz) seconds are left out.
        num_frames: T.
        widen: so many frames on either side are 1 too.

    Raises:
        ValueError: for times that are not finite, and for impossible sizes.
    """
    _check(num_frames >= 0, f"found {num_frames} frames; expected 0 or more")
    _check(widen >= 0, f"found targets widened by {widen} frames; expected 0 or more")
    _check(0 < frame_rate_hz < math.inf, f"found a frame rate of {frame_rate_hz} Hz; expected more than 0")
    targets = np.zeros((num_frames, 2), np.float32)
    for column, times in enumerate(((*label.beats, *label.downbeats), label.downbeats)):
        frames = np.asarray(times, np.float64) * frame_rate_hz
        _check(bool(np.isfinite(frames).all()), "a beat's time is not finite")
        frames = frames[(frames >= 0) & (frames < num_frames)]
        # The last half frame of the clip has no later frame to go to.
        nearest = np.minimum(np.floor(frames + 0.5).astype(int), num_frames - 1)
        for frame in nearest:
            targets[max(frame - widen, 0) : frame + widen + 1, column] = 1
    return targets


@dataclasses.dataclass(frozen=True)
class BarPointer:
    """The state space: K positions (the beats of each bar length, one after the other) and I intervals.

    Attributes:
        intervals: [I] int, the lengths of a beat in frames, each one more than the one before.
        bars: the bar lengths in beats.
        transition_lambda, observation_lambda: as in `decode_beats`.
    """

    intervals: np.ndarray
    bars: tuple[int, ...]
    transition_lambda: float
    observation_lambda: float

    @property
    def num_beat_frames(self) -> np.ndarray:
        """[I], how many frames at the start of a beat emit it."""
        return np.ceil(self.intervals / self.observation_lambda).astype(int)

    @property
    def begins_bar(self) -> np.ndarray:
        """[K] bool."""
        return np.concatenate([np.arange(length) == 0 for length in self.bars])

    def log_tempo(self) -> np.ndarray:
        """[I, I], the log probability of each interval (column) after each one (row)."""
        ratio = self.intervals[None, :] / self.intervals[:, None]
        score = -self.transition_lambda * np.abs(ratio - 1)
        score = np.where(score < _LEAST_LOG_TEMPO, -np.inf, score)
        return score - np.log(np.exp(score).sum(axis=1, keepdims=True))

    def log_position(self) -> np.ndarray:
        """[K, K], the log probability of each position (column) after each one (row)."""
        ends = np.cumsum(self.bars)
        firsts = ends - self.bars
        probability = np.eye(ends[-1], k=1)
        num_others = len(self.bars) - 1
        for bar, end in enumerate(ends):
            probability[end - 1] = 0
            probability[end - 1, firsts] = _METER_CHANGE / max(num_others, 1)
            probability[end - 1, firsts[bar]] = 1 - _METER_CHANGE if num_others else 1
        with np.errstate(divide="ignore"):
            return np.log(probability)


def log_likelihoods(curves: np.ndarray, observation_lambda: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log likelihoods [T] of "none" and [2, T] of "other beat" and "downbeat".

    That of "none" is shared by the observation_lambda - 1 times as many states that emit it.

    Args:
        curves: [T, 2] or, of beats alone (both rows are then equal), [T, 1].
    """
    beat, down = curves.max(axis=1), curves[:, -1]
    share = np.divide(down, beat, out=np.full_like(beat, 0.5), where=beat > 0)
    share = (1 - _KIND_DOUBT) * share + _KIND_DOUBT / 2
    beat = (1 - _DOUBT) * beat + _DOUBT / 2
    none = np.log(1 - beat) - math.log(observation_lambda - 1)
    if curves.shape[1] == 1:
        return none, np.log([beat, beat])
    return none, np.log([beat * (1 - share), beat * share])


def best_path(model: BarPointer, none: np.ndarray, beat: np.ndarray) -> list[tuple[int, int, int]]:
    """Viterbi's path through the states, all of which are equally likely in the first frame.

    Within a beat the states follow each other without choice. A whole beat is therefore one step here, whose
    likelihood is a difference of running sums, and nothing is kept for the states inside.

    Args:
        model: K positions, I intervals.
        none: [T] log likelihoods.
        beat: [2, T] log likelihoods, of another beat and of a downbeat.

    Returns:
        (first frame, position, index of the interval) of each beat; the first may start before frame 0, and
        the last may end after the clip.
    """
    num_frames, intervals = len(none), model.intervals
    shortest, longest = int(intervals[0]), int(intervals[-1])
    tempo, position = model.log_tempo(), model.log_position()
    index = np.arange(len(intervals))
    # A beat starts at any of these frames; row r of `total` is frame r - before.
    before = longest - 1
    starts = np.arange(-before, num_frames)[:, None]

    none_sums = np.concatenate([[0.0], np.cumsum(none)])
    beat_sums = np.pad(np.cumsum(beat, axis=1), ((0, 0), (1, 0)))
    begin, middle, end = (
        np.clip(starts + frames, 0, num_frames)
        for frames in (0 * intervals, model.num_beat_frames, intervals)
    )
    emitted = beat_sums[:, middle] - beat_sums[:, begin] + (none_sums[end] - none_sums[middle])
    # [before + T, I, K]: the best path to the end of the beat that starts there. Those that start up to
    # frame 0 begin the path; the others still lack what came before them.
    total = np.moveaxis(emitted[model.begins_bar.astype(int)], 0, 2).copy()
    total[starts <= -intervals] = -np.inf  # over before frame 0

    sources = [np.flatnonzero(np.isfinite(column)) for column in position.T]
    # The tempi after each tempo are neighbours.
    near = [np.flatnonzero(np.isfinite(row)) for row in tempo]
    reachable = [slice(found[0], found[-1] + 1) for found in near]
    for block in range(1, num_frames, shortest):
        # No beat that starts in these frames comes after another one that starts in them.
        frames = np.arange(block, min(block + shortest, num_frames))
        ended = total[frames[:, None] - intervals + before, index]  # [n, I, K]
        # [I, K, n]: so that what one tempo reaches lies in one piece, which takes a third of the time.
        arriving = np.stack(
            [(ended[..., s] + position[s, k]).max(axis=-1).T for k, s in enumerate(sources)], axis=1
        )
        best = np.full(arriving.shape, -np.inf)
        for source, reached in enumerate(reachable):
            candidate = tempo[source, reached, None, None] + arriving[source]
            np.maximum(best[reached], candidate, out=best[reached])
        total[frames + before] += np.moveaxis(best, 2, 0)

    lasting = np.where((starts + intervals >= num_frames)[..., None], total, -np.inf)
    row, i, k = _where_largest(lasting)
    frame = row - before
    path = [(frame, k, i)]
    while frame > 0:  # one step a beat: cheaper to search again than to keep where each one came from
        ended = total[frame - intervals + before, index]  # [I, K]
        i, k = _where_largest(ended + tempo[:, i, None] + position[:, k])
        frame -= int(intervals[i])
        path.append((frame, k, i))
    return path[::-1]


def _where_largest(scores: np.ndarray) -> list[int]:
    return [int(x) for x in np.unravel_index(int(np.argmax(scores)), scores.shape)]


def _interpolate(curves: np.ndarray, factor: int) -> np.ndarray:
    """[(T - 1) * factor + 1, C]."""
    frames = np.arange(len(curves))
    at = np.arange((len(curves) - 1) * factor + 1) / factor
    return np.stack([np.interp(at, frames, curve) for curve in curves.T], axis=1)


def _widen(curves: np.ndarray, rate_hz: float) -> np.ndarray:
    """The largest at each frame of all activations, each falling evenly to 0 within `_PEAK_SECONDS`."""
    reach = _PEAK_SECONDS * rate_hz
    widened = curves.copy()
    for k in range(1, math.ceil(reach)):
        faded = (1 - k / reach) * curves
        np.maximum(widened[k:], faded[:-k], out=widened[k:])
        np.maximum(widened[:-k], faded[k:], out=widened[:-k])
    return widened


def _smooth(beat: np.ndarray, rate_hz: float) -> np.ndarray:
    half = max(1, round(_SMOOTHING_SECONDS * rate_hz / 2))
    window = np.hanning(2 * half + 3)[1:-1]
    return np.convolve(np.pad(beat, half), window / window.sum(), mode="valid")


def _top(beat: np.ndarray, smooth: np.ndarray, first: int, end: int, threshold: float) -> float:
    """The frame, perhaps between two, of the beat emitted from `first` until `end`."""
    if beat[first:end].max() < threshold:
        return (first + end - 1) / 2
    # Only here: a wider search moves a beat without a peak to the noise beside it.
    top = first + int(np.argmax(smooth[first:end]))
    if 0 < top < len(smooth) - 1:
        left, middle, right = smooth[top - 1 : top + 2]
        if left <= middle >= right and left + right < 2 * middle:
            return top + float(left - right) / (2 * float(left - 2 * middle + right))
    return float(top)


def _check_activations(activations: np.ndarray) -> np.ndarray:
    found = np.asarray(activations)
    _check(found.dtype.kind in "fiub", f"found activations of type {found.dtype}; expected real numbers")
    curves = found.astype(np.float64)
    if curves.ndim == 1:
        curves = curves[:, None]
    _check(
        curves.ndim == 2 and curves.shape[1] in (1, 2),
        f"found activations of shape {found.shape}; expected [T, 2], [T, 1] or [T]",
    )
    _check(len(curves) > 0, "found activations of no frames")
    bad = np.flatnonzero(~((curves >= 0) & (curves <= 1)).all(axis=1))
    if len(bad):
        raise ValueError(f"frame {bad[0]} has activations {curves[bad[0]].tolist()}; expected 0 to 1")
    return curves


def _check_settings(
    frame_rate_hz: float,
    beats_per_bar: Sequence[int],
    transition_lambda: float,
    observation_lambda: float,
    threshold: float,
) -> None:
    _check(
        0 < frame_rate_hz <= HIGHEST_RATE_HZ,
        f"found a frame rate of {frame_rate_hz} Hz; expected more than 0, and at most {HIGHEST_RATE_HZ:g}",
    )
    bars = list(beats_per_bar)
    _check(
        len(bars) > 0 and len(set(bars)) == len(bars) and all(n == int(n) >= 1 for n in bars),
        f"found beats_per_bar {bars}; expected whole numbers from 1, none twice",
    )
    _check(
        0 <= transition_lambda < math.inf, f"found transition_lambda {transition_lambda}; expected 0 or more"
    )
    _check(
        1 < observation_lambda < math.inf,
        f"found observation_lambda {observation_lambda}; expected more than 1",
    )
    _check(0 <= threshold <= 1, f"found a threshold of {threshold}; expected 0 to 1")


def _check(right: bool, problem: str) -> None:
    if not right:
        raise ValueError(problem)
