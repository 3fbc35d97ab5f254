"""The shared base of the widgets: controls at the top, a figure of the present state, and the state in words below.

The package's own functions compute the numbers; a widget only draws them again when a control moves.  A figure keeps
its size and the places of its axes, so the page does not jump, and a redraw needs no new layout.  Pages without a
kernel (GitHub, the site) show the figure of the first state.
"""

import base64
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from minirft.show.style import PAPER, Drawing, png, small_png

WIDTH = 8.0  # inches; at DPI the 800 pixels that a notebook's column has
DPI = 100
TABLE = 'style="border-collapse:collapse;text-align:right;font-variant-numeric:tabular-nums"'
CELL = 'style="padding:1px 10px;border-bottom:1px solid #d5dae0"'


class Playground(ABC):
    """Rows of controls, `image` (a PNG) and `readout` (HTML), drawn again whenever a `watched` control changes."""

    def __init__(self, rows: Iterable[Sequence[ipywidgets.Widget]], watched: Sequence[ipywidgets.Widget] = ()) -> None:
        self.image = ipywidgets.Image(format="png", layout={"width": f"{WIDTH * DPI:.0f}px", "max_width": "100%"})
        self.readout = ipywidgets.HTML()
        self.widget = ipywidgets.VBox([*map(ipywidgets.HBox, rows), self.image, self.readout])
        self._held = False
        self._places: list = []
        self.watch(*watched)
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
        if self._held:
            return
        figure = self.figure()
        if len(figure.axes) == len(self._places):
            figure.set_layout_engine("none")
            for axes, place in zip(figure.axes, self._places, strict=True):
                axes.set_position(place)
        self.image.value = png(figure, DPI)
        self._places = [axes.get_position(original=True) for axes in figure.axes]
        self.readout.value = f'<div style="font-size:14px;line-height:1.6">{self.words()}</div>'

    def at_once(self, change: Callable[[], object]) -> None:
        """Call a function that moves several controls, and draw once at its end."""
        self._held = True
        try:
            change()
        finally:
            self._held = False
        self.redraw()

    def move(self, sliders: Sequence[ipywidgets.FloatSlider], values: Iterable[float]) -> None:
        """Set several sliders at once, rounded to hundredths, their step."""
        new = [round(float(value), 2) for value in values]
        self.at_once(lambda: [setattr(slider, "value", x) for slider, x in zip(sliders, new, strict=True)])

    def _ipython_display_(self) -> None:
        live(self.widget, self.figure())


def slider(
    words: str, value: Any, low: float, high: float, step: float = 0.01, wide: int = 380, named: int = 130,
    kind: type[ipywidgets.Widget] = ipywidgets.FloatSlider, **options: Any,
) -> Any:  # fmt: skip
    """Make a horizontal slider of `wide` pixels, of which its `words` have `named`."""
    look = {"style": {"description_width": f"{named}px"}, "layout": {"width": f"{wide}px"}}
    return kind(value=value, min=low, max=high, step=step, description=words, **look, **options)


def upright(words: str, value: float, low: float, high: float) -> ipywidgets.FloatSlider:
    """Make a vertical slider."""
    look = {"orientation": "vertical", "layout": {"width": "72px", "height": "150px"}}
    return ipywidgets.FloatSlider(value, min=low, max=high, step=0.01, description=words, **look)


def buttons(actions: Mapping[str, Callable[[], object]]) -> list[ipywidgets.Button]:
    """Make a button for each action, {the words on it: what a click calls}.

    >>> clicked = []
    >>> buttons({"all equal": lambda: clicked.append(1)})[0].click()
    >>> clicked
    [1]
    """
    made = [ipywidgets.Button(description=words, layout={"width": "auto"}) for words in actions]
    for button, action in zip(made, actions.values(), strict=True):
        button.on_click(lambda _, action=action: action())
    return made


def canvas(height: float, widths: Sequence[float] = (1,), heights: Sequence[float] = (1,)) -> tuple[Figure, list]:
    """Make a figure of a widget's width with a grid of parts, row by row, for the argument `on` of a plot.

    >>> figure, parts = canvas(3.0, widths=(2, 1))
    >>> figure.get_size_inches().tolist(), len(parts)
    ([8.0, 3.0], 2)
    """
    figure = Drawing(figsize=(WIDTH, height), layout="constrained", facecolor=PAPER)
    ratios = {"width_ratios": widths, "height_ratios": heights, "squeeze": False}
    return figure, [*figure.subfigures(len(heights), len(widths), **ratios).flat]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a small HTML table; the cells must already be HTML.

    >>> table(["k", "value"], [["k1", "0.5"]]).count("<td")
    2
    """
    lines = ["".join(f"<th {CELL}>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td {CELL}>{cell}</td>" for cell in row) for row in rows]
    return f"<table {TABLE}>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def live(widget: ipywidgets.Widget, static: Figure | str, small: bool = False) -> None:
    """Display `widget`, with `static` (a figure or HTML) for pages that cannot show widgets.

    Both are one output, and a frontend chooses the richest form that it supports.  `small` stores the figure as a
    `small_png`, for figures with photographs.
    """
    bundle = dict(widget._repr_mimebundle_())
    if isinstance(static, Figure):
        bundle["image/png"] = base64.b64encode(small_png(static) if small else png(static)).decode()
        bundle["text/plain"] = "a figure; run the notebook to move it"
    else:
        bundle["text/html"] = static
    display(bundle, raw=True)


@contextmanager
def answering() -> Iterator[None]:
    """Send the status "idle" to the page after each message of a widget, while a cell awaits.

    A page sends one change of a slider and keeps back the next ones until the kernel is idle again.  While a cell runs,
    ipykernel 7 handles the message but sends no status, so all later changes of that slider would be lost.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        yield
        return
    handle = kernel.shell_handlers["comm_msg"]

    def handle_and_report(*message: object) -> object:
        result = handle(*message)
        for state in ("idle", "busy"):  # idle for the message, busy again for the cell
            kernel.send_response(kernel.iopub_socket, "status", {"execution_state": state})
        return result

    kernel.shell_handlers["comm_msg"] = handle_and_report
    try:
        yield
    finally:
        kernel.shell_handlers["comm_msg"] = handle
