"""Hidden-RVQ, the tokenizer of MuQ's iterative stage: waveform to codes [B, T, Q] of a trained MuQ's layer.

A teacher, any trained MuQ, hears the waveform, and a residual quantiser fitted to one of its layers names
what it heard (MuQ, arXiv 2501.01108). `variables` are {"teacher": {"params", "batch_stats"}, "params": the
quantiser's}; all of them are frozen when labels are made.

The teacher attends to everything that it hears at once: a token's codes depend on the whole waveform that is
handed in, and on nothing outside of it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from muq_jax import __version__
from muq_jax.errors import UserError
from muq_jax.models import fields
from muq_jax.models.config import MuQConfig
from muq_jax.models.config_json import from_upstream_json, to_upstream_json
from muq_jax.models.muq import MuQModel
from muq_jax.nn.valid import first_valid, whole_tokens
from muq_jax.quantize.rvq import ResidualVQ, RVQConfig, quantize

MODEL_TYPE = "hidden_rvq"


@dataclasses.dataclass(frozen=True)
class HiddenRVQConfig:
    """A teacher, which of its layers is read, and the quantiser of that layer.

    Attributes:
        teacher: the trained MuQ.
        layer: 0 (the encoder's input) to L, as `hidden_states` is numbered.
        rvq: the quantiser; its input is as wide as the teacher.
        dtype: what the teacher computes in; the quantiser is float32 in any case.
    """

    teacher: MuQConfig
    layer: int
    rvq: RVQConfig
    dtype: str = "float32"

    def __post_init__(self):
        last, width = self.teacher.conformer.num_layers, self.teacher.conformer.width
        if not 0 <= self.layer <= last:
            raise UserError(f"targets.layer={self.layer}: the teacher's layers are numbered 0 to {last}.")
        if self.rvq.input_dim != width:
            raise UserError(f"rvq.input_dim is {self.rvq.input_dim}; the teacher's layers are {width} wide")

    @property
    def token_samples(self) -> int:
        return self.teacher.frames_per_token * self.teacher.mel.hop_length


class HiddenRVQ(NamedTuple):
    """A Hidden-RVQ: its configuration and its variables, which are empty where only the sizes are known."""

    config: HiddenRVQConfig
    variables: Mapping[str, Any]


def default_layer(num_layers: int) -> int:
    """Returns the layer that teaches: 9 of 12, as upstream, and three quarters of any other depth.

    Rounded down, so that it is never the last one, which carries the final LayerNorm, of two or more.
    """
    return max(1, 3 * num_layers // 4)


def init_teacher(key: jax.Array, config: HiddenRVQConfig) -> dict[str, Any]:
    """Returns fresh variables of the teacher, `params` and `batch_stats`."""
    return dict(MuQModel(config.teacher, config.dtype).init(key, jnp.zeros((1, config.token_samples * 2))))


def init(key: jax.Array, config: HiddenRVQConfig) -> dict[str, Any]:
    """Returns fresh variables."""
    key_teacher, key_rvq = jax.random.split(key)
    rvq = ResidualVQ(config.rvq).init(key_rvq, jnp.zeros((1, 1, config.rvq.input_dim)))
    return {"teacher": init_teacher(key_teacher, config), "params": rvq["params"]}


def hidden_states(
    teacher: Mapping[str, Any], wave: jax.Array, num_samples: jax.Array, config: HiddenRVQConfig
) -> tuple[jax.Array, jax.Array]:
    """Returns what the quantiser sees of a waveform.

    Args:
        teacher: its variables.
        wave: float [B, S] at the teacher's rate; what fills no token at a clip's end is not heard.
        num_samples: int [B], valid samples.
        config: whose layer.

    Returns:
        The layer's hidden states float32 [B, T, D] and `valid` bool [B, T], T whole tokens.
    """
    wave, num_samples = whole_tokens(wave, num_samples, config.token_samples)
    output: Any = MuQModel(config.teacher, config.dtype).apply(dict(teacher), wave, num_samples)
    states = output.hidden_states[config.layer].astype(jnp.float32)
    num_tokens = wave.shape[1] // config.token_samples
    # A clip of one token is heard as two: the front end's shortest is 1,025 samples.
    return states[:, :num_tokens], first_valid(num_samples // config.token_samples, num_tokens)


def encode(
    variables: Mapping[str, Any], wave: jax.Array, num_samples: jax.Array, config: HiddenRVQConfig
) -> tuple[jax.Array, jax.Array]:
    """Returns codes int32 [B, T, Q] and `valid` bool [B, T]; arguments as of `hidden_states`."""
    states, valid = hidden_states(variables["teacher"], wave, num_samples, config)
    return quantize(variables["params"], states, None, config.rvq).codes, valid


def hidden_rvq_to_json(config: HiddenRVQConfig) -> dict[str, Any]:
    """Returns what describes a Hidden-RVQ in a checkpoint."""
    return {
        "model_type": MODEL_TYPE,
        "muq_jax_version": __version__,
        "teacher": to_upstream_json(config.teacher),
        "layer": config.layer,
        "rvq": dataclasses.asdict(config.rvq),
        "dtype": config.dtype,
    }


def hidden_rvq_from_json(data: dict[str, Any]) -> HiddenRVQConfig:
    """Returns the configuration that `hidden_rvq_to_json` wrote."""
    return HiddenRVQConfig(
        from_upstream_json(fields.value(data, "teacher", dict)),
        fields.value(data, "layer", int),
        fields.build(RVQConfig(), fields.value(data, "rvq", dict)),
        fields.value(data, "dtype", str),
    )
