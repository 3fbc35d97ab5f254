"""A figure of samples in a grid, to check before a run that boxes and questions belong to their pictures."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minirft.rewards import true_boxes
from minirft.samples import Sample
from minirft.show.pictures import draw_boxes
from minirft.show.style import INK, panels

COLUMNS, WIDTH = 4, 46  # panels side by side, characters of a line below one


def drawing(samples: list[Sample]) -> Figure:
    """Draw samples in a grid: picture, true boxes, question, solution, and size in pixels."""
    figure, grid = panels(len(samples), COLUMNS, 3.2, 4.0)
    for axes, sample in zip(grid, samples, strict=True):
        _draw(axes, sample)
    return figure


def _draw(axes: Axes, sample: Sample) -> None:
    picture = sample.picture()
    draw_boxes(picture, true=true_boxes(sample), axes=axes)
    title = f"{_short(sample.category, 30)}   {picture.width} x {picture.height}"
    axes.set_title(title, fontsize=9, color=INK, fontweight="bold", loc="left", parse_math=False)
    axes.set_anchor("NW")
    question, solution = (textwrap.wrap(_short(text, 3 * WIDTH), WIDTH) for text in (sample.problem, sample.solution))
    axes.set_xlabel("\n".join([*question, *solution]), fontsize=7, color=INK, loc="left", parse_math=False)


def _short(text: str, limit: int) -> str:
    """Shorten a text to one line, cut between words if possible.

    >>> _short("dog", 30), _short("a long question", 10), _short("honorificabilitudinitatibus", 8)
    ('dog', 'a long …', 'honorif…')
    """
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    cut = textwrap.shorten(text, limit, placeholder=" …")
    return cut if len(cut) > limit / 2 else text[: limit - 1] + "…"
