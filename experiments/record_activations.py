"""Records what the PyTorch original computes from a folder of weights, to be held against ours.

    python -m experiments.record_activations FOLDER activations.npz [--seconds 1 7.77] [--tokens 3 21]
    python -m muq_jax convert FOLDER models/muq --against activations.npz

In the environment of requirements-torch.txt. FOLDER holds upstream's `config.json` and weights. Of a MuQ
every hidden state is recorded; of a MuQ-MuLan those of its MuQ, of its XLM-RoBERTa and of the transformers
above them, and the vectors of audio and of texts, each alone and all in one batch. The audio is noise, and
`--audio` with a floor of noise; texts are token ids. Noise and ids come from a generator that numpy has
frozen.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.original import Arrays, load, make_mulan, make_muq, roberta_config
from muq_jax.audio.decode import SAMPLE_RATE_HZ, load_audio
from muq_jax.convert import folder as model_folder
from muq_jax.convert.reader import CONFIG, read_json, read_tensors
from muq_jax.models.config_json import to_upstream_json
from muq_jax.models.mulan_json import mulan_from_json

FLOOR = 3e-4
"""RMS of the noise that is added to files: -70 dB of full scale."""


def waves(seconds: list[float], files: list[Path], max_seconds: float) -> Arrays:
    """Waves [S] by name: noise of these lengths, and the start of each file with a little noise.

    Between the partials of a tone, and above the band of an old recording, there is otherwise nothing but the
    rounding of the original's own Fourier transform, which no other one repeats.
    """

    def noise(num_samples: int) -> np.ndarray:
        return np.random.RandomState(0).standard_normal(num_samples)

    found = {f"noise_{length:g}s": 0.1 * noise(round(length * SAMPLE_RATE_HZ)) for length in seconds}
    for i, path in enumerate(files):
        wave = load_audio(path)[: round(max_seconds * SAMPLE_RATE_HZ)]
        found[f"{i}_{path.stem}"] = wave + FLOOR * noise(len(wave))
    return {name: wave.astype(np.float32) for name, wave in found.items()}


def token_ids(lengths: list[int], vocab_size: int) -> Arrays:
    """Texts [T] by name, of these lengths: <s>, ids of ordinary tokens, </s>."""
    draw = np.random.RandomState(0).randint
    return {
        f"{length}_tokens": np.array([0, *draw(4, vocab_size, length - 2), 2], np.int32) for length in lengths
    }


def record_muq(model: Any, heard: Arrays) -> Arrays:
    """Hidden states [L + 1, T, D] of a PyTorch MuQ."""
    import torch

    out: Arrays = {"model_type": np.array("muq")}
    for name, wave in heard.items():
        with torch.no_grad():
            hidden = model(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states
        out |= {f"wave_{name}": wave, f"hidden_{name}": np.stack([h[0].numpy() for h in hidden])}
    return out


def record_mulan(model: Any, heard: Arrays, texts: Arrays) -> Arrays:
    """What a PyTorch MuQMuLan makes of clips and of texts; its tokenizer is the one of `make_mulan`.

    Hidden states [L + 1, T, D] of its MuQ and its XLM-RoBERTa, [L, T, D] of the transformers above them, and
    unit vectors [E].
    """
    import torch

    def above(transformer: Any, tokens: Any) -> np.ndarray:
        last, others = transformer(tokens, return_all_layers=True)
        hidden = [*(() if others is None else others), *([last] if len(transformer.layers) else [])]
        return np.array([h[0].numpy() for h in hidden])

    out: Arrays = {"model_type": np.array("mulan")}
    written = [" ".join(map(str, ids)) for ids in texts.values()]
    with torch.no_grad():
        for name, wave in heard.items():
            heard_wave = torch.from_numpy(wave)[None]
            vector = model.mulan.get_audio_latents(heard_wave)[0].numpy()
            hidden = model.mulan.audio.model(heard_wave, output_hidden_states=True).hidden_states
            out |= {f"wave_{name}": wave, f"audio_{name}": vector}
            out[f"hidden_{name}"] = np.stack([h[0].numpy() for h in hidden])
            audio = model.mulan.audio
            projected = audio.proj(hidden[audio.use_layer_idx])
            out[f"above_{name}"] = above(audio.transformer, projected)
        for name, text, together in zip(texts, written, model(texts=written).numpy(), strict=True):
            alone = model(texts=[text])[0].numpy()
            ids = torch.from_numpy(texts[name])[None].long()
            encoded = model.mulan.text.model(input_ids=ids, output_hidden_states=True).hidden_states
            out |= {f"ids_{name}": texts[name], f"text_{name}": alone, f"batched_{name}": together}
            out[f"roberta_{name}"] = np.stack([h[0].numpy() for h in encoded])
            out[f"above_{name}"] = above(model.mulan.text.transformer, encoded[-1])
    return out


def _mulan(config: dict[str, Any]) -> Any:
    """The PyTorch MuQMuLan whose encoders have the sizes that our reading of its config.json gives them."""
    sizes = mulan_from_json(config)
    text = sizes.roberta
    roberta = roberta_config(
        text.vocab_size, text.width, text.num_layers, text.num_heads, text.ffn_width, text.num_positions
    )
    names = ("mulan", "audio_model", "text_model", "audio_transformer", "text_transformer")
    upstream = {name: config[name] for name in names}
    return make_mulan(upstream, to_upstream_json(sizes.muq), roberta)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 7.77], help="of noise")
    parser.add_argument("--tokens", type=int, nargs="+", default=[3, 21], help="of texts")
    parser.add_argument("--audio", type=Path, nargs="*", default=[], help="files")
    parser.add_argument("--max_seconds", type=float, default=10.0, help="of each file")
    args = parser.parse_args()
    config, tensors = read_json(args.folder / CONFIG), read_tensors(args.folder)
    heard = waves(args.seconds, args.audio, args.max_seconds)
    if model_folder.model_type(config) == "mulan":
        model = load(_mulan(config), tensors)
        texts = token_ids(args.tokens, model.mulan.text.model.config.vocab_size)
        recorded: dict[str, Any] = record_mulan(model, heard, texts)
    else:
        recorded = record_muq(load(make_muq(config), tensors), heard)
    np.savez(args.out, **recorded)
    print(f"{args.out}: {json.dumps(sorted(heard))}")


if __name__ == "__main__":
    main()
