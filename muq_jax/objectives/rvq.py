"""Fitting a residual quantiser: reconstruct the stacked mel, or a teacher's layer, through the codebooks."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from muq_jax.models import hidden_rvq, mel_rvq
from muq_jax.models.config import MelRVQConfig
from muq_jax.models.hidden_rvq import HiddenRVQConfig
from muq_jax.objectives.metric import Mean
from muq_jax.objectives.objective import Batch, LossOutput
from muq_jax.quantize.codebook import code_counts
from muq_jax.quantize.rvq import Replacement, ResidualVQ, RVQConfig, replace_rows


@dataclass(frozen=True)
class MelRVQObjective:
    """Codebook loss + 0.25 commitment loss + L1 error of the normalised mel, means over valid tokens.

    `model_state` holds `codebook_state`, the counters of unused codes; `updates` are the rows that replace
    stale ones. Micro-batches count as steps of their own for the counters: accumulate only what fits no other
    way.

    Metrics: `codebook_loss`, `commitment_loss`; `error` [Q], the mean absolute error after each book;
    `replaced_codes` [Q], stale codes replaced a step; `code_counts` [Q, V], whose total is how often each
    code occurred.
    """

    config: MelRVQConfig

    def init(self, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        variables = mel_rvq.init(key, self.config)
        return variables.pop("params"), variables

    def loss(
        self,
        params: dict[str, Any],
        model_state: dict[str, Any],
        batch: Batch,
        key: jax.Array,
        *,
        train: bool,
    ) -> LossOutput:
        config = self.config
        stacked, valid = mel_rvq.stacked_mel(
            batch["wave"], batch["num_samples"], mel=config.mel, frames_per_token=config.frames_per_token
        )
        return _fit(config.rvq, params, model_state, stacked, valid, key, train)

    def replace(self, params: dict[str, Any], updates: Replacement | None) -> dict[str, Any]:
        return params if updates is None else replace_rows(params, updates)


@dataclass(frozen=True)
class HiddenRVQObjective:
    """The same loss, counters and metrics for a layer of a teacher instead of the mel.

    `model_state` also holds the teacher's frozen variables under `teacher`.
    """

    config: HiddenRVQConfig

    def init(self, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        key_teacher, key_rvq = jax.random.split(key)
        rvq = dict(ResidualVQ(self.config.rvq).init(key_rvq, jnp.zeros((1, 1, self.config.rvq.input_dim))))
        return rvq.pop("params"), {**rvq, "teacher": hidden_rvq.init_teacher(key_teacher, self.config)}

    def loss(
        self,
        params: dict[str, Any],
        model_state: dict[str, Any],
        batch: Batch,
        key: jax.Array,
        *,
        train: bool,
    ) -> LossOutput:
        teacher = model_state["teacher"]
        states, valid = hidden_rvq.hidden_states(teacher, batch["wave"], batch["num_samples"], self.config)
        counters = {"codebook_state": model_state["codebook_state"]}
        output = _fit(self.config.rvq, params, counters, states, valid, key, train)
        return output._replace(model_state={**output.model_state, "teacher": teacher})

    def replace(self, params: dict[str, Any], updates: Replacement | None) -> dict[str, Any]:
        return params if updates is None else replace_rows(params, updates)


def _fit(
    config: RVQConfig,
    params: dict[str, Any],
    counters: dict[str, Any],
    x: jax.Array,
    valid: jax.Array,
    key: jax.Array,
    train: bool,
) -> LossOutput:
    """Returns the loss of quantising x [B, T, E]; `counters` and the state returned are `codebook_state`."""
    quantizer, variables = ResidualVQ(config), {"params": params, **counters}
    if train:
        output, changed = quantizer.apply(
            variables, x, valid, train=True, key=key, mutable=["codebook_state"]
        )
        counters = dict(changed)
        replaced = output.replacement.rows.sum(-1).astype(jnp.float32)
    else:
        output = quantizer.apply(variables, x, valid)
        replaced = jnp.zeros(config.num_books)
    weight = valid.sum().astype(jnp.float32)
    metrics = {
        "codebook_loss": Mean(output.codebook_loss * weight, weight),
        "commitment_loss": Mean(output.commitment_loss * weight, weight),
        "error": Mean(output.errors * weight, weight),
        "replaced_codes": Mean(replaced, jnp.ones(())),
        "code_counts": Mean(code_counts(output.codes, config.num_codes, valid), weight),
    }
    return LossOutput(output.loss, weight, counters, metrics, output.replacement)
