"""The rule table of MuQ-MuLan: its MuQ, its XLM-RoBERTa, the transformers and projections above them."""

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np

from muq_jax.convert import muq as muq_names
from muq_jax.convert import rules
from muq_jax.convert.rules import LINEAR, Rule, Table, Tensors, Tree, Unused, linear, norm
from muq_jax.models.mulan import AudioTower, MuLanConfig, TextTower

_MUQ = "mulan.audio.model."
_AGGREGATED_LAYERS = 25  # of a MERT-330M, which upstream's tower was first written for


def mulan_table(config: MuLanConfig) -> Table:
    """Every tensor of upstream's `MuQMuLan` state dict for this configuration."""
    muq = muq_names.muq_table(config.muq)
    found = [replace(rule, torch=_MUQ + rule.torch, path=_below_muq(rule.path)) for rule in muq.rules]
    found += [
        *linear("mulan.audio.proj", "audio/proj"),
        *_transformer("mulan.audio.transformer", "audio/transformer", config.audio_transformer.num_layers),
        *linear("mulan.audio_to_latents", "audio/to_latents"),
        *roberta_rules("mulan.text.model.", "text/roberta/", config.roberta.num_layers),
        *_transformer("mulan.text.transformer", "text/transformer", config.text_transformer.num_layers),
        *linear("mulan.text_to_latents", "text/to_latents"),
        Rule("mulan.contrast.temperatures", "params/log_temperature", "111->"),
    ]
    width = config.roberta.width
    unused = [replace(entry, torch=_MUQ + entry.torch) for entry in muq.unused]
    pooler = "the pooled sentence vector, which the tower does not ask for"
    unused += [
        Unused(
            "mulan.audio.aggregator.weight", (1, _AGGREGATED_LAYERS, 1), "a weighted sum of layers, not used"
        ),
        Unused("mulan.audio.aggregator.bias", (1,), "a weighted sum of layers, not used"),
        Unused("mulan.text.model.pooler.dense.weight", (width, width), pooler),
        Unused("mulan.text.model.pooler.dense.bias", (width,), pooler),
        Unused("mulan.text.model.embeddings.position_ids", None, "counted; a buffer of older transformers"),
    ]
    return Table(tuple(found), tuple(unused))


def to_torch_names(variables: Tree, config: MuLanConfig) -> Tensors:
    """The tensors in use of a MuQ-MuLan under upstream's names."""
    return rules.to_torch(variables, mulan_table(config))


def from_torch_names(
    tensors: Mapping[str, np.ndarray], config: MuLanConfig, source: str = "the weights"
) -> Tree:
    """Variables of a MuQ-MuLan (`params`, `batch_stats`, `rvq`) from a state dict.

    Raises:
        UserError: names every tensor that is missing, unknown or of another shape.
    """
    return rules.from_torch(tensors, mulan_table(config), template(config), source)


def template(config: MuLanConfig) -> Tree:
    """Names and shapes of a MuQ-MuLan's variables; computes nothing."""
    key, muq = jax.random.key(0), muq_names.template(config.muq)
    wave = jax.ShapeDtypeStruct((1, config.muq.mel.sample_rate_hz), np.float32)
    ids = jax.ShapeDtypeStruct((1, 2), np.int32)
    audio = jax.eval_shape(AudioTower(config).init, key, wave)
    text = jax.eval_shape(TextTower(config).init, key, ids)
    tree = {
        "params": {
            "audio": audio["params"],
            "text": text["params"],
            "log_temperature": jax.ShapeDtypeStruct((), np.float32),
        },
        "batch_stats": {"audio": audio["batch_stats"]},
    }
    return tree | ({"rvq": muq["rvq"]} if "rvq" in muq else {})


def _below_muq(path: str) -> str:
    """The path of one of MuQ's variables where the MuQ is an audio tower's; its Mel-RVQ stays at the top."""
    collection, rest = path.split("/", 1)
    return path if collection == "rvq" else f"{collection}/audio/muq/{rest}"


def roberta_rules(there: str, here: str, layers: int) -> list[Rule]:
    """The rules of an XLM-RoBERTa of so many layers, whose names begin as given; its pooler is not used."""
    embeddings = f"{there}embeddings"
    found = [
        Rule(f"{embeddings}.word_embeddings.weight", f"params/{here}words"),
        Rule(f"{embeddings}.position_embeddings.weight", f"params/{here}positions"),
        Rule(
            f"{embeddings}.token_type_embeddings.weight",
            f"params/{here}token_type",
            zero_because="XLM-RoBERTa knows one type of token",
        ),
        *norm(f"{embeddings}.LayerNorm", f"{here}norm"),
    ]
    layer, ours = f"{there}encoder.layer.{{n}}", f"{here}layers"
    for name in ("query", "key", "value"):
        found += linear(f"{layer}.attention.self.{name}", f"{ours}/{name}", stack=layers)
    return [
        *found,
        *linear(f"{layer}.attention.output.dense", f"{ours}/out", stack=layers),
        *norm(f"{layer}.attention.output.LayerNorm", f"{ours}/attention_norm", stack=layers),
        *linear(f"{layer}.intermediate.dense", f"{ours}/expand", stack=layers),
        *linear(f"{layer}.output.dense", f"{ours}/project", stack=layers),
        *norm(f"{layer}.output.LayerNorm", f"{ours}/ffn_norm", stack=layers),
    ]


def _transformer(there: str, here: str, layers: int) -> list[Rule]:
    if not layers:
        return []
    layer, ours = f"{there}.layers.{{n}}", f"params/{here}/layers"
    names = (
        ("0.norm.learned_gamma", "attention_norm/scale", ""),
        ("0.to_q.weight", "attention/query/kernel", LINEAR),
        ("0.to_kv.weight", "attention/key_value/kernel", LINEAR),
        ("0.q_scale", "attention/query_scale", ""),
        ("0.k_scale", "attention/key_scale", ""),
        ("0.to_out.0.weight", "attention/out/kernel", LINEAR),
        ("1.0.learned_gamma", "ffn_norm/scale", ""),
        ("1.1.weight", "ffn/expand/kernel", LINEAR),
        ("1.4.weight", "ffn/project/kernel", LINEAR),
    )
    return [Rule(f"{layer}.{torch}", f"{ours}/{path}", layout, layers) for torch, path, layout in names]
