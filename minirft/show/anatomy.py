"""Figures of the policy's parts: the order of the patches, the attention mask of a packed sequence, and the memory."""

from collections.abc import Mapping
from itertools import chain, product

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from minirft.engine import Spans
from minirft.show.plots import bars, heatmap
from minirft.show.style import QUIET, panels

LARGEST = 7  # parts of a bar with a colour of their own


def patch_places(rows: int, columns: int) -> list[tuple[int, int]]:
    """Return the (row, column) of each patch of a picture, in the order of `pixel_values`.

    The picture has rows x columns patches.  The 2 x 2 patches that become one token follow each other.

    >>> patch_places(2, 4)
    [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    """
    corners = product(range(0, rows, 2), range(0, columns, 2))
    return [(row + i, column + j) for row, column in corners for i, j in product(range(2), range(2))]


def patch_order(image: Image.Image, rows: int, columns: int) -> Figure:
    """Draw a picture with its patches, each with its number in `pixel_values`; a dark square becomes one token."""
    high, wide = image.height / rows, image.width / columns
    figure, (axes,) = panels(1, 1, 4.2, 4.2 * image.height / image.width)
    axes.imshow(np.asarray(image.convert("RGB")))
    axes.set_axis_off()
    places = patch_places(rows, columns)
    for number, (row, column) in enumerate(places):
        middle = ((column + 0.5) * wide - 0.5, (row + 0.5) * high - 0.5)
        axes.text(*middle, str(number), ha="center", va="center", fontsize=7, color="white")
    for squares, side, colour, width in ((places, 1, "white", 0.6), (places[::4], 2, "black", 1.8)):
        for row, column in squares:
            corner = (column * wide - 0.5, row * high - 0.5)
            axes.add_patch(Rectangle(corner, side * wide, side * high, fill=False, edgecolor=colour, linewidth=width))
    return figure


def visible(spans: Spans) -> Tensor:
    """Return the attention mask of the packed sequence of `spans`: (L, L) bool, True where row i attends to column j.

    >>> visible(Spans.of([2], [[1, 1]], like=torch.zeros(1))).int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    """
    sees = torch.zeros(len(spans.places), len(spans.places), dtype=torch.bool)
    for prompt in spans.prompts:
        real = prompt[prompt.diff(prepend=prompt[:1] - 1) > 0]  # padding points at position 0
        sees[real[:, None], real] = real[:, None] >= real
    owner = torch.arange(len(spans.counts)).repeat_interleave(torch.tensor(spans.counts))
    for p, places, bias in zip(owner, spans.completions, spans.bias[:, 0], strict=True):
        keys = torch.cat([spans.prompts[p], places])
        for t in places.nonzero()[:, 0]:
            sees[places[t], keys[bias[t] == 0]] = True
    return sees


def attention_pattern(spans: Spans, lengths: list[int], names: list[str]) -> Figure:
    """Draw the attention mask of a packed sequence, dark where the row attends to the column.

    `lengths` and `names` are those of the parts of the sequence, in order.
    """
    bounds = np.cumsum([0, *lengths]) - 0.5
    middles = (bounds[1:] + bounds[:-1]) / 2
    ticks = {"xticks": middles, "xticklabels": names, "yticks": middles, "yticklabels": names}
    figure = heatmap({"": visible(spans)}, low=0, high=1.3, size=(4.6, 4.6), xlabel="key", ylabel="query", **ticks)
    (axes,) = figure.axes
    axes.tick_params(axis="x", rotation=30)
    axes.hlines(bounds, -0.5, bounds[-1], color=QUIET, linewidth=0.7)
    axes.vlines(bounds, -0.5, bounds[-1], color=QUIET, linewidth=0.7)
    return figure


def memory_bars(phases: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the GiB of each phase of a step, {phase: {part: bytes}}, stacked by part; small parts are one grey rest."""
    sizes = list(phases.values())
    parts = {part: [phase.get(part, 0) / 2**30 for phase in sizes] for part in dict.fromkeys(chain(*sizes))}
    names = sorted(parts, key=lambda name: -max(parts[name]))
    rest = [sum(parts[name][i] for name in names[LARGEST:]) for i in range(len(sizes))]
    stacks = {name: parts[name] for name in names[:LARGEST]} | {"rest": rest}
    title = "counted memory of the phases of a step, GiB"
    return bars({title: stacks}, [*phases], stacked=True, colours={"rest": QUIET}, size=(8, 3.6))
