"""What a MuQ-MuLan begins with: a trained MuQ, a text encoder, and the tokenizer of its texts."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ml_collections import ConfigDict

from experiments.clips import train_source
from muq_jax.convert.rules import Tree
from muq_jax.convert.xlm_roberta import load_xlm_roberta
from muq_jax.convert.xlm_roberta import params_sha256 as text_sha256
from muq_jax.data.texts import TextReader, check_texts, texts_in
from muq_jax.errors import UserError
from muq_jax.inference.pretrained import MuQ
from muq_jax.models.config import MuQConfig
from muq_jax.models.mulan import SMALL, XLM_ROBERTA, MuLanConfig
from muq_jax.models.roberta import RobertaConfig
from muq_jax.nn.transformer import TransformerConfig
from muq_jax.text.byte_pairs import fit_byte_pairs, vocab_size_of
from muq_jax.text.sentences import Sentences
from muq_jax.text.tokenizer import FILE as TOKENIZER
from muq_jax.text.tokenizer import open_tokenizer

LrFactors: TypeAlias = tuple[tuple[str, float | tuple[float, ...]], ...]

LR_FIELDS = ("audio_lr_factor", "text_lr_factor", "layer_decay")
"""Fields of `optim` of which `lr_factors` are made."""

_FFN_MULTIPLE = 4  # of a small text encoder's width
_EMBEDDING = ("words", "positions", "token_type", "norm")


class Towers(NamedTuple):
    """What a MuQ-MuLan begins with.

    Attributes:
        muq: the audio tower's encoder; its sizes alone where a run has to train it first.
        text: the text encoder's sizes.
        text_params: its parameters; None where they are drawn.
        tokenizer: the bytes of its `tokenizer.json`.
    """

    muq: MuQ
    text: RobertaConfig
    text_params: Tree | None
    tokenizer: bytes


def make_towers(config: ConfigDict, muq: MuQ, stored: Path | None = None) -> Towers:
    """Returns the towers that a configuration of `mulan.py` asks for, and fills in their digests.

    Args:
        config: of the run.
        muq: the audio tower's encoder.
        stored: the work directory where the run has begun: it goes on with the tokenizer there. Else that of
            a small text encoder is fitted to the training texts.

    Raises:
        UserError: no such text encoder, or none where one is needed.
    """
    name, targets = config.model.text_model, config.targets
    if name == SMALL:
        if frozen := {"text", "text/roberta"} & set(config.optim.frozen):
            raise UserError(
                f"optim.frozen has {min(frozen)}: a small text encoder is drawn at random and would stay so. "
                "Leave it out."
            )
        if targets.text is not None:
            raise UserError(
                f"targets.text={targets.text} is an {XLM_ROBERTA}; a small text encoder is trained from "
                f"scratch: leave it out, or set model.text_model={XLM_ROBERTA}."
            )
        sizes = _small(config)
        tokenizer = _fit_tokenizer(config) if stored is None else _read_tokenizer(stored / TOKENIZER)
        sizes = dataclasses.replace(sizes, vocab_size=vocab_size_of(tokenizer))
        towers = Towers(muq, sizes, None, tokenizer)
    elif name == XLM_ROBERTA:
        if targets.text is None:
            raise UserError(
                f"targets.text is not set: model.text_model={XLM_ROBERTA} begins with a released one. Give "
                "its folder, or --config.targets.text=FacebookAI/xlm-roberta-base with the extra `hub`; or "
                "take the variant `tiny`, whose small text encoder needs none."
            )
        encoder = load_xlm_roberta(targets.text)
        targets.text_sha256 = text_sha256(encoder)
        towers = Towers(muq, *encoder)
    else:
        raise _no_such_text_model(name)
    targets.tokenizer_sha256 = hashlib.sha256(towers.tokenizer).hexdigest()
    return towers


def sizes_of_towers(config: ConfigDict, muq: MuQConfig) -> Towers:
    """Returns the towers of a configuration of `mulan.py` without parameters and tokenizer; reads no text.

    Raises:
        UserError: no such text encoder.
    """
    text_models = {SMALL: lambda: _small(config), XLM_ROBERTA: RobertaConfig}
    if config.model.text_model not in text_models:
        raise _no_such_text_model(config.model.text_model)
    return Towers(MuQ(muq, {}), text_models[config.model.text_model](), None, b"")


def mulan_config(config: ConfigDict, towers: Towers) -> MuLanConfig:
    """Returns the model of a configuration of `mulan.py`."""
    width = towers.text.width
    transformer = TransformerConfig(width=width, **config.model.text_transformer.to_dict())
    return MuLanConfig(
        muq=towers.muq.config,
        roberta=towers.text,
        text_model=config.model.text_model,
        audio_layer=config.model.audio_layer,
        audio_transformer=TransformerConfig(width=width, num_layers=0),
        text_transformer=transformer,
        latent_size=config.model.latent_size,
        clip_seconds=max(1, round(config.data.crop_seconds)),
        decoupled_loss=config.objective.loss == "decoupled",
    )


def given_towers(towers: Towers) -> dict[str, Any]:
    """Returns what a run begins with, by the paths of `train.state.init_state`."""
    variables = towers.muq.variables
    found = {f"{name}/audio/muq": variables[name] for name in ("params", "batch_stats") if name in variables}
    if "rvq" in variables:
        found["rvq"] = variables["rvq"]
    if towers.text_params is not None:
        found["params/text/roberta"] = towers.text_params
    return found


def lr_factors(config: ConfigDict, model: MuLanConfig) -> LrFactors:
    """Returns the factors of the encoders' layers, of what comes before these, and of the rest of each."""
    optim = config.optim
    decay, factors = optim.layer_decay, []
    for path, factor, layers, num_layers, inputs in (
        (
            "audio/muq",
            optim.audio_lr_factor,
            "conformer/layers",
            model.muq.conformer.num_layers,
            ("subsample",),
        ),
        ("text/roberta", optim.text_lr_factor, "layers", model.roberta.num_layers, _EMBEDDING),
    ):
        for name, value in (("factor", factor), ("layer_decay", decay)):
            if not value > 0:
                raise UserError(
                    f"optim: a {name} of {value}; expected more than 0. To hold parameters, freeze them."
                )
        by_layer = tuple(factor * decay ** (num_layers - number) for number in range(num_layers))
        below = factor * decay ** (num_layers + 1)
        factors += [(f"{path}/{layers}", by_layer), *((f"{path}/{name}", below) for name in inputs)]
        factors.append((path, factor))
    if optim.audio_lr_factor == optim.text_lr_factor == decay == 1:
        return ()
    return tuple(factors)


def text_reader(config: ConfigDict, towers: Towers) -> TextReader:
    """Returns what turns a clip's labels into token ids.

    Raises:
        UserError: texts are to be longer than the encoder reads, or a share is none.
    """
    max_tokens = config.data.text.max_tokens
    if max_tokens > towers.text.max_tokens:
        raise UserError(
            f"data.text.max_tokens={max_tokens}: the text encoder reads at most {towers.text.max_tokens}."
        )
    return TextReader(_sentences(config), towers.tokenizer, max_tokens)


def _small(config: ConfigDict) -> RobertaConfig:
    sizes = config.model.text.to_dict()
    if not sizes:
        raise UserError(
            f"model.text_model={SMALL}: this variant has no sizes for it. Take the variant `tiny` and change "
            "what you want of its model.text and model.text_transformer."
        )
    return RobertaConfig(
        **sizes,
        ffn_width=_FFN_MULTIPLE * sizes["width"],
        num_positions=config.data.text.max_tokens + 2,
    )


def _no_such_text_model(name: str) -> UserError:
    return UserError(f"model.text_model={name!r}: expected {XLM_ROBERTA} or {SMALL}.")


def _read_tokenizer(path: Path) -> bytes:
    try:
        tokenizer = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} could not be read: {error.strerror}. The run has begun with it and cannot go on "
            "without; put it back, or take another --workdir."
        ) from None
    open_tokenizer(tokenizer, path)
    return tokenizer


def _fit_tokenizer(config: ConfigDict) -> bytes:
    source = train_source(config)
    check_texts(source)
    texts = texts_in(source)
    return fit_byte_pairs(_sentences(config).material(texts, config.seed), config.model.text.vocab_size)


def _sentences(config: ConfigDict) -> Sentences:
    fields = config.data.text.to_dict()
    del fields["max_tokens"]
    return Sentences(**fields)
