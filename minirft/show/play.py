"""The shared base of the playgrounds: controls at the top, a figure of the present state, and the state in words below.

The package's own functions compute the numbers; a playground only draws them again when a control moves.  Figures keep
their size, so the page does not jump, and have no layout engine, so a redraw is fast.  Pages without a kernel (GitHub,
the site) show the figure of the first state.
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
        """Draw the present state."""

    @abstractmethod
    def words(self) -> str:
        """Describe the present state in words and numbers, as HTML."""

    def watch(self, *controls: ipywidgets.Widget) -> None:
        """Redraw when the value of one of these controls changes."""
        for control in controls:
            control.observe(self.redraw, "value")

    def redraw(self, change: object = None) -> None:
        """Update figure and words.  ipywidgets passes `change` to an observer; it is not used here."""
        if not self._held:
            self.image.value = png(self.figure(), DPI)
            self.readout.value = f'<div style="font-size:14px;line-height:1.6">{self.words()}</div>'

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Move several controls inside this context, and draw once at its end."""
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
    """Make a figure of fixed size with a grid of axes, row by row; `margins` are those of `Figure.subplots_adjust`.

    >>> figure, axes = canvas(3.0, widths=(2, 1))
    >>> figure.get_size_inches().tolist(), len(axes)
    ([8.0, 3.0], 2)
    """
    figure = Drawing(figsize=(WIDTH, height), facecolor=PAPER)
    where = {"left": 0.07, "right": 0.985, "top": 0.9, "bottom": 0.15, "wspace": 0.25, "hspace": 0.5} | margins
    grid = figure.add_gridspec(len(heights), len(widths), width_ratios=widths, height_ratios=heights, **where)
    return figure, [figure.add_subplot(cell) for cell in grid]


def plot_axes(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    """Style axes with a title at the left and the labels of both axes."""
    plain_axes(axes, title)
    axes.set_xlabel(x, fontsize=9, color=QUIET)
    axes.set_ylabel(y, fontsize=9, color=QUIET)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a small HTML table; the cells must already be HTML.

    >>> table(["k", "value"], [["k1", "0.5"]]).count("<td")
    2
    """
    lines = ["".join(f"<th {CELL}>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td {CELL}>{cell}</td>" for cell in row) for row in rows]
    return f"<table {TABLE}>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
