"""This module resamples the questions, and makes those intervals that contain the truth as often as their level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minirft.evaluation.measures import Array

Statistic = Callable[[Array], dict[str, Array]]  # query weights (R, Q) -> {metric: (R,)}, NaN where not defined
MACRO = ("ap", "ap50", "ap75")
"""Average precisions that are means over categories."""


def resampled(
    statistic: Statistic, number: int, resamples: int, generator: np.random.Generator | None = None
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Compute a statistic on all of `number` queries, None where it is undefined, and on `resamples` of them.

    The default `generator` has seed 0, so all statistics are computed on the same resamples.
    """
    values: dict[str, Any] = {name: _json(value[0]) for name, value in statistic(np.ones((1, number))).items()}
    if not resamples:
        return values, {}
    generator = generator or np.random.default_rng(0)
    weights = generator.multinomial(number, np.full(number, 1 / number), resamples)
    return values, statistic(weights.astype(np.float64))


def intervals(draws: dict[str, Array], level: float) -> dict[str, list[float]]:
    """Compute the percentile interval of each metric that is defined on some resample: {name: [low, high]}.

    Two kinds of metric get none, because it would contain the truth less often than `level`
    (`docs/interval_coverage.py`).  The first are APs that are means over categories: a resample contains some questions
    twice, which raises the AP of a small category.  The second are metrics that are equal on every resample, such as a
    parse rate of 1: one more question may change them.
    """
    spread = {name: np.nanmax(d) > np.nanmin(d) for name, d in draws.items() if not np.isnan(d).all()}
    return {name: _interval(draws[name], level) for name, varies in spread.items() if varies and name not in MACRO}


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(draws: Array, level: float) -> list[float]:
    tail = (1 - level) / 2
    return [float(edge) for edge in np.nanquantile(draws, [tail, 1 - tail])]
