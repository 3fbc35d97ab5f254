"""What every playground shares: controls above, a picture of their state in the middle, the same in words below.

A playground's numbers come from the package's own functions; what is here only draws them again when a control
moves.  Figures keep their size, so that the page does not jump, and have no layout engine, so that a redraw is fast.
Where no kernel runs (GitHub, the site), the figure of the first state stands in for the widget.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ipywidgets
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minirft.show.display import live
from minirft.show.style import PAPER, QUIET, Drawing, plain_axes, png

WIDTH = 8.0  # inches; at DPI the 800 pixels that a notebook's column has
DPI = 100
TABLE = 'style="border-collapse:collapse;text-align:right;font-variant-numeric:tabular-nums"'
CELL = 'style="padding:1px 10px;border-bottom:1px solid #d5dae0"'


class Playground(ABC):
    """Controls, `image` (a PNG) and `readout` (HTML), drawn again whenever a watched control changes."""

    def __init__(self, controls: Sequence[ipywidgets.Widget]) -> None:
        self.image = ipywidgets.Image(format="png", layout={"width": f"{WIDTH * DPI:.0f}px", "max_width": "100%"})
        self.readout = ipywidgets.HTML()
        self.widget = ipywidgets.VBox([*controls, self.image, self.readout])
        self._held = False
        self.redraw()

    @abstractmethod
    def figure(self) -> Figure:
        """The present state, drawn."""

    @abstractmethod
    def words(self) -> str:
        """The present state in words and numbers, as HTML."""

    def watch(self, *controls: ipywidgets.Widget) -> None:
        """Draw again when the value of one of these changes."""
        for control in controls:
            control.observe(self.redraw, "value")

    def redraw(self, change: object = None) -> None:
        """Bring picture and words up to date.  `change` is what ipywidgets tells an observer; it is not needed."""
        if not self._held:
            self.image.value = png(self.figure(), DPI)
            self.readout.value = f'<div style="font-size:14px;line-height:1.6">{self.words()}</div>'

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Move several controls, then draw once."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.redraw()

    def _ipython_display_(self) -> None:
        live(self.widget, self.figure())


def canvas(
    height: float, widths: Sequence[float] = (1,), heights: Sequence[float] = (1,), **margins: float
) -> tuple[Figure, list[Axes]]:
    """A figure of fixed size with a grid of axes, row by row; `margins` are those of `Figure.subplots_adjust`.

    >>> figure, axes = canvas(3.0, widths=(2, 1))
    >>> figure.get_size_inches().tolist(), len(axes)
    ([8.0, 3.0], 2)
    """
    figure = Drawing(figsize=(WIDTH, height), facecolor=PAPER)
    where = {"left": 0.07, "right": 0.985, "top": 0.9, "bottom": 0.15, "wspace": 0.25, "hspace": 0.5} | margins
    grid = figure.add_gridspec(len(heights), len(widths), width_ratios=widths, height_ratios=heights, **where)
    return figure, [figure.add_subplot(cell) for cell in grid]


def plot_axes(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Quiet axes with a title at the left and the names of both axes."""
    plain_axes(axes, title)
    axes.set_xlabel(x, fontsize=9, color=QUIET)
    axes.set_ylabel(y, fontsize=9, color=QUIET)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A small HTML table; the cells are HTML already.

    >>> table(["k", "value"], [["k1", "0.5"]]).count("<td")
    2
    """
    lines = ["".join(f"<th {CELL}>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td {CELL}>{cell}</td>" for cell in row) for row in rows]
    return f"<table {TABLE}>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
