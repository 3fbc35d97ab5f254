"""Figures that stay in a notebook's file: with a palette of 256 colours, a third of the bytes.

The noise of a photograph costs most of the bytes of a PNG.  The palette covers the rarest colours first, so lines and
labels keep theirs.
"""

from __future__ import annotations

import base64
import io

import ipywidgets
from IPython.display import Image as Picture
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from minirft.show.play import DPI
from minirft.show.style import png

COLOURS = 256


def small_png(figure: Figure) -> bytes:
    """The figure as a PNG file of 256 colours.

    >>> small_png(Figure())[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png(figure, DPI))) as full:
        reduced = full.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    reduced.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def small_picture(figure: Figure) -> Picture:
    """A figure with photographs in it, as the last value of a cell."""
    return Picture(small_png(figure))


def live_small(widget: ipywidgets.Widget, static: Figure) -> None:
    """`minirft.show.display.live` for a figure with photographs in it."""
    bundle = dict(widget._repr_mimebundle_()) | {
        "image/png": base64.b64encode(small_png(static)).decode(),
        "text/plain": "a figure; run the notebook to move it",
    }
    display(bundle, raw=True)
