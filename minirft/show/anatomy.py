"""Figures of the policy's parts: the order of the patches, the attention mask of a packed sequence, and the memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from minirft.engine import Spans
from minirft.show.plots import bars
from minirft.show.style import BLUE, GREEN, ORANGE, PINK, QUIET, SKY, VERMILION, panels

YELLOW = "#f0e442"  # the eighth colour of Okabe & Ito, only for the parts of a bar
PARTS = (BLUE, SKY, GREEN, ORANGE, PINK, VERMILION, YELLOW)  # one colour for each part; the rest is grey


def patch_places(rows: int, columns: int, merge: int = 2) -> list[tuple[int, int]]:
    """Return the (row, column) of each patch of a picture, in the order of `pixel_values`.

    The picture has rows x columns patches.  The merge x merge patches that become one token follow each other.

    >>> patch_places(2, 4)
    [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    """
    return [
        (row + i, column + j)
        for row in range(0, rows, merge)
        for column in range(0, columns, merge)
        for i in range(merge)
        for j in range(merge)
    ]


def patch_order(image: Image.Image, rows: int, columns: int, merge: int = 2) -> Figure:
    """Draw a picture with its patches, each with its number in `pixel_values`; a dark square becomes one token."""
    high, wide = image.height / rows, image.width / columns
    figure, (axes,) = panels(1, 1, 4.2, 4.2 * image.height / image.width)
    axes.imshow(np.asarray(image.convert("RGB")))
    axes.set_axis_off()

    def square(row: int, column: int, side: int, colour: str, width: float) -> None:
        corner = (column * wide - 0.5, row * high - 0.5)
        axes.add_patch(Rectangle(corner, side * wide, side * high, fill=False, edgecolor=colour, linewidth=width))

    places = patch_places(rows, columns, merge)
    for number, (row, column) in enumerate(places):
        square(row, column, 1, "white", 0.6)
        middle = ((column + 0.5) * wide - 0.5, (row + 0.5) * high - 0.5)
        axes.text(*middle, str(number), ha="center", va="center", fontsize=7, color="white")
    for row, column in places[:: merge**2]:
        square(row, column, merge, "black", 1.8)
    return figure


def visible(spans: Spans) -> Tensor:
    """Return the attention mask of the packed sequence of `spans`: (L, L) bool, True where row i attends to column j.

    >>> visible(Spans.of([2], [[1, 1]], like=torch.zeros(1))).int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    """
    sees = torch.zeros(len(spans.places), len(spans.places), dtype=torch.bool)
    for prompt in spans.prompts:
        real = prompt[prompt.diff(prepend=prompt[:1] - 1) > 0]  # padding points at position 0
        for t, place in enumerate(real):
            sees[place, real[: t + 1]] = True
    owner = torch.arange(len(spans.counts)).repeat_interleave(torch.tensor(spans.counts))
    for p, places, bias in zip(owner, spans.completions, spans.bias[:, 0], strict=True):
        keys = torch.cat([spans.prompts[p], places])
        for t in places.nonzero()[:, 0]:
            sees[places[t], keys[bias[t] == 0]] = True
    return sees


def attention_pattern(spans: Spans, lengths: list[int], names: list[str]) -> Figure:
    """Draw the attention mask of a packed sequence, dark where the row attends to the column.

    `lengths` and `names` are those of the parts of the sequence, in order.

    Raises `ValueError` when the lengths do not add up to the sequence.
    """
    if sum(lengths) != len(spans.places) or len(lengths) != len(names):
        raise ValueError(f"parts of {lengths} named {names} do not make up a sequence of {len(spans.places)}")
    figure, (axes,) = panels(1, 1, 4.6, 4.6)
    axes.imshow(visible(spans).int().numpy(), cmap="Blues", vmax=1.3)
    bounds = np.cumsum([0, *lengths]) - 0.5
    middles = (bounds[1:] + bounds[:-1]) / 2
    axes.set_xticks(middles, names, fontsize=8, rotation=30)
    axes.set_yticks(middles, names, fontsize=8)
    axes.hlines(bounds, -0.5, bounds[-1], color=QUIET, linewidth=0.7)
    axes.vlines(bounds, -0.5, bounds[-1], color=QUIET, linewidth=0.7)
    axes.set(xlabel="key", ylabel="query")
    return figure


def memory_bars(phases: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the GiB of each phase of a step, {phase: {part: bytes}}, stacked by part; small parts are one grey rest."""
    largest: dict[str, float] = {}
    for phase in phases.values():
        for part, size in phase.items():
            largest[part] = max(size, largest.get(part, 0.0))
    names = sorted(largest, key=lambda part: -largest[part])
    parts = {name: [name] for name in names[: len(PARTS)]} | {"rest": names[len(PARTS) :]}
    stacks = {
        name: [sum(phase.get(part, 0) for part in of) / 2**30 for phase in phases.values()]
        for name, of in parts.items()
    }
    colours = dict(zip(stacks, PARTS, strict=False)) | {"rest": QUIET}
    title = "counted memory of the phases of a step, GiB"
    return bars({title: stacks}, [*phases], stacked=True, colours=colours, size=(8, 3.6))
