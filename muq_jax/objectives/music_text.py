"""Music and text in one space: every clip is to be nearest to its own text of all texts of the batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from muq_jax.errors import UserError
from muq_jax.models import mel_rvq
from muq_jax.models.mulan import AudioTower, MuLanConfig, TextTower
from muq_jax.nn.normalization import layer_norm
from muq_jax.nn.sharding import constrain_batch
from muq_jax.objectives.contrastive import LOSSES, encode_in_parts, pair_losses
from muq_jax.objectives.metric import Mean
from muq_jax.objectives.objective import Batch, LossOutput, split_rows
from muq_jax.objectives.retrieval import both_ways

HISTOGRAM_BINS = 40
"""Of the similarities, from -1 to 1."""

MAX_CLIPS = 10_000
"""Clips of an evaluation that are ranked for each other: all pairs of more would not fit into memory."""

_LOGIT_BIAS = -10.0  # at the start, as in arXiv 2303.15343: nearly all pairs are none


@dataclasses.dataclass(frozen=True)
class MusicText:
    """A contrastive loss of the two towers of a MuQ-MuLan over the global batch.

    Parameters `audio`, `text`, `log_temperature`; `logit_bias` for the sigmoid loss; `layers` for the loss of
    several layers. `model_state` holds `batch_stats` of the audio tower and, where its MuQ carries a Mel-RVQ,
    `rvq`, which nothing changes.

    Metrics: `accuracy`, how often the own text of the batch is nearest to a clip, and the own clip to a text,
    and `accuracy_chance`; `temperature`, by which similarities are multiplied; `layers_loss` where there is
    one. When evaluating, the rows `audio` and `text` [B, E], `ids` and `valid`, of which `summarize` makes
    what is known of the whole evaluation.

    Attributes:
        config: the towers.
        dtype: what they compute in.
        loss_name: one of `contrastive.LOSSES`.
        temperature: what `temperature` begins with; 10 as upstream.
        num_parts: parts that the batch is encoded in, one after the other, to fit into memory. The loss is
            over all of it; BatchNorm's statistics are each part's own.
        skip_same_text: pairs whose texts are the same tokens do not repel each other, and each is right
            where the other is looked for.
        num_layers: so many layers of both encoders, at even distances, have a loss of their own, which is
            added, as upstream's hierarchical one; 0 for none.
    """

    config: MuLanConfig
    dtype: str = "float32"
    loss_name: str = "decoupled"
    temperature: float = 10.0
    num_parts: int = 1
    skip_same_text: bool = False
    num_layers: int = 0

    def __post_init__(self) -> None:
        if self.loss_name not in LOSSES:
            raise UserError(f"objective.loss={self.loss_name!r}: expected one of {', '.join(LOSSES)}.")
        if not self.temperature > 0:
            raise UserError(f"objective.temperature={self.temperature}: expected more than 0.")
        there = min(self._depths)
        if not 0 <= self.num_layers <= there:
            raise UserError(
                f"objective.num_layers={self.num_layers}: expected 0 to {there}, the layers of the MuQ or of "
                "the text transformer, whichever has fewer."
            )

    @property
    def _depths(self) -> tuple[int, int]:
        return self.config.muq.conformer.num_layers, self.config.text_transformer.num_layers

    def init(self, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        config = self.config
        key_audio, key_text, key_rvq, key_layers = jax.random.split(key, 4)
        wave = jnp.zeros((1, config.muq.mel.sample_rate_hz))
        audio = AudioTower(config, self.dtype).init(key_audio, wave)
        text = TextTower(config, self.dtype).init(key_text, jnp.zeros((1, 2), jnp.int32))
        params = {
            "audio": audio["params"],
            "text": text["params"],
            "log_temperature": jnp.log(jnp.float32(self.temperature)),
        }
        if self.loss_name == "sigmoid":
            params["logit_bias"] = jnp.float32(_LOGIT_BIAS)
        if self.num_layers:
            params["layers"] = self._init_layers(key_layers)
        model_state = {"batch_stats": {"audio": audio["batch_stats"]}}
        if config.muq.rvq is not None:
            model_state["rvq"] = mel_rvq.init(key_rvq, config.muq.mel_rvq)
        return params, model_state

    def loss(
        self,
        params: dict[str, Any],
        model_state: dict[str, Any],
        batch: Batch,
        key: jax.Array,
        *,
        train: bool,
    ) -> LossOutput:
        def encode(statistics: Any, part: Batch) -> tuple[Any, dict[str, jax.Array]]:
            return self._encode(params, statistics, part, key, train=train)

        parts = split_rows(batch, self.num_parts)
        vectors, statistics = encode_in_parts(encode, model_state["batch_stats"]["audio"], parts)
        vectors = jax.tree.map(constrain_batch, vectors)
        audio, text = vectors["audio"], vectors["text"]

        valid, ids = batch["num_samples"] > 0, batch["ids"]
        weight = valid.sum().astype(jnp.float32)
        same = jnp.all(ids[:, None] == ids, axis=-1) if self.skip_same_text else None

        def mean_loss(audio: Any, text: Any, log_temperature: Any, bias: Any) -> jax.Array:
            losses = pair_losses(
                audio, text, log_temperature, loss=self.loss_name, bias=bias, valid=valid, same=same
            )
            return losses.sum() / jnp.maximum(weight, 1.0)

        loss = mean_loss(audio, text, params["log_temperature"], params.get("logit_bias"))
        accuracy, chance = _nearest(audio, text, valid, same)
        metrics = {
            "accuracy": accuracy,
            "accuracy_chance": chance,
            "temperature": Mean(jnp.exp(params["log_temperature"]), jnp.ones(())),
        }
        if self.num_layers:
            layers = params["layers"]
            found = [
                mean_loss(
                    vectors["audio_layers"][:, n],
                    vectors["text_layers"][:, n],
                    layers["log_temperature"][n],
                    layers["logit_bias"][n] if "logit_bias" in layers else None,
                )
                for n in range(self.num_layers)
            ]
            metrics["layers_loss"] = Mean(sum(found) * weight, weight)
            loss += sum(found)
        if train:
            model_state = {**model_state, "batch_stats": {"audio": statistics}}
            return LossOutput(loss, weight, model_state, metrics)
        rows = {"audio": audio, "text": text, "ids": ids, "valid": valid}
        return LossOutput(loss, weight, model_state, metrics, rows=rows)

    def replace(self, params: dict[str, Any], updates: None) -> dict[str, Any]:
        return params

    def _encode(
        self, params: dict[str, Any], statistics: Any, part: Batch, key: jax.Array, *, train: bool
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Returns the statistics after a part of a batch, and its vectors, whose first axis is its rows."""
        # The first row tells parts apart, which otherwise would drop the same units.
        key_audio, key_text = jax.random.split(jax.random.fold_in(key, part["row"][0]))
        audio, heard = AudioTower(self.config, self.dtype).apply(
            {"params": params["audio"], "batch_stats": statistics},
            part["wave"],
            part["num_samples"],
            train=train,
            rngs={"dropout": key_audio},
            mutable=["batch_stats", "intermediates"] if train else ["intermediates"],
        )
        text, read = TextTower(self.config, self.dtype).apply(
            {"params": params["text"]},
            part["ids"],
            train=train,
            rngs={"dropout": key_text},
            mutable=["intermediates"],
        )
        vectors = {"audio": audio, "text": text}
        if self.num_layers:
            pooled = heard["intermediates"]["pooled"][0]  # [L, B, D]
            hidden = read["intermediates"]["transformer"]["layers"]["hidden"][0]  # [L, B, T, D]
            firsts = hidden[:, :, 0].astype(jnp.float32)
            for name, states, depth in zip(("audio", "text"), (pooled, firsts), self._depths, strict=True):
                chosen = states[np.array(interspersed(self.num_layers, depth))]
                vectors[f"{name}_layers"] = _layer_latents(params["layers"][name], chosen).swapaxes(0, 1)
        return heard.get("batch_stats", statistics), vectors

    def _init_layers(self, key: jax.Array) -> dict[str, Any]:
        """Of each layer and side a norm's gain and a projection to the space, drawn as upstream's."""
        config, count = self.config, self.num_layers
        layers: dict[str, Any] = {"log_temperature": jnp.full(count, jnp.log(jnp.float32(self.temperature)))}
        if self.loss_name == "sigmoid":
            layers["logit_bias"] = jnp.full(count, _LOGIT_BIAS)
        for name, width in (("audio", config.muq.conformer.width), ("text", config.roberta.width)):
            key, key_kernel, key_bias = jax.random.split(key, 3)
            layers[name] = {
                "scale": jnp.ones((count, width)),
                "kernel": jax.random.normal(key_kernel, (count, width, config.latent_size)),
                "bias": jax.random.normal(key_bias, (count, config.latent_size)),
            }
        return layers


def interspersed(count: int, total: int) -> list[int]:
    """Returns `count` of the layers 0 to `total` - 1 at even distances, the first among them, as upstream."""
    return [number * total // count for number in range(count)]


def summarize(rows: Mapping[str, np.ndarray]) -> dict[str, Mean]:
    """Returns what texts and clips of a whole evaluation find of each other, beside what chance would give.

    Texts that are the same have the same clips to find. Metrics: the fields of `retrieval.Ranking`, such as
    `text_to_music_recall_at_10`, and with `_chance` after them what chance gives; `similarity_own` and
    `similarity_other`, shares of the pairs [HISTOGRAM_BINS] from -1 to 1; `num_ranked`, the clips that this
    is about: all, or of more than `MAX_CLIPS` so many at even distances.

    Args:
        rows: of `MusicText`, over all batches.
    """
    chosen = np.flatnonzero(rows["valid"])
    if len(chosen) > MAX_CLIPS:
        chosen = chosen[np.arange(MAX_CLIPS) * len(chosen) // MAX_CLIPS]
    audio, text, ids = (rows[name][chosen] for name in ("audio", "text", "ids"))
    similarity = text.astype(np.float64) @ audio.astype(np.float64).T
    _, same_as = np.unique(ids, axis=0, return_inverse=True)
    right = same_as.reshape(-1)[:, None] == same_as.reshape(-1)
    found: dict[str, Any] = {"num_ranked": np.float64(len(right))}
    for way, result in zip(("text_to_music", "music_to_text"), both_ways(similarity, right), strict=True):
        for kind, ranking in (("", result.scores), ("_chance", result.chance)):
            found |= {f"{way}_{name}{kind}": value for name, value in ranking._asdict().items()}
    edges = np.linspace(-1, 1, HISTOGRAM_BINS + 1)
    for name, pairs in (("own", np.eye(len(right), dtype=bool)), ("other", ~right)):
        counts, _ = np.histogram(np.clip(similarity[pairs], -1, 1), edges)
        found[f"similarity_{name}"] = counts / max(counts.sum(), 1)
    once: Any = np.float64(1)
    return {name: Mean(value, once) for name, value in found.items()}


def _nearest(
    audio: jax.Array, text: jax.Array, valid: jax.Array, same: jax.Array | None
) -> tuple[Mean, Mean]:
    """How often a right one is nearest, both ways, and what chance gives; right is the own one, or `same`."""
    similarity = jnp.matmul(audio, text.T, precision="highest")
    rows = jnp.arange(len(audio))
    pairs = valid[:, None] & valid
    right = (rows[:, None] == rows if same is None else same) & pairs
    # Maxima, not their places: over devices a maximum is one number, its place is found with all of them.
    best_right = jnp.where(right, similarity, -jnp.inf)
    best_wrong = jnp.where(pairs & ~right, similarity, -jnp.inf)
    hits = sum((best_right.max(axis) > best_wrong.max(axis)).astype(jnp.float32) for axis in (0, 1))
    num_valid = valid.sum().astype(jnp.float32)
    by_chance = 2 * right.sum() / jnp.maximum(num_valid, 1)
    return Mean(jnp.sum(jnp.where(valid, hits, 0.0)), 2 * num_valid), Mean(by_chance, 2 * num_valid)


def _layer_latents(params: dict[str, jax.Array], states: jax.Array) -> jax.Array:
    """Returns unit vectors [N, B, E] of the states [N, B, D] of N layers."""
    width = states.shape[-1]
    normed = jax.vmap(lambda x, scale: layer_norm(x, scale, jnp.zeros(width), 1e-5))(states, params["scale"])
    latents = jnp.einsum("nbd,nde->nbe", normed, params["kernel"]) + params["bias"][:, None]
    return latents / jnp.maximum(jnp.linalg.norm(latents, axis=-1, keepdims=True), 1e-12)
