"""Writes tests/golden/*.npz: what the PyTorch original computes, small enough to commit.

    python -m experiments.make_goldens            # in the environment of requirements-torch.txt

The tests that read the goldens need no torch. Weights are not stored: `original.random_tensors` draws them
from their names with a generator that numpy has frozen, here and in the tests alike, so that a golden holds
inputs and outputs only. The tests marked `torch` make the same comparison at full size.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.original import (
    Arrays,
    as_wave,
    build,
    build_mulan,
    import_original,
    load_random,
    roberta_config,
    shapes_of,
    upstream_config,
    upstream_mulan_config,
)

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SAMPLE_RATE_HZ = 24_000
MASKED_BLOCK = 9_600  # samples: 400 ms
MASKED_TOKENS = 10  # of one block at 25 Hz


def clip(index: int, num_samples: int) -> np.ndarray:
    """The start of a toy_music clip as int16 [S]: its samples lie on this grid, so nothing is lost."""
    from muq_jax.data import toy_music

    wave = toy_music.make_clip(index, seconds=num_samples / SAMPLE_RATE_HZ).wave
    return np.round(wave * 32768).astype(np.int16)


def mel_golden() -> Arrays:
    """dB mels [F, S // hop] of a clip, of the shortest that upstream takes, an awkward one and silence."""
    import torch

    model = build(upstream_config()).model
    pcm = clip(0, 30_001)
    waves = {
        "clip": pcm,
        "shortest": pcm[12_000:13_025],
        "awkward": pcm[: 9_600 - 1],
        "silence": np.zeros(4_800, np.int16),
    }
    out: Arrays = {}
    for name, wave in waves.items():
        mel = model.preprocessing(torch.from_numpy(as_wave(wave))[None], features=["melspec_2048"])[
            "melspec_2048"
        ]
        out |= {f"{name}_pcm": wave, f"{name}_db": mel[0].numpy()}
    return out


def quantizer_inputs() -> tuple[np.ndarray, Any]:
    """Stacked normalised mels [2, T, 4F] of two clips, computed by the original, and their samples [2, S]."""
    import torch

    model = build(upstream_config()).model
    pcm = np.stack([clip(1, 38_400), clip(2, 38_400)])
    _, stacked = model.get_targets(torch.from_numpy(as_wave(pcm)))
    return pcm, stacked


def book_gaps(rvq: Any, x: Any) -> np.ndarray:
    """How much farther the second nearest code is than the nearest, in squared cosine distance, [B, Q, T].

    The residuals are the original's own; where a gap is of the size of rounding, another correct
    implementation may choose the other code.
    """
    import torch.nn.functional as F

    gaps, residual = [], x
    for book in rvq.quantizers:
        latents = F.normalize(book.in_proj(residual).transpose(1, 2), dim=-1)
        distance = 2 - 2 * latents @ F.normalize(book.codebook.weight).T
        nearest = distance.topk(2, dim=-1, largest=False).values
        gaps.append((nearest[..., 1] - nearest[..., 0]).numpy())
        residual = residual - book(residual)[0]
    return np.stack(gaps, axis=1)


def rvq_golden() -> Arrays:
    """What Mel-RVQs with 1, 2 and 3 projection layers give, and codes of the other two quantizers."""
    import torch
    from muq.muq.modules.random_quantizer import RandomProjectionQuantizer
    from muq.muq.modules.rvq import ResidualVectorQuantize, VectorQuantize

    pcm, stacked = quantizer_inputs()
    x = stacked.transpose(1, 2)
    out: Arrays = {"pcm": pcm}
    with torch.no_grad():
        for layers, books in ((1, 8), (2, 2), (3, 2)):
            rvq = ResidualVectorQuantize(512, books, 1024, 16, use_multi_layer_num=layers)
            shapes = load_random(rvq)
            quantized, codes, _, commitment, codebook, _ = rvq(x)
            out |= {
                f"layers{layers}_shapes": _json(shapes),
                f"layers{layers}_codes": codes.numpy().astype(np.int16),
                f"layers{layers}_gaps": book_gaps(rvq, x).astype(np.float16),
                f"layers{layers}_commitment": commitment.numpy(),
                f"layers{layers}_codebook": codebook.numpy(),
                f"layers{layers}_l1": (x - quantized).abs().mean().numpy(),
                f"layers{layers}_decoded": rvq.from_codes(codes)[0][0, :, :8].numpy(),
            }
        single = VectorQuantize(512, 1024, 8, stale_tolerance=1000)
        out["single_shapes"] = _json(load_random(single))
        out["single_codes"] = single(x)[3].numpy().astype(np.int16)
        projection = RandomProjectionQuantizer(512, 16, 1024)
        out["projection_shapes"] = _json(load_random(projection))
        out["projection_codes"] = projection(stacked).numpy().astype(np.int16)
    return out


def stale_golden() -> Arrays:
    """Six training steps of a small residual quantizer in which unused codes come of age and are replaced.

    The drawn permutation is injected: replaced code v becomes the normalised encoding of token `order[v %
    tokens]`.
    """
    import torch
    from muq.muq.modules.rvq import ResidualVectorQuantize

    _, stacked = quantizer_inputs()
    x = stacked.transpose(1, 2)
    rvq = ResidualVectorQuantize(512, 2, 48, 16, stale_tolerance=3)
    shapes = load_random(rvq)
    rvq.train()
    tokens = x.shape[0] * x.shape[2]
    order = np.random.RandomState(0).permutation(tokens)
    out: Arrays = {"shapes": _json(shapes), "order": order.astype(np.int32)}
    with (
        _patched(torch, "randperm", lambda n: torch.from_numpy(order)),
        torch.no_grad(),
        contextlib.redirect_stdout(None),
    ):
        for step in range(6):
            quantized, codes, _, commitment, codebook, _ = rvq(x)
            out |= {
                f"step{step}_codes": codes.numpy().astype(np.int16),
                f"step{step}_loss": rvq.get_loss(x, quantized, commitment, codebook).numpy(),
                f"step{step}_counters": np.stack([q.stale_counter.numpy() for q in rvq.quantizers]).astype(
                    np.int16
                ),
            }
            out[f"step{step}_books"] = np.stack(
                [q.codebook.weight.detach().numpy().copy() for q in rvq.quantizers]
            )
    return out


def features_golden(label_rate: int) -> Arrays:
    """Hidden states of a small MuQ for two clips, each alone and both zero-padded to one batch."""
    import torch

    config = upstream_config(label_rate=label_rate)
    model = build(config)
    pcm, shorter = clip(3, 31_000), clip(4, 17_777)
    padded = np.stack([pcm, np.pad(shorter, (0, len(pcm) - len(shorter)))])
    out: Arrays = {"config": _json(config), "shapes": _json(shapes_of(model)), "padded_pcm": padded}
    out["lengths"] = np.array([len(pcm), len(shorter)], np.int32)
    with torch.no_grad():
        mel = model.model.preprocessing(torch.from_numpy(as_wave(pcm))[None], ["melspec_2048"])
        out["first_mel"] = model.model.normalize(mel)["melspec_2048"].mT.numpy()  # [1, frames, F]
        for name, waves in (("first", padded[:1]), ("second", shorter[None]), ("padded", padded)):
            logits, hidden = model.model.get_predictions(torch.from_numpy(as_wave(waves)))
            out[f"{name}_hidden"] = np.stack([h.numpy() for h in hidden])  # [L+1, B, T, D]
            if name == "first":
                out["first_logits"] = logits["melspec_2048"][:, ::5].numpy()
    return out


def training_golden() -> Arrays:
    """Loss, accuracy, gradient norms and new BatchNorm statistics of one training step with an injected mask.

    Without dropout, whose draws no other implementation can repeat; with the mel-reconstruction term.
    """
    import torch

    config = upstream_config(dropout=0.0, recon_loss_ratio=0.5)
    model = build(config)
    model.train()
    pcm = np.stack([clip(5, 30_720), clip(6, 30_720)])
    masked_blocks = np.array([[True, False, True], [False, True, True]])
    noise = (0.1 * np.random.RandomState(7).standard_normal(pcm.shape)).astype(np.float16)
    masked = mask_blocks(as_wave(pcm), masked_blocks, noise)
    tokens = torch.from_numpy(np.repeat(masked_blocks, MASKED_TOKENS, axis=1)).nonzero()
    with _patched(model.model, "masking", lambda *_, **__: (torch.from_numpy(masked), tokens)):
        _, hidden, losses, accuracies = model.model(torch.from_numpy(as_wave(pcm)))
    loss = sum(losses.values())
    loss.backward()
    gradients = {k: p.grad.norm().item() for k, p in model.named_parameters() if p.grad is not None}
    statistics = {k: b for k, b in model.named_buffers() if "running_" in k}
    return {
        "config": _json(config),
        "shapes": _json(shapes_of(model)),
        "pcm": pcm,
        "noise": noise,
        "masked_blocks": masked_blocks,
        "cross_entropy": losses["melspec_2048"].detach().numpy(),
        "reconstruction": losses["recon_loss"].detach().numpy(),
        "accuracy": accuracies["melspec_2048"].numpy(),
        "last_hidden": hidden[-1].detach().numpy(),
        "gradient_norm": np.float32(np.sqrt(sum(norm**2 for norm in gradients.values()))),
        "gradient_names": _json(list(gradients)),
        "gradient_norms": np.array(list(gradients.values()), np.float32),
        "statistic_names": _json(list(statistics)),
        "statistics": np.concatenate([b.numpy().ravel() for b in statistics.values()]),
    }


def mulan_golden(audio_layers: int) -> Arrays:
    """A small MuQ-MuLan's vectors of texts, alone and padded to one batch, and of noise of 3, 7 and 12 s."""
    import torch

    config = upstream_mulan_config(audio_layers=audio_layers)
    model = build_mulan(config, upstream_config(), roberta_config())
    texts = ["0 5 6 7 2", "0 9 8 7 6 5 4 3 2", "0 2"]
    out: Arrays = {"shapes": _json(shapes_of(model)), "texts": _json(texts)}
    with torch.no_grad():
        out["text_padded"] = model(texts=texts).numpy()
        out["text_alone"] = np.concatenate([model(texts=[text]).numpy() for text in texts])
        for seconds in (3, 7, 12):
            wave = torch.from_numpy(noise_wave(seconds))[None]
            out[f"audio_{seconds}s"] = model(wavs=wave)[0].numpy()
    return out


def noise_wave(seconds: int) -> np.ndarray:
    """A wave [S] from a generator that numpy has frozen: goldens need not hold it."""
    noise = np.random.RandomState(seconds).standard_normal(seconds * SAMPLE_RATE_HZ)
    return (0.1 * noise).astype(np.float32)


def mask_blocks(wave: np.ndarray, masked_blocks: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The wave [B, S] with noise [B, S] in its masked blocks [B, S // 9600]; the tail is never masked."""
    inside = np.repeat(masked_blocks, MASKED_BLOCK, axis=1)
    inside = np.pad(inside, ((0, 0), (0, wave.shape[1] - inside.shape[1])))
    return np.where(inside, noise.astype(np.float32), wave)


def _json(value: Any) -> np.ndarray:
    return np.array(json.dumps(value))


@contextlib.contextmanager
def _patched(owner: Any, name: str, value: Any):
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


GOLDENS = {
    "mel": mel_golden,
    "rvq": rvq_golden,
    "rvq_stale": stale_golden,
    "muq_25hz": lambda: features_golden(25),
    "muq_50hz": lambda: features_golden(50),
    "muq_training": training_golden,
    "mulan": lambda: mulan_golden(0),
    "mulan_deep": lambda: mulan_golden(2),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which ones; all of {', '.join(GOLDENS)} by default"
    )
    parser.add_argument("--out", type=Path, default=GOLDEN)
    args = parser.parse_args()
    if unknown := set(args.names) - set(GOLDENS):
        parser.error(f"no golden is called {', '.join(sorted(unknown))}")
    import_original()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or GOLDENS:
        path = args.out / f"{name}.npz"
        arrays: dict[str, Any] = dict(GOLDENS[name]())
        np.savez_compressed(path, **arrays)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
