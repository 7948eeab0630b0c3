"""The rule table of MuQ, for every size that a config.json can ask for."""

from collections.abc import Mapping

import jax
import numpy as np

from muq_jax.convert import rules
from muq_jax.convert.mel_rvq import IN_MUQ, mel_rvq_table
from muq_jax.convert.mel_rvq import template as mel_rvq_template
from muq_jax.convert.rules import (
    DEPTHWISE,
    POINTWISE,
    Rule,
    Table,
    Tensors,
    Tree,
    Unused,
    linear,
    norm,
)
from muq_jax.models.config import MuQConfig
from muq_jax.models.muq import MuQModel

# Upstream convolves over (mel, time), ours over (time, mel).
_CONV = "oift->tfio"
_POS_CONV = "model.conformer.pos_conv_embed.conv"
_POS_CONV_KERNEL = 128
_POS_CONV_GROUPS = 16
_COUNTER = "upstream counts batches for a cumulative average that its fixed momentum leaves unread"
_POS_CONV_REASON = "created and never applied: rotary positions take its place"
_RANDOM_PROJECTION = "model.quantizer_melspec_2048.random_projection"
_RANDOM_CODEBOOK = "model.quantizer_melspec_2048.codebook"


def muq_table(config: MuQConfig) -> Table:
    """Every tensor of upstream's `MuQ` state dict for this configuration."""
    found: list[Rule] = []
    unused = [
        Unused("model.cls_token", (config.conformer.width,), "for a classification that was never written"),
        *_positions(config),
    ]
    for i in range(2):
        for j in (1, 2, 3):
            there, here = f"model.conv.conv.{i}", f"subsample/block{i + 1}"
            found += linear(f"{there}.conv{j}", f"{here}/conv{j}", _CONV)
            found += _batch_norm(f"{there}.bn{j}", f"{here}/norm{j}")
            unused.append(Unused(f"{there}.bn{j}.num_batches_tracked", (), _COUNTER, dtype="int64"))
    found += linear("model.conv.linear", "subsample/linear")
    found += norm("model.conformer.layer_norm", "conformer/final_norm")
    found += linear("model.linear", "head")
    if config.mel_reconstruction:
        found += linear("model.recon_proj", "mel_head")

    layers = config.conformer.num_layers
    found += [Rule(r.torch, r.path, r.layout, layers) for r in _conformer_layer()]
    for n in range(layers):
        name = f"model.conformer.layers.{n}.conv_module.batch_norm.num_batches_tracked"
        unused.append(Unused(name, (), _COUNTER, dtype="int64"))

    if config.rvq is not None:
        found += mel_rvq_table(config.rvq, IN_MUQ, "rvq/").rules
    else:
        unused += _other_targets(config)
    return Table(tuple(found), tuple(unused))


def to_torch_names(variables: Tree, config: MuQConfig) -> Tensors:
    """The tensors in use of a MuQ under upstream's names; `rules.complete` adds what upstream never reads."""
    return rules.to_torch(variables, muq_table(config))


def from_torch_names(
    tensors: Mapping[str, np.ndarray], config: MuQConfig, source: str = "the weights"
) -> Tree:
    """Variables of a MuQ (`params`, `batch_stats` and, where it carries a Mel-RVQ, `rvq`) from a state dict.

    Raises:
        UserError: names every tensor that is missing, unknown or of another shape.
    """
    return rules.from_torch(tensors, muq_table(config), template(config), source)


def template(config: MuQConfig) -> Tree:
    """Names and shapes of a MuQ's variables; computes nothing."""
    wave = jax.ShapeDtypeStruct((1, config.mel.sample_rate_hz), np.float32)
    tree = dict(jax.eval_shape(MuQModel(config).init, jax.random.key(0), wave))
    return tree if config.rvq is None else tree | {"rvq": mel_rvq_template(config.mel_rvq)}


def _batch_norm(there: str, here: str) -> list[Rule]:
    return [
        *norm(there, here),
        Rule(f"{there}.running_mean", f"batch_stats/{here}/mean"),
        Rule(f"{there}.running_var", f"batch_stats/{here}/var"),
    ]


def _conformer_layer() -> list[Rule]:
    there, here = "model.conformer.layers.{n}", "conformer/layers"
    conv, ours = f"{there}.conv_module", f"{here}/conv"
    found = [
        *norm(f"{there}.self_attn_layer_norm", f"{here}/attention_norm"),
        *norm(f"{there}.final_layer_norm", f"{here}/final_norm"),
        *norm(f"{conv}.layer_norm", f"{ours}/norm"),
        *_batch_norm(f"{conv}.batch_norm", f"{ours}/batch_norm"),
        Rule(f"{conv}.pointwise_conv1.weight", f"params/{ours}/expand/kernel", POINTWISE),
        Rule(f"{conv}.depthwise_conv.weight", f"params/{ours}/depthwise/kernel", DEPTHWISE),
        Rule(f"{conv}.pointwise_conv2.weight", f"params/{ours}/project/kernel", POINTWISE),
    ]
    for ffn in ("ffn1", "ffn2"):
        found += norm(f"{there}.{ffn}_layer_norm", f"{here}/{ffn}_norm")
        found += linear(f"{there}.{ffn}.intermediate_dense", f"{here}/{ffn}/expand")
        found += linear(f"{there}.{ffn}.output_dense", f"{here}/{ffn}/project")
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
        found += linear(f"{there}.self_attn.linear_{letter}", f"{here}/attention/{name}")
    return found


def _positions(config: MuQConfig) -> list[Unused]:
    width, head = config.conformer.width, config.conformer.width // config.conformer.num_heads
    # In float32, as PyTorch computes it, so that an export holds the very numbers.
    exponents = np.arange(0, head, 2, dtype=np.float32) / np.float32(head)
    frequencies = (1 / np.float32(config.conformer.rotary_base) ** exponents).astype(np.float32)
    kernel, groups = _POS_CONV_KERNEL, _POS_CONV_GROUPS
    return [
        Unused("model.conformer.embed_positions.inv_freq", (head // 2,), "computed", frequencies),
        Unused(f"{_POS_CONV}.bias", (width,), _POS_CONV_REASON),
        Unused(f"{_POS_CONV}.parametrizations.weight.original0", (1, 1, kernel), _POS_CONV_REASON),
        Unused(
            f"{_POS_CONV}.parametrizations.weight.original1",
            (width, width // groups, kernel),
            _POS_CONV_REASON,
        ),
    ]


def drawn_targets(targets: Tree) -> dict[str, np.ndarray]:
    """Returns the tensors by PyTorch name of random-projection targets `projection` [Q, E, C], `codebook`.

    Upstream has room for one book; more are not among its tensors.
    """
    projection, codebook = np.asarray(targets["projection"]), np.asarray(targets["codebook"])
    if len(projection) > 1:
        return {}
    return {_RANDOM_PROJECTION: projection[0], _RANDOM_CODEBOOK: codebook[0]}


def _other_targets(config: MuQConfig) -> list[Unused]:
    """Targets that are not a Mel-RVQ. Only the objective reads targets, so a MuQ in use does without."""
    inputs, codes = config.mel.num_mels * config.frames_per_token, config.num_books * config.num_codes
    drawn = "random-projection targets, drawn from a seed"
    return [
        Unused(_RANDOM_PROJECTION, (inputs, 16), drawn),
        Unused(_RANDOM_CODEBOOK, (codes, 16), drawn),
        Unused("model.rvq.*", None, "a single VQ or Encodec as targets"),
    ]
