"""The style of all figures: colours that colour-blind readers can distinguish, plain axes, no global state.

Figures are matplotlib `Figure` objects and never pyplot's, so they share no state and need no display.  A notebook
displays a figure that is the last value of a cell.
"""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from PIL import Image

# Okabe & Ito, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"
RUNS = (BLUE, ORANGE, GREEN, PINK, SKY)  # one colour per run, in order
INK, QUIET, GRID, PAPER = "#1f2933", "#66727f", "#e4e8ec", "#ffffff"

COLOURS, SMALL_DPI = 256, 100  # of a figure that is stored in a notebook


class Drawing(Figure):
    """A figure that a notebook displays when it is the last value of a cell."""

    def _repr_png_(self) -> bytes:
        return small_png(self)


Part = SubFigure | None  # a part of another figure, which a plot fills instead of a new figure


def panels(count: int, columns: int, width: float, height: float, on: Part = None) -> tuple[Any, list[Axes]]:
    """Make a figure of `count` equal panels, `columns` side by side, each `width` x `height` inches.

    If `on`, a part of another figure, is given, the panels fill it.

    >>> figure, axes = panels(3, 2, width=2, height=1)
    >>> figure.get_size_inches().tolist(), len(axes)
    ([4.0, 2.0], 3)
    """
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figure = on or Drawing(figsize=(columns * width, rows * height), layout="constrained", facecolor=PAPER)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def plain_axes(axes: Axes, title: str) -> None:
    """Style axes: a title at the left, two spines, a faint grid."""
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=8)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def legend_below(figure: Figure | SubFigure, handles: Sequence[Any]) -> None:
    """Add one legend for all panels below them: in one row if that fits, else in rows of about the same length."""
    width, lengths = figure.bbox.width / figure.dpi, [len(str(handle.get_label())) for handle in handles]
    columns = int(np.clip(11 * width / (max(lengths, default=0) + 6), 1, 4))
    rows = 1 if sum(0.07 * length + 0.6 for length in lengths) < width else -(-len(handles) // columns)
    columns = max(1, -(-len(handles) // rows))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as a PNG file.  `Figure.savefig` draws twice; a widget cannot wait for that.

    >>> png(Figure())[1:4]
    b'PNG'
    """
    buffer, canvas, before = io.BytesIO(), FigureCanvasAgg(figure), figure.dpi
    figure.set_dpi(dpi)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a category may have any name
        canvas.print_png(buffer)
    figure.set_dpi(before)
    return buffer.getvalue()


def small_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file of 256 colours, a third of the bytes, for storage in a notebook.

    The noise of a photograph takes most of the bytes of a PNG.  The palette covers the rarest colours first, so lines
    and labels keep their colours.

    >>> small_png(Figure())[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png(figure, SMALL_DPI))) as full:
        reduced = full.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    reduced.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def signed(number: float, digits: int = 2) -> str:
    """Format a number with its sign, a true minus, and no minus before zero.

    >>> signed(-0.5), signed(-0.0001), signed(1)
    ('−0.50', '0.00', '+1.00')
    """
    text = f"{number:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")
