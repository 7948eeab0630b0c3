"""Models as `embed_files` uses them: what a file is cut into, and what becomes of a batch of pieces."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from muq_jax.audio.framing import MIN_SAMPLES
from muq_jax.inference.embed import Piece
from muq_jax.inference.mulan import MuQMuLan
from muq_jax.inference.pretrained import MuQ
from muq_jax.inference.windows import stream, window_tokens

# Operations side by side are no faster in a model this large, and each holds memory of its own meanwhile.
_SMALL_ON_CPU = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class MuQHearer:
    """Hidden states of a MuQ in overlapping windows of which the centres are kept."""

    def __init__(
        self,
        muq: MuQ,
        layers: str | int | Sequence[int] = "last",
        window_seconds: float = 30.0,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Places the weights on the devices.

        Args:
            muq: the model.
            layers: as in `MuQ.__call__`.
            window_seconds: of a window; they overlap by half.
            devices: share each batch; all local ones by default.
        """
        self._muq, self.layers = muq, muq.layer_numbers(layers)
        self.window_seconds = window_seconds
        self._tokens = window_tokens(window_seconds, muq.frame_rate_hz)
        self.sample_rate_hz = muq.sample_rate_hz
        self._samples_per_token = muq.sample_rate_hz // muq.frame_rate_hz
        self.piece_samples = self._tokens * self._samples_per_token

        def features(variables: Any, waves: jax.Array, num_samples: jax.Array) -> jax.Array:
            hidden = muq.apply(variables, waves, num_samples).hidden_states
            return jnp.stack([hidden[n] for n in self.layers], axis=1).astype(jnp.float32)

        chosen = list(devices or jax.local_devices())
        self.num_devices, self._hear = len(chosen), _on_devices(features, muq.variables, chosen)

    def pieces(self, blocks: Iterable[np.ndarray]) -> Iterator[Piece]:
        """The windows of a file; one below 1,025 samples is padded with zeros to that."""
        windows = stream(blocks, self._tokens, self._samples_per_token, self._muq.num_tokens)
        for heard, window in windows:
            if window.stop < MIN_SAMPLES:
                padded = np.pad(heard, (0, MIN_SAMPLES - len(heard)))
                yield Piece(padded, slice(0, self._muq.num_tokens(MIN_SAMPLES)))
            elif window.last > window.first:
                yield Piece(heard, slice(window.skip, window.skip + window.last - window.first))

    def hear(self, waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        """Returns hidden states [B, layers, T, D]."""
        return self._hear(waves, num_samples)


class MuLanHearer:
    """The audio tower of a MuQ-MuLan on clips of ten seconds, as upstream cuts them."""

    layers: tuple[int, ...] = ()

    def __init__(self, mulan: MuQMuLan, devices: Sequence[jax.Device] | None = None) -> None:
        """Places the weights on the devices; all local ones by default."""
        self.sample_rate_hz = mulan.sample_rate_hz
        self.window_seconds = float(mulan.config.clip_seconds)
        self.piece_samples = mulan.config.clip_seconds * mulan.sample_rate_hz

        def vectors(variables: Any, waves: jax.Array, num_samples: jax.Array) -> jax.Array:
            return mulan.audio_tower(variables, waves, num_samples)[:, None, None]

        chosen = list(devices or jax.local_devices())
        self.num_devices, self._hear = len(chosen), _on_devices(vectors, mulan.audio_variables, chosen)

    def pieces(self, blocks: Iterable[np.ndarray]) -> Iterator[Piece]:
        """Clips; the last one is completed from the start of the file, with at most the file once more."""
        start, heard = np.zeros(0, np.float32), np.zeros(0, np.float32)
        for block in blocks:
            heard = np.concatenate([heard, block])
            if len(start) < self.piece_samples:
                start = np.concatenate([start, block])[: self.piece_samples]
            while len(heard) >= self.piece_samples:
                yield Piece(heard[: self.piece_samples], None)
                heard = heard[self.piece_samples :]
        if len(heard):
            yield Piece(np.concatenate([heard, start[: self.piece_samples - len(heard)]]), None)

    def hear(self, waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        """Returns unit vectors [B, 1, 1, E]."""
        return self._hear(waves, num_samples)


def _on_devices(function: Any, variables: Any, devices: Sequence[jax.Device]) -> Any:
    """`function` of variables and a batch, jitted; the devices all hold the weights and share the batch."""
    mesh = Mesh(np.array(devices), ("data",))
    everywhere, by_row = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    placed = jax.device_put(variables, everywhere)
    jitted = jax.jit(
        function,
        in_shardings=(everywhere, by_row, by_row),
        out_shardings=by_row,
        compiler_options=_SMALL_ON_CPU if devices[0].platform == "cpu" else None,
    )

    def call(waves: np.ndarray, num_samples: np.ndarray) -> np.ndarray:
        return np.asarray(jitted(placed, waves, num_samples))

    return call
