"""Writes a folder as upstream releases one: a PyTorch original of any sizes, with random weights.

    python -m experiments.make_original FOLDER --model muq                            # MuQ-large's sizes
    python -m experiments.make_original FOLDER --model muq --muq width=96 heads=3 label_rate=50 --seed 1
    python -m experiments.make_original FOLDER --model mulan --muq layers=2 --roberta vocab=101 layers=3

In the environment of requirements-torch.txt. Sizes that are not given are the released model's; their names
are the arguments of `upstream_config`, `upstream_mulan_config` and `roberta_config` in `original`.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from experiments.original import (
    build,
    build_mulan,
    import_original,
    roberta_config,
    upstream_config,
    upstream_mulan_config,
)
from muq_jax.convert.reader import CONFIG, WEIGHTS
from muq_jax.models.config_json import from_upstream_json
from muq_jax.models.mulan_json import mulan_from_json, mulan_to_json

MUQ_LARGE = dict(width=1024, layers=12, heads=16, ffn=4096, conv=512, books=8)
MULAN_LARGE = dict(audio=768, audio_layers=0, text=768, text_layers=8, heads=8, head_size=64, latent=512)
XLM_ROBERTA_BASE = dict(vocab=250_002, width=768, layers=12, heads=12, ffn=3072, positions=514)

RELEASED_AS = {"muq": "safetensors", "mulan": "bin"}


def mulan_json(config: dict[str, Any], muq: dict[str, Any], roberta: dict[str, Any]) -> dict[str, Any]:
    """Upstream's config.json of a MuQ-MuLan, and under `muq_jax` what it cannot say: its encoders' sizes."""
    encoders = dict(
        muq=dataclasses.asdict(from_upstream_json(muq)),
        roberta=dict(
            vocab_size=roberta["vocab_size"],
            width=roberta["hidden_size"],
            num_layers=roberta["num_hidden_layers"],
            num_heads=roberta["num_attention_heads"],
            ffn_width=roberta["intermediate_size"],
            num_positions=roberta["max_position_embeddings"],
        ),
    )
    read = mulan_to_json(mulan_from_json(config | {"muq_jax": encoders}))
    return config | {key: value for key, value in read.items() if key == "muq_jax"}


def save(model: Any, config: dict[str, Any], folder: Path, form: str) -> None:
    """Writes config.json and the whole state dict, as `model.safetensors` or `pytorch_model.bin`."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    if form == "safetensors":
        save_file(model.state_dict(), folder / WEIGHTS)
    else:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")


def named_number(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    return name, int(number)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=RELEASED_AS, required=True)
    for part in ("muq", "mulan", "roberta"):
        parser.add_argument(f"--{part}", type=named_number, nargs="+", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("safetensors", "bin"), help="(default: as upstream releases it)")
    args = parser.parse_args()
    import_original()
    muq = upstream_config(**MUQ_LARGE | dict(args.muq))
    if args.model == "muq":
        model, config = build(muq, args.seed), muq
    else:
        mulan = upstream_mulan_config(muq["encoder_dim"], **MULAN_LARGE | dict(args.mulan))
        roberta = roberta_config(**XLM_ROBERTA_BASE | dict(args.roberta))
        model, config = build_mulan(mulan, muq, roberta, args.seed), mulan_json(mulan, muq, roberta)
    save(model, config, args.folder, args.format or RELEASED_AS[args.model])
    print(f"{args.folder}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
