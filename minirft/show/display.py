"""Display of widgets: a notebook with a kernel shows the widget, GitHub and the site show a figure or text instead."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager

import ipywidgets
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from minirft.show.style import png, small_png


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
