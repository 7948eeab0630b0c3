"""Fitting a Mel-RVQ: reconstruct the stacked mel through the codebooks."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from muq_jax.models import mel_rvq
from muq_jax.models.config import MelRVQConfig
from muq_jax.objectives.metric import Mean
from muq_jax.objectives.objective import Batch, LossOutput
from muq_jax.quantize.codebook import code_counts
from muq_jax.quantize.rvq import Replacement, ResidualVQ, replace_rows


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
        quantizer, variables = ResidualVQ(config.rvq), {"params": params, **model_state}
        if train:
            output, changed = quantizer.apply(
                variables, stacked, valid, train=True, key=key, mutable=["codebook_state"]
            )
            model_state = dict(changed)
            replaced = output.replacement.rows.sum(-1).astype(jnp.float32)
        else:
            output = quantizer.apply(variables, stacked, valid)
            replaced = jnp.zeros(config.rvq.num_books)
        weight = valid.sum().astype(jnp.float32)
        metrics = {
            "codebook_loss": Mean(output.codebook_loss * weight, weight),
            "commitment_loss": Mean(output.commitment_loss * weight, weight),
            "error": Mean(output.errors * weight, weight),
            "replaced_codes": Mean(replaced, jnp.ones(())),
            "code_counts": Mean(code_counts(output.codes, config.rvq.num_codes, valid), weight),
        }
        return LossOutput(output.loss, weight, model_state, metrics, output.replacement)

    def replace(self, params: dict[str, Any], updates: Replacement | None) -> dict[str, Any]:
        return params if updates is None else replace_rows(params, updates)
