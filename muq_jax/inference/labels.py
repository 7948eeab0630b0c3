"""Clips of any lengths to codes, through batches of windows of one shape, on a mesh."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from muq_jax import parallel
from muq_jax.models import hidden_rvq
from muq_jax.models.hidden_rvq import HiddenRVQConfig

Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_encode(config: HiddenRVQConfig, variables: Mapping[str, Any], mesh: Mesh) -> Encode:
    """Returns a function from waves [B, S] and valid samples [B] to codes [B, T, Q], on the mesh of one host.

    The variables are placed as a training state's are: split over `fsdp`.
    """
    shardings = parallel.state_shardings(variables, mesh)
    placed = parallel.place(variables, shardings)
    by_row = parallel.batch_sharding(mesh)
    encode = jax.jit(
        lambda variables, wave, num_samples: hidden_rvq.encode(variables, wave, num_samples, config)[0],
        in_shardings=(shardings, by_row, by_row),
        out_shardings=by_row,
    )

    def call(wave: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        with jax.set_mesh(mesh):
            return np.asarray(encode(placed, *jax.device_put((wave, num_samples), by_row)))

    return call


def label_clips(
    waves: Iterable[np.ndarray], encode: Encode, *, batch_size: int, window_samples: int, token_samples: int
) -> Iterator[np.ndarray]:
    """Yields the codes int [T, Q] of each clip, T whole tokens, in order.

    Windows do not overlap: they begin at the clip's start and follow each other, the last is what is left.
    Windows of successive clips share batches, so clips are read a little further than codes are given.

    Args:
        waves: float [S] each.
        encode: codes of windows, each alone.
        batch_size: windows at a time.
        window_samples: of a window; what fills no token at its end is left out of it.
        token_samples: a token's.
    """
    window_samples = window_samples // token_samples * token_samples
    clips: collections.deque[tuple[int, list[np.ndarray]]] = collections.deque()  # windows, codes of each
    waiting: list[tuple[np.ndarray, list[np.ndarray]]] = []

    def flush() -> None:
        wave = np.zeros((batch_size, window_samples), np.float32)
        num_samples = np.zeros(batch_size, np.int32)
        for row, (part, _) in enumerate(waiting):
            wave[row, : len(part)], num_samples[row] = part, len(part)
        codes = encode(wave, num_samples)
        for row, (part, found) in enumerate(waiting):
            found.append(codes[row, : len(part) // token_samples])
        waiting.clear()

    def finished() -> Iterator[np.ndarray]:
        while clips and len(clips[0][1]) == clips[0][0]:
            yield np.concatenate(clips.popleft()[1])

    for wave in waves:
        length = len(wave) // token_samples * token_samples
        # At least one window: its codes are none, of the right width, where a clip has no whole token.
        starts = range(0, max(length, 1), window_samples)
        found: list[np.ndarray] = []
        clips.append((len(starts), found))
        for start in starts:
            waiting.append((wave[start : min(start + window_samples, length)], found))
            if len(waiting) == batch_size:
                flush()
                yield from finished()
    if waiting:
        flush()
    yield from finished()
