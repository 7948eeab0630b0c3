"""Plots of a run's metrics: losses beside what chance reaches, books beside each other."""

from collections.abc import Mapping, Sequence

import numpy as np

from muq_jax.report.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Picture,
    book_colors,
    canvas,
    label_line_ends,
)

Curve = tuple[np.ndarray, np.ndarray]
"""Steps and values."""


def loss_curves(
    title: str, train: Curve, valid: Curve | None, levels: Mapping[str, float], unit: str
) -> Picture:
    """The loss over the steps beside levels that mean something, such as chance.

    Args:
        levels: horizontal lines by name.
    """
    with canvas(height=3.5) as c:
        ax = c.axes
        ax.plot(*train, color=BLUE, label="training")
        if valid and len(valid[0]):
            ax.plot(*valid, color=ORANGE, marker="o", markersize=5, label="validation")
        for style, (name, level) in zip(("--", ":", "-."), levels.items(), strict=False):
            ax.axhline(level, color=GREY, linestyle=style, linewidth=1.4, label=f"{name} ({level:.2f})")
        ax.set(title=title, xlabel="step", ylabel=unit)
        ax.locator_params(axis="x", integer=True)
        ax.margins(x=0.02)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        last = f"it ends at {train[1][-1]:.3f} in training"
        last += f" and {valid[1][-1]:.3f} in validation" if valid and len(valid[1]) else ""
        known = "; ".join(f"{name} is {level:.3f}" for name, level in levels.items())
        return c.picture(f"{title}: {last}; {known}.")


def book_curves(
    title: str, steps: np.ndarray, values: np.ndarray, unit: str, *, percent: bool = False
) -> Picture:
    """One curve a codebook, [rows, Q] over the steps, named at its end."""
    values = values * (100 if percent else 1)
    with canvas(height=3.5) as c:
        ax = c.axes
        colors = book_colors(values.shape[1])
        for book, color in enumerate(colors):
            ax.plot(steps, values[:, book], color=color)
        ax.set(title=title, xlabel="step", ylabel=unit)
        ax.locator_params(axis="x", integer=True)
        ax.margins(x=0.02)
        if not percent:
            ax.set_ylim(*np.add(ax.get_ylim(), (-0.02, 0.02)))
        ends = [(v, f" book {b + 1}", colors[b]) for b, v in enumerate(values[-1])]
        label_line_ends(ax, steps, ends)
        last = ", ".join(f"{value:.3g}" for value in values[-1])
        return c.picture(f"{title}, for books 1 to {values.shape[1]} at the end: {last} {unit}.")


def prediction_by_book(
    cross_entropy: Sequence[float], frequencies: Sequence[float], chance: float, where: str = "validation"
) -> Picture:
    """How far below the code frequencies, and below chance, each book is predicted, in nats."""
    books = np.arange(1, len(cross_entropy) + 1)
    with canvas(height=3.3) as c:
        ax = c.axes
        ax.axhline(chance, color=GREY, linestyle="--", linewidth=1.4, label=f"chance ({chance:.2f})")
        ax.plot(
            books,
            frequencies,
            color=ORANGE,
            marker="D",
            linestyle="",
            markersize=7,
            label="code frequencies only",
        )
        ax.plot(books, cross_entropy, color=BLUE, marker="o", linestyle="", markersize=8, label="the model")
        better = np.asarray(cross_entropy) < np.asarray(frequencies)
        ax.vlines(
            books[better],
            np.asarray(cross_entropy)[better],
            np.asarray(frequencies)[better],
            color=BLUE,
            lw=2,
        )
        ax.vlines(
            books[~better],
            np.asarray(frequencies)[~better],
            np.asarray(cross_entropy)[~better],
            color=ORANGE,
            lw=2,
        )
        ax.set(
            title=f"Masked tokens, book by book ({where})",
            xlabel="codebook",
            ylabel="cross-entropy (nats)",
            xticks=books,
        )
        ax.margins(x=0.06, y=0.12)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        count = int(better.sum())
        return c.picture(
            "Cross-entropy of each book: the model is below what the code frequencies alone reach for "
            f"{count} of {len(books)} books."
        )


def codebook_usage(used: Sequence[float], perplexity: Sequence[float], num_codes: int) -> Picture:
    """How many codes of each book occur, and how many equally frequent ones they are worth."""
    books = np.arange(1, len(used) + 1)
    with canvas(height=3.2) as c:
        ax = c.axes
        ax.bar(books - 0.2, used, 0.38, color=BLUE, label="codes that occur")
        ax.bar(books + 0.2, perplexity, 0.38, color=GREEN, label="perplexity of the codes")
        ax.axhline(
            num_codes, color=GREY, linestyle="--", linewidth=1.4, label=f"codes in a book ({num_codes})"
        )
        ax.grid(visible=False, axis="x")
        ax.set(title="How much of each codebook is used", xlabel="codebook", ylabel="codes", xticks=books)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return c.picture(
            f"Bars for each of {len(books)} codebooks: between {min(used):.0f} and {max(used):.0f} of "
            f"{num_codes} codes occur; perplexity {min(perplexity):.0f} to {max(perplexity):.0f}."
        )


def reconstruction_errors(errors: Sequence[float], plain_mean: float | None) -> Picture:
    """What is left of the mel after each book."""
    books = np.arange(1, len(errors) + 1)
    with canvas(height=3.1) as c:
        ax = c.axes
        ax.bar(books, errors, 0.6, color=BLUE)
        for book, error in zip(books, errors, strict=True):
            ax.annotate(
                f"{error:.2f}",
                (book, error),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        if plain_mean is not None:
            label = f"always the mean ({plain_mean:.2f})"
            ax.axhline(plain_mean, color=GREY, linestyle="--", linewidth=1.4, label=label)
            ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        ax.grid(visible=False, axis="x")
        ax.margins(y=0.14)
        ax.set(
            title="Reconstruction error after each book",
            xlabel="books used",
            ylabel="mean |error|\n(normalised mel)",
            xticks=books,
        )
        values = ", ".join(f"{error:.3f}" for error in errors)
        return c.picture(
            f"Mean absolute error of the normalised mel after 1 to {len(books)} books: {values}."
        )


def optimisation(steps: np.ndarray, grad_norm: np.ndarray, rate: np.ndarray, speed: np.ndarray) -> Picture:
    """Gradient norm, learning rate and speed over the steps."""
    panels = (
        ("Gradient norm", grad_norm, PURPLE),
        ("Learning rate / 10⁻⁴", rate * 1e4, GREEN),
        ("Speed (s of audio / s)", speed, BLUE),
    )
    with canvas(height=2.5, ncols=3) as c:
        for ax, (title, values, color) in zip(c.axes, panels, strict=True):
            ax.plot(steps, values, color=color)
            ax.set(title=title, xlabel="step", ylim=(0, 1.1 * max(np.max(values), 1e-9)))
            ax.locator_params(axis="x", nbins=4, integer=True)
        return c.picture(
            f"Three small plots over the steps: gradient norm, last {grad_norm[-1]:.2f}; learning rate, last "
            f"{rate[-1]:.1e}; speed, last {speed[-1]:.0f} seconds of audio a second."
        )
