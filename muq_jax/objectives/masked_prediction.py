"""Masked prediction: hear a waveform with blocks replaced by noise, name the codes of the clean one there."""

import dataclasses
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from muq_jax.audio.mel import MelConfig
from muq_jax.errors import UserError
from muq_jax.models.mel_rvq import stacked_mel
from muq_jax.models.muq import MuQModel
from muq_jax.nn.valid import whole_tokens
from muq_jax.objectives.masking import MaskingConfig, mask_blocks, mask_tokens, mask_wave
from muq_jax.objectives.metric import Mean
from muq_jax.objectives.objective import Batch, LossOutput
from muq_jax.objectives.targets import StoredTargets, Targets
from muq_jax.quantize.codebook import code_counts


@dataclasses.dataclass(frozen=True)
class MaskedPrediction:
    """Cross-entropy of the codes of masked tokens, the mean over tokens and books (MuQ section 3).

    Optionally plus the squared error of the masked tokens' mel, weighed by
    `model.config.mel_reconstruction_weight`.

    `model_state` holds `batch_stats`; the targets' variables under `targets.collection`, which never
    change (where codes are stored there are none); and `code_counts` [Q, V], how often each code occurred in
    the training batches so far.

    Metrics: `ce`, `accuracy` [Q] on masked tokens; `unigram_ce` [Q], the cross-entropy of the same tokens
    under the code frequencies of the training batches before this one, each code counted once more than
    seen: what a model reaches that knows only those; `masked_share` of the valid tokens; `code_counts`
    [Q, V], whose total is how often each code occurred; `mel_mse` where the mel is predicted.
    """

    model: MuQModel
    targets: Targets | StoredTargets

    def __post_init__(self):
        config = self.model.config
        if self.targets.num_codes != config.num_codes or self.targets.num_books < config.num_books:
            raise UserError(
                f"the model predicts {config.num_books} books of {config.num_codes} codes, the targets have "
                f"{self.targets.num_books} of {self.targets.num_codes}: set model.num_books and "
                f"model.num_codes to those"
            )
        ours, theirs = (_front_end(one.mel, one.frames_per_token) for one in (config, self.targets))
        differing = [f"{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs[name]]
        if differing:
            raise UserError(
                f"the model and the targets do not hear the same: {'; '.join(differing)}. Set model.mel, "
                "model.stat and model.label_rate to those of the targets, or make targets of the model's"
            )
        _ = self.masking  # a mask that cannot be shows here, too

    @cached_property
    def masking(self) -> MaskingConfig:
        config = self.model.config
        return MaskingConfig(
            config.mel.sample_rate_hz,
            config.label_rate,
            config.mask_seconds,
            config.mask_prob,
            config.mask_noise_std,
        )

    def init(self, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        config = self.model.config
        key_model, key_targets = jax.random.split(key)
        variables = dict(self.model.init(key_model, jnp.zeros((1, self.masking.block_samples))))
        params = variables.pop("params")
        counts = jnp.zeros((config.num_books, config.num_codes))
        if not isinstance(self.targets, StoredTargets):
            variables[self.targets.collection] = self.targets.init(key_targets)
        return params, {**variables, "code_counts": counts}

    def loss(
        self,
        params: dict[str, Any],
        model_state: dict[str, Any],
        batch: Batch,
        key: jax.Array,
        *,
        train: bool,
    ) -> LossOutput:
        config, masking = self.model.config, self.masking
        key_blocks, key_noise, key_dropout = jax.random.split(key, 3)
        rows = batch["row"]
        wave, num_samples = whole_tokens(
            batch["wave"], batch["num_samples"], config.frames_per_token * config.mel.hop_length
        )
        masked_blocks = mask_blocks(key_blocks, rows, num_samples, wave.shape[1], masking)
        heard = mask_wave(key_noise, rows, wave, masked_blocks, masking)

        variables = {"params": params, "batch_stats": model_state["batch_stats"]}
        if train:
            # The first row tells micro-batches of a step apart, which otherwise would drop the same units.
            rngs = {"dropout": jax.random.fold_in(key_dropout, rows[0])}
            output, changed = self.model.apply(
                variables, heard, num_samples, train=True, rngs=rngs, mutable=["batch_stats"]
            )
        else:
            output, changed = self.model.apply(variables, heard, num_samples), {}

        if isinstance(self.targets, StoredTargets):
            codes = batch["codes"]
            valid = self.targets.valid(codes, num_samples)
        else:
            codes, valid = self.targets(model_state[self.targets.collection], wave, num_samples)
        codes = codes[..., : config.num_books]  # [B, T, Q]
        masked = mask_tokens(masked_blocks, codes.shape[1], masking)  # [B, T]
        weight = masked.sum().astype(jnp.float32)
        ce = _masked_sum(cross_entropy(output.logits, codes), masked)  # [Q]
        hits = _masked_sum(jnp.argmax(output.logits, axis=-1) == codes, masked)
        loss = ce.sum() / (jnp.maximum(weight, 1.0) * config.num_books)

        counts = code_counts(codes, config.num_codes, valid)
        masked_counts = code_counts(codes, config.num_codes, masked)
        num_valid = valid.sum().astype(jnp.float32)
        metrics = {
            "ce": Mean(ce, weight),
            "accuracy": Mean(hits, weight),
            "unigram_ce": Mean(unigram_cross_entropy(masked_counts, model_state["code_counts"]), weight),
            "masked_share": Mean(weight, num_valid),
            "code_counts": Mean(counts, num_valid),
        }
        if output.predicted_mel is not None:
            mel, _ = stacked_mel(wave, num_samples, mel=config.mel, frames_per_token=config.frames_per_token)
            squared = _masked_sum((output.predicted_mel - mel) ** 2, masked).mean()  # over the features
            metrics["mel_mse"] = Mean(squared, weight)
            loss += config.mel_reconstruction_weight * squared / jnp.maximum(weight, 1.0)
        if train:
            model_state = {**model_state, **changed, "code_counts": model_state["code_counts"] + counts}
        return LossOutput(loss, weight, model_state, metrics)

    def replace(self, params: dict[str, Any], updates: None) -> dict[str, Any]:
        return params


def _front_end(mel: MelConfig, frames_per_token: int) -> dict[str, Any]:
    """What a token is made of; how the transform is computed changes nothing but rounding."""
    fields = {f"mel.{name}": value for name, value in dataclasses.asdict(mel).items() if name != "stft"}
    return {**fields, "frames per token": frames_per_token}


def cross_entropy(logits: jax.Array, codes: jax.Array) -> jax.Array:
    """Returns -log softmax(logits)[code], float32 [...], of logits [..., V] and codes int [...].

    The logit is picked by comparison, not by a gather, whose gradient is a scatter: slow on a TPU. With the
    gradient two arrays of the logits' size are alive, 25 MB each for a 30 s clip at 8 x 1,024 codes.
    """
    logits = logits.astype(jnp.float32)
    picked = codes[..., None] == jnp.arange(logits.shape[-1])
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(picked, logits, 0.0), axis=-1)


def unigram_cross_entropy(counts: jax.Array, seen: jax.Array) -> jax.Array:
    """Returns the summed -log p(code) [Q] over tokens with `counts` [Q, V], where p is that of `seen` [Q, V].

    One is added to every count seen, so that a code never seen costs a finite amount and nothing seen is
    chance, ln V.
    """
    log_p = jnp.log(seen + 1.0) - jnp.log(seen.sum(-1, keepdims=True) + seen.shape[-1])
    return -jnp.sum(counts * log_p, axis=-1)


def _masked_sum(values: jax.Array, masked: jax.Array) -> jax.Array:
    """Returns the sum [E] of values [B, T, E] over masked tokens [B, T]."""
    return jnp.sum(jnp.where(masked[..., None], values, 0.0), axis=(0, 1))
