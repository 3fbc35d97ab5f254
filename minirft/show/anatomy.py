"""The policy opened up, in figures: the order of its patches, who sees whom in a packed sequence, where memory goes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from minirft.engine import Spans
from minirft.show.style import BLUE, GREEN, ORANGE, PINK, QUIET, SKY, VERMILION, legend_below, panels, plain_axes

YELLOW = "#f0e442"  # the eighth colour of Okabe & Ito, for parts of a bar only
PARTS = (BLUE, SKY, GREEN, ORANGE, PINK, VERMILION, YELLOW)  # one colour a part; what is left over is grey


def patch_places(rows: int, columns: int, merge: int = 2) -> list[tuple[int, int]]:
    """Where each patch of a picture of rows x columns patches lies, (row, column), in the order of `pixel_values`.

    The merge x merge patches that become one token follow each other.

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
    """A picture cut into its patches, each with its number in `pixel_values`; dark squares become one token."""
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
    """Who sees whom in the packed sequence that `spans` lays out: (L, L) bool, row i sees column j.

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
    """The packed sequence as a matrix, dark where the row sees the column; `names` and `lengths` of its parts in order.

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
    axes.set(xlabel="is seen", ylabel="sees")
    return figure


def memory_bars(phases: Mapping[str, Mapping[str, float]]) -> Figure:
    """GiB of every phase of a step, {phase: {part: bytes}}, stacked by part.

    The parts that are never large are one grey rest.
    """
    sizes: dict[str, float] = {}
    for phase in phases.values():
        for part, size in phase.items():
            sizes[part] = max(size, sizes.get(part, 0.0))
    largest = sorted(sizes, key=lambda part: -sizes[part])[: len(PARTS)]
    drawn = {part: [part] for part in largest} | {"rest": [part for part in sizes if part not in largest]}
    figure, (axes,) = panels(1, 1, 8, 3.6)
    plain_axes(axes, "counted memory of the phases of a step, GiB")
    bottom = np.zeros(len(phases))
    for colour, (name, parts) in zip((*PARTS, QUIET), drawn.items(), strict=False):
        size = np.array([sum(phase.get(part, 0) for part in parts) / 2**30 for phase in phases.values()])
        axes.bar(list(phases), size, bottom=bottom, color=colour, label=name)
        bottom += size
    legend_below(figure, axes.containers)
    return figure
