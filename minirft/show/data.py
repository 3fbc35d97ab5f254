"""A figure of samples in a grid, to check before a run that boxes and questions belong to their pictures."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from minirft.rewards import true_boxes
from minirft.samples import Sample
from minirft.show.pictures import picture_row

WIDTH = 42  # characters of a line below a picture


def drawing(samples: list[Sample]) -> Figure:
    """Draw samples in a grid: picture, true boxes, question, solution, and size in pixels."""
    pictures = [sample.picture() for sample in samples]
    captions = [f"{_short(s.category, 30)}   {p.width} x {p.height}" for s, p in zip(samples, pictures, strict=True)]
    texts = [[textwrap.fill(_short(text, 3 * WIDTH), WIDTH) for text in (s.problem, s.solution)] for s in samples]
    return picture_row(
        pictures, captions, [true_boxes(s) for s in samples], notes=["\n".join(t) for t in texts], size=3.2
    )


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
