"""The worst misses: held-out pictures whose answers have the lowest scores, drawn with the true boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from minirft.samples import Sample
from minirft.show.pictures import answer_grid


@dataclass(frozen=True)
class Miss:
    """One held-out answer and its score."""

    sample: Sample
    text: str
    score: float


def worst(
    samples: Sequence[Sample], texts: Sequence[str], score: Callable[[str, str], float], count: int = 8
) -> list[Miss]:
    """Return the `count` answers with the lowest scores, lowest first; equal scores keep the order of the samples.

    >>> from pathlib import Path
    >>> asked = [Sample(name, Path(name), "presence", "?", "<answer>yes</answer>") for name in "abc"]
    >>> [miss.sample.id for miss in worst(asked, ["", "yes", ""], lambda text, solution: len(text), 2)]
    ['a', 'c']
    """
    earned = [score(text, sample.solution) for sample, text in zip(samples, texts, strict=True)]
    places = np.argsort(earned, kind="stable")[:count]
    return [Miss(samples[i], texts[i], earned[i]) for i in places]


def misses(answers: Sequence[Miss], columns: int = 4) -> Figure:
    """Draw each miss on its picture: true boxes, the answer's boxes, and the score."""
    return answer_grid([(m.sample, m.text, f"{m.score:.2f}: {m.sample.category}", {}) for m in answers], columns)
