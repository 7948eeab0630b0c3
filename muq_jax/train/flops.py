"""How much arithmetic a model is: an analytic count, for the FLOP/s that a run reports.

A multiply-add counts as two operations; a training step as three forward passes, one forward and two
backward. Matrix products and convolutions of the model are counted, nothing else: not the mel front end,
norms and look-ups of tables, nor the targets' quantiser, nor what rematerialisation computes twice. So the
number compares runs and devices whatever the implementation, and is a lower bound of what the device does.
"""

import itertools
from collections.abc import Collection

from muq_jax.models.config import MelRVQConfig, MuQConfig
from muq_jax.models.mulan import MuLanConfig
from muq_jax.nn.subsample import TIME_STRIDES, num_tokens
from muq_jax.quantize.rvq import RVQConfig

_FORWARD = 2
_TRAINING = 3 * _FORWARD


def muq_training_flops(config: MuQConfig, num_samples: int, *, frozen_subsampling: bool = False) -> float:
    """Returns the operations of one training step on one clip of `num_samples`.

    A frozen front end is run forward only.
    """
    frames, tokens = _lengths(config, num_samples)
    subsampling = (_FORWARD if frozen_subsampling else _TRAINING) * _subsampling(config, frames)
    per_clip = tokens * _conformer(config, tokens)
    per_clip += tokens * config.conformer.width * config.num_books * config.num_codes
    return float(subsampling + _TRAINING * per_clip)


def muq_forward_flops(config: MuQConfig, num_samples: int) -> float:
    """Returns the operations of hearing one clip of `num_samples`, as a teacher does: without the heads."""
    frames, tokens = _lengths(config, num_samples)
    return float(_FORWARD * (_subsampling(config, frames) + tokens * _conformer(config, tokens)))


def mel_rvq_training_flops(config: MelRVQConfig, num_samples: int) -> float:
    """Returns the operations of one training step on one clip: projections and nearest-code search."""
    return rvq_training_flops(config.rvq, num_samples // config.mel.hop_length // config.frames_per_token)


def rvq_training_flops(rvq: RVQConfig, tokens: int) -> float:
    """Returns the operations of one training step of a quantiser on so many tokens."""
    inner = [rvq.hidden_dim] * (rvq.num_projection_layers - 1)
    widths = [rvq.input_dim, *inner, rvq.code_dim]
    projection = sum(a * b for a, b in itertools.pairwise(widths))
    return float(_TRAINING * tokens * rvq.num_books * (2 * projection + rvq.num_codes * rvq.code_dim))


def mulan_training_flops(
    config: MuLanConfig, num_samples: int, num_tokens: int, *, frozen: Collection[str] = ()
) -> float:
    """Returns the operations of one training step on a clip of `num_samples` and a text of `num_tokens`.

    What is frozen, of the paths audio/muq/subsample, audio/muq and text/roberta, is run forward only.
    """
    text, roberta = config.text_transformer, config.roberta
    frozen_muq = "audio/muq" in frozen
    muq = muq_forward_flops(config.muq, num_samples)
    if not frozen_muq:
        frames, _ = _lengths(config.muq, num_samples)
        inputs = "audio/muq/subsample" in frozen
        muq = _TRAINING / _FORWARD * muq - inputs * (_TRAINING - _FORWARD) * _subsampling(config.muq, frames)
    attention = 4 * roberta.width**2 + 2 * num_tokens * roberta.width
    encoder = roberta.num_layers * (attention + 2 * roberta.width * roberta.ffn_width)
    inner = text.num_heads * text.head_size
    attention = 4 * text.width * inner + 2 * num_tokens * inner
    above = text.num_layers * (attention + 3 * text.width * text.ffn_width)
    read = (_FORWARD if "text/roberta" in frozen else _TRAINING) * encoder + _TRAINING * above
    return float(muq + num_tokens * read)


def _lengths(config: MuQConfig, num_samples: int) -> tuple[int, int]:
    """Returns the frames and tokens of a clip."""
    frames = num_samples // config.mel.hop_length
    return frames, num_tokens(frames, config.label_rate)


def _subsampling(config: MuQConfig, frames: int) -> int:
    """Multiply-adds of two blocks of three 3x3 convolutions and of the linear map after them, for a clip."""
    total, bands, channels_in, channels = 0, config.mel.num_mels, 1, config.conv_channels
    for stride in TIME_STRIDES[config.label_rate]:
        frames, bands = -(-frames // stride), bands // 2
        total += frames * bands * 9 * channels * (2 * channels_in + channels)
        channels_in = channels
    return total + frames * channels * bands * config.conformer.width


def _conformer(config: MuQConfig, tokens: int) -> int:
    """Multiply-adds of all layers, for a token of a clip of `tokens`."""
    conformer = config.conformer
    width = conformer.width
    feed_forward = 2 * 2 * width * conformer.ffn_width
    attention = 4 * width**2 + 2 * tokens * width
    convolution = 3 * width**2 + conformer.conv_kernel * width
    return conformer.num_layers * (feed_forward + attention + convolution)
