"""How the report's plots look, and how a plot becomes a picture in the page."""

import base64
import dataclasses
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers; the first two are what a plot is about.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A7A7A"
INK = "#222222"

# Letters that one lacks are taken from the next: texts are in any language. Of those that are installed.
_INSTALLED = {font.name for font in font_manager.fontManager.ttflist}
_OTHERS = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC")
_FONTS = ["DejaVu Sans", *(name for name in _OTHERS if name in _INSTALLED)]

_STYLE: Any = {
    "font.family": _FONTS,
    "text.parse_math": False,  # captions and labels are anybody's texts
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E7E7E7",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
}
_LACKING = "Boxes are letters that no font of the machine has that drew this; the tables show them."
_WIDTH = 7.6  # inches of a picture as wide as the page
_DPI = 170  # 7.6 inches are shown at about 820 CSS pixels: sharp on dense screens too


@dataclasses.dataclass(frozen=True)
class Picture:
    """A drawn plot.

    Attributes:
        png: the file's bytes.
        alt: what it shows, for those who do not see it.
        caption: printed below it.
        width: of the page's, 0 to 1.
    """

    png: bytes
    alt: str
    caption: str = ""
    width: float = 1.0

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


class Canvas:
    """A figure being drawn, with its axes; `picture` ends it."""

    def __init__(self, figure: Figure, axes: Any) -> None:
        self.figure, self.axes = figure, axes

    def picture(self, alt: str, caption: str = "") -> Picture:
        """Returns the figure as a PNG with these texts."""
        buffer = io.BytesIO()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.figure.savefig(buffer, format="png", dpi=_DPI)
        lacking = [w for w in caught if "missing from font" in str(w.message)]
        for warning in caught:
            if warning not in lacking:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        if lacking:  # said once, and not of every letter
            caption = f"{caption} {_LACKING}".strip()
        return Picture(buffer.getvalue(), alt, caption, self.figure.get_figwidth() / _WIDTH)


@contextmanager
def canvas(width: float = _WIDTH, height: float = 3.3, **subplots: Any) -> Iterator[Canvas]:
    """Gives a figure of this size in inches in the report's style; no global state of pyplot is touched."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        yield Canvas(figure, figure.subplots(**subplots))


def book_colors(num_books: int) -> np.ndarray:
    """Returns [Q, 4] RGBA: the books are ordered, so their colours run from dark to light."""
    return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, num_books))


def label_line_ends(axes: Any, xs: np.ndarray, ends: list[tuple[float, str, Any]]) -> None:
    """Writes each curve's name to the right of its last value, pushed apart where they would overlap.

    Args:
        ends: last value, name and colour of each curve.
    """
    low, high = axes.get_ylim()
    gap = 0.062 * (high - low)
    placed = -np.inf
    for value, name, color in sorted(ends, key=lambda end: end[0]):
        placed = max(value, placed + gap)
        axes.annotate(
            name,
            (xs[-1], value),
            xytext=(axes.get_xlim()[1], placed),
            textcoords="data",
            color=color,
            va="center",
            fontsize=9.5,
            annotation_clip=False,
        )
