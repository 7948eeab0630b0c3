"""The rule table of MusicFM-25Hz (arXiv 2311.03318): a MuQ's network under other names.

A release is a Lightning checkpoint `pretrained_NAME.pt` and, beside it, `NAME_stats.json` with the mel's
statistics. It has no config.json; the sizes are read off the tensors.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from muq_jax.audio.filters import hann_window, mel_filterbank
from muq_jax.convert import muq as muq_names
from muq_jax.convert.reader import read_json
from muq_jax.convert.rules import Table, Unused
from muq_jax.errors import UserError
from muq_jax.models.config import MuQConfig, muq_config
from muq_jax.models.config_json import musicfm_to_json

STATISTICS = "_stats.json"

_MUQ = "model."
_MEL = "preprocessor_melspec_2048.mel_stft"
_FILTERS = f"{_MEL}.mel_scale.fb"
_QUANTIZER = "quantizer_melspec_2048_0"
_CODE_SIZE = 16

template = muq_names.template


def musicfm_table(config: MuQConfig) -> Table:
    """Every tensor of upstream's `MusicFM25Hz` state dict for this configuration."""
    muq = muq_names.muq_table(config)
    unused = [
        replace(entry, torch=entry.torch.removeprefix(_MUQ))
        for entry in muq.unused
        if "quantizer" not in entry.torch and not entry.torch.startswith("model.rvq")
    ]
    mel, inputs = config.mel, config.mel.num_mels * config.frames_per_token
    window = hann_window(mel.n_fft).astype(np.float32)
    filters = mel_filterbank(mel.sample_rate_hz, mel.n_fft, mel.num_mels).astype(np.float32)
    computed = "computed: the mel front end's constants"
    drawn = "random-projection targets, drawn from a seed"
    unused += [
        Unused(f"{_MEL}.spectrogram.window", window.shape, computed, window),
        Unused(_FILTERS, filters.shape, computed, filters),
        Unused(f"{_QUANTIZER}.random_projection", (inputs, _CODE_SIZE), drawn),
        Unused(f"{_QUANTIZER}.codebook", (config.num_codes, _CODE_SIZE), drawn),
    ]
    rules = [replace(rule, torch=rule.torch.removeprefix(_MUQ)) for rule in muq.rules]
    return Table(tuple(rules), tuple(unused))


def is_musicfm(tensors: Mapping[str, Any]) -> bool:
    """Whether a file without config.json holds a MusicFM: it keeps the front end's constants as tensors."""
    return any(name.endswith(_FILTERS) for name in tensors)


def released_config(tensors: Mapping[str, np.ndarray], weights: Path) -> dict[str, Any]:
    """Returns the `config.json` that a release lacks.

    Args:
        tensors: of the checkpoint.
        weights: its path; the statistics are looked for beside it.

    Raises:
        UserError: there are no statistics, or more than one file of them and none of the checkpoint's name.
    """
    prefix = next(name for name in tensors if name.endswith(_FILTERS)).removesuffix(_FILTERS)

    def sizes(name: str) -> tuple[int, ...]:
        if prefix + name not in tensors:
            raise UserError(f"{weights} lacks the tensor {prefix}{name} of a MusicFM.")
        return tensors[prefix + name].shape

    mean, std = _statistics(weights)
    num_codes, width = sizes("linear.weight")
    layer = "conformer.layers.0"
    conformer_layers = {name.split(".layers.")[1].split(".")[0] for name in tensors if ".layers." in name}
    conformer = {
        "width": width,
        "num_layers": len(conformer_layers),
        "num_heads": width // (2 * sizes("conformer.embed_positions.inv_freq")[0]),
        "ffn_width": sizes(f"{layer}.ffn1.intermediate_dense.bias")[0],
        "conv_kernel": sizes(f"{layer}.conv_module.depthwise_conv.weight")[-1],
    }
    config = muq_config(
        "large",
        conformer=conformer,
        conv_channels=sizes("conv.conv.0.conv1.bias")[0],
        rvq=None,
        num_books=1,
        num_codes=num_codes,
        mel={"mean": mean, "std": std},
    )
    return musicfm_to_json(config)


def _statistics(weights: Path) -> tuple[float, float]:
    files = sorted(weights.parent.glob(f"*{STATISTICS}"))
    name = weights.stem.rpartition("_")[2]  # pretrained_msd.pt goes with msd_stats.json
    chosen = [path for path in files if path.name == f"{name}{STATISTICS}"] or files
    if len(chosen) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise UserError(
            f"{weights} needs the mel's statistics, {name}{STATISTICS}, beside it; found {found}. They were "
            "published with the checkpoint, and features are wrong without them."
        )
    data = read_json(chosen[0])
    try:
        return float(data["melspec_2048_mean"]), float(data["melspec_2048_std"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{chosen[0]} holds {', '.join(data)[:80]}; numbers melspec_2048_mean and melspec_2048_std are "
            "expected."
        ) from None
