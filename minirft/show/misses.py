"""The worst misses: held-out pictures whose answers earned least, with the truth and what was said instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from minirft.samples import Sample
from minirft.show.pictures import LEGEND, draw_answer
from minirft.show.style import INK, legend_below, panels


@dataclass(frozen=True)
class Miss:
    """One held-out answer and what it earned."""

    sample: Sample
    text: str
    score: float


def worst(
    samples: Sequence[Sample], texts: Sequence[str], score: Callable[[str, str], float], count: int = 8
) -> list[Miss]:
    """The `count` answers that earned least, the lowest first; of equal ones those that were asked first.

    >>> from pathlib import Path
    >>> asked = [Sample(name, Path(name), "presence", "?", "<answer>yes</answer>") for name in "abc"]
    >>> [miss.sample.id for miss in worst(asked, ["", "yes", ""], lambda text, solution: len(text), 2)]
    ['a', 'c']
    """
    earned = [score(text, sample.solution) for sample, text in zip(samples, texts, strict=True)]
    places = np.argsort(earned, kind="stable")[:count]
    return [Miss(samples[i], texts[i], earned[i]) for i in places]


def misses(found: Sequence[Miss], columns: int = 4) -> Figure:
    """Each miss is drawn on its picture: true boxes, the answer's boxes, and the score."""
    figure, grid = panels(len(found), columns, 2.5, 2.95)
    for axes, miss in zip(grid, found, strict=True):
        draw_answer(axes, miss.sample, miss.text)
        title = f"{miss.score:.2f}: {miss.sample.category}"[:34]
        axes.set_title(title, fontsize=9.5, color=INK, loc="left", parse_math=False)
    legend_below(figure, LEGEND)
    return figure
