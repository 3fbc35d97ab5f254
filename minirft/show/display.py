"""A widget where a kernel answers, a picture or text of it where none does (GitHub, the site, nbval)."""

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
    """Display `widget`; whoever cannot show widgets shows `static`, a figure or a piece of HTML.

    Both are one output: a frontend takes the richest form it knows.  `small` is for a figure with photographs in it
    (`small_png`).
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
    """For a cell that awaits: tell the page, after every message of a widget, that the kernel has heard it.

    A page sends one change of a slider, and holds the next ones back until the kernel is idle again.  While a cell
    runs, ipykernel 7 hears the message but does not say so, and all later changes of that slider would be lost.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        yield
        return
    hear = kernel.shell_handlers["comm_msg"]

    def hear_and_say(*message: object) -> object:
        heard = hear(*message)
        for state in ("idle", "busy"):  # idle for the message, busy again for the cell
            kernel.send_response(kernel.iopub_socket, "status", {"execution_state": state})
        return heard

    kernel.shell_handlers["comm_msg"] = hear_and_say
    try:
        yield
    finally:
        kernel.shell_handlers["comm_msg"] = hear
