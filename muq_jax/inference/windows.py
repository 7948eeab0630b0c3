"""Audio of any length through one compiled shape: overlapping windows of which the centres are kept.

Upstream has no such thing: attention there spans the whole clip, and memory grows with the square of its
length. Near a window's edge the model hears less on one side; half of the overlap, a quarter of the window,
is cut away there.
"""

import math
import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from muq_jax.errors import UserError

MIN_TOKENS = 8
"""Shortest window, so that the quarters that overlap are whole tokens."""


class Window(NamedTuple):
    """A stretch of a clip, and which of its tokens are kept.

    Attributes:
        start, stop: samples of the clip that the window hears.
        first, last: tokens of the clip that the window's output gives, `last` excluded.
        skip: tokens of the window's output before `first`.
    """

    start: int
    stop: int
    first: int
    last: int
    skip: int


def window_tokens(window_seconds: float, token_rate_hz: int) -> int:
    """Returns a window's length in tokens.

    Raises:
        UserError: not a number of seconds that holds at least 8 tokens.
    """
    shortest = MIN_TOKENS / token_rate_hz
    number = isinstance(window_seconds, numbers.Real) and not isinstance(window_seconds, bool)
    if not number or not shortest <= window_seconds < math.inf:
        raise UserError(
            f"window_seconds is {window_seconds!r}; expected at least {shortest}, or None for one pass."
        )
    return round(float(window_seconds) * token_rate_hz)  # numpy's small types overflow


def plan(num_samples: int, num_tokens: int, size: int, samples_per_token: int) -> list[Window]:
    """Cuts a clip into windows whose kept tokens follow each other without gap or overlap.

    A clip that fits into one window is one window. Otherwise windows start every half window, on a token,
    until one reaches the clip's end; each gives up a quarter of a window where the clip goes on beyond it.

    Args:
        num_samples: the clip's length.
        num_tokens: how many tokens the model makes of the clip.
        size: a window's tokens.
        samples_per_token: what one token advances by.
    """
    step, margin = size // 2, size // 4
    windows: list[Window] = []
    start = 0
    while True:
        begin = start * samples_per_token
        reaches_end = begin + size * samples_per_token >= num_samples
        stop = num_samples if reaches_end else begin + size * samples_per_token
        first = windows[-1].last if windows else 0
        last = num_tokens if reaches_end else start + size - margin
        windows.append(Window(begin, stop, first, last, first - start))
        if reaches_end:
            return windows
        start += step


def stream(
    blocks: Iterable[np.ndarray], size: int, samples_per_token: int, num_tokens: Callable[[int], int]
) -> Iterator[tuple[np.ndarray, Window]]:
    """The windows of `plan`, with what each one hears, of a clip whose length shows only at its end.

    Holds one window and one block at a time.

    Args:
        blocks: the clip's samples [n], first to last, in pieces of any size.
        size: a window's tokens.
        samples_per_token: what one token advances by.
        num_tokens: how many tokens the model makes of so many samples.
    """
    step, margin = size // 2, size // 4
    heard, blocks = np.zeros(0, np.float32), iter(blocks)
    start = first = 0
    while True:
        # One sample more than a window, so that the last one is known for what it is.
        while len(heard) <= size * samples_per_token and (block := next(blocks, None)) is not None:
            heard = np.concatenate([heard, block])
        begin = start * samples_per_token
        if len(heard) <= size * samples_per_token:
            stop = begin + len(heard)
            yield heard, Window(begin, stop, first, num_tokens(stop), first - start)
            return
        stop, last = begin + size * samples_per_token, start + size - margin
        yield heard[: size * samples_per_token], Window(begin, stop, first, last, first - start)
        heard = heard[step * samples_per_token :]
        start, first = start + step, last
