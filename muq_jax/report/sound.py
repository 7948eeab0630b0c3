"""Pictures of one clip: its mel, its tokens, and where it sounds like itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from muq_jax.report.style import Picture, canvas

Spans = Sequence[Sequence]
"""(start in seconds, end in seconds, name) of a clip's parts, such as chords."""


def mel_pair(
    mel: np.ndarray, decoded: np.ndarray, *, frame_rate_hz: float, band_hz: np.ndarray, num_books: int
) -> Picture:
    """A clip's log-mel above what the Mel-RVQ makes of its tokens, on one scale of colours.

    Args:
        mel, decoded: [N, F] in dB.
        band_hz: [F], each band's centre.
    """
    # The clip's own range, without the floor of digital silence, which would take most of the colours.
    top = float(mel.max())
    low = max(float(mel.min()), top - 90)
    seconds = len(mel) / frame_rate_hz
    num_bands = mel.shape[1]
    hz = [100, 300, 1000, 3000, 8000]
    with canvas(height=5.0, nrows=2, sharex=True, sharey=True) as c:
        titles = ("The clip's log-mel", f"The same, decoded from its tokens ({num_books} books)")
        for ax, picture, title in zip(c.axes, (mel, decoded), titles, strict=True):
            image = ax.imshow(
                picture.T,
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=low,
                vmax=top,
                extent=(0, seconds, -0.5, num_bands - 0.5),
                interpolation="nearest",
            )
            ax.set(title=title, ylabel="mel band (Hz)")
            ax.set_yticks(np.interp(hz, band_hz, np.arange(num_bands)), [f"{f:,}" for f in hz])
            ax.grid(visible=False)
        c.axes[-1].set_xlabel("time (s)")
        c.figure.colorbar(image, ax=list(c.axes), label="dB", pad=0.01, aspect=40)
        error = np.abs(mel - decoded).mean()
        return c.picture(
            f"Two log-mel spectrograms of the same {seconds:.0f} s, one above the other: the clip, and its "
            f"reconstruction from tokens. They differ by {error:.1f} dB on average."
        )


def token_map(
    codes: np.ndarray, codebooks: np.ndarray, *, label_rate: float, spans: Spans = (), spans_name: str = ""
) -> Picture:
    """The codes of every book over time; codes whose vectors are alike have colours that are alike.

    Args:
        codes: int [T, Q].
        codebooks: [Q, V, C].
        spans: parts of the clip, drawn and named above the map.
    """
    num_books, num_codes = codebooks.shape[:2]
    ranks = np.stack([_rank_by_likeness(book) for book in codebooks])  # [Q, V]
    shown = np.stack([ranks[book][codes[:, book]] for book in range(num_books)])  # [Q, T]
    seconds = len(codes) / label_rate
    with canvas(height=3.5) as c:
        ax = c.axes
        ax.imshow(
            shown,
            cmap="viridis",
            vmin=0,
            vmax=num_codes - 1,
            aspect="auto",
            interpolation="nearest",
            extent=(0, seconds, num_books + 0.5, 0.5),
        )
        _draw_spans(ax, spans, seconds, matrix=False)
        title = "Tokens: a cell is a code, like codes have like colours"
        ax.set_title(title + (f"; {spans_name} above" if spans else ""), pad=24 if spans else 10)
        ax.set(xlabel="time (s)", ylabel="codebook", yticks=np.arange(1, num_books + 1))
        ax.grid(visible=False)
        different = len(np.unique(codes[:, 0]))
        return c.picture(
            f"A map of {num_books} rows and {len(codes)} columns, one coloured cell a token, over "
            f"{seconds:.0f} s; book 1 uses {different} different codes here."
        )


def self_similarity(
    features: np.ndarray, *, frame_rate_hz: float, layer: int, spans: Spans = (), spans_name: str = ""
) -> Picture:
    """The cosine of every moment's features with every other's.

    Repeats are lines beside the diagonal, parts are squares.

    Args:
        features: [T, D]; averaged over a fifth of a second, then standardised over the clip.
        spans: parts of the clip, drawn and named along the top.
    """
    stride = max(1, round(frame_rate_hz / 5))
    num = len(features) // stride
    pooled = features[: num * stride].reshape(num, stride, -1).mean(axis=1)
    # Without this a few strong dimensions, which follow the loudness, would decide everything.
    pooled = (pooled - pooled.mean(axis=0)) / np.maximum(pooled.std(axis=0), 1e-9)
    pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-9)
    seconds = num * stride / frame_rate_hz
    with canvas(width=6.2, height=5.3) as c:
        ax = c.axes
        image = ax.imshow(
            pooled @ pooled.T,
            cmap="cividis",
            origin="lower",
            vmin=-0.6,
            vmax=1,
            extent=(0, seconds, 0, seconds),
            interpolation="nearest",
        )
        _draw_spans(ax, spans, seconds, matrix=True)
        title = f"Self-similarity of the features of layer {layer}"
        ax.set_title(title + (f"; {spans_name} marked" if spans else ""), pad=24 if spans else 10)
        ax.set(xlabel="time (s)", ylabel="time (s)")
        ax.grid(visible=False)
        c.figure.colorbar(image, ax=ax, label="cosine", pad=0.02, shrink=0.9)
        return c.picture(
            f"A square matrix, {seconds:.0f} s by {seconds:.0f} s: how alike layer {layer}'s features are "
            "at each pair of moments. Bright squares are parts that sound alike, bright lines beside the "
            "diagonal are repeats."
        )


def _rank_by_likeness(book: np.ndarray) -> np.ndarray:
    """Places [V] of a book's codes along the direction in which their unit vectors [V, C] differ most."""
    unit = book / np.maximum(np.linalg.norm(book, axis=1, keepdims=True), 1e-12)
    centred = unit - unit.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return np.argsort(np.argsort(centred @ directions[0], kind="stable"), kind="stable")


def _draw_spans(ax: Any, spans: Spans, seconds: float, *, matrix: bool) -> None:
    """Marks where the parts begin, and writes the names of those that have room above the axes."""
    for start, end, name in spans:
        end = min(end, seconds)
        if start >= seconds:
            continue
        if start > 0:
            ax.axvline(start, color="white", linewidth=0.7, alpha=0.7)
            if matrix:
                ax.axhline(start, color="white", linewidth=0.7, alpha=0.7)
        if end - start > (0.09 if matrix else 0.05) * seconds:
            ax.annotate(
                str(name).replace(":maj", "").replace(":min", "m"),
                ((start + end) / 2, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=9.5,
            )
