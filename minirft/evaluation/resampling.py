"""Resamples of the questions, and the intervals that may be printed: those that hold the truth as often as they say."""

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
    """A statistic of `number` queries on all of them, None where it is not defined, and on `resamples` of them.

    Without a `generator` the resamples are those of seed 0: the same queries for whatever is measured on them.
    """
    values: dict[str, Any] = {name: _json(value[0]) for name, value in statistic(np.ones((1, number))).items()}
    if not resamples:
        return values, {}
    generator = generator or np.random.default_rng(0)
    weights = generator.multinomial(number, np.full(number, 1 / number), resamples)
    return values, statistic(weights.astype(np.float64))


def intervals(draws: dict[str, Array], level: float) -> dict[str, list[float]]:
    """The percentile interval of each metric that is defined on some resample: {name: [low, high]}.

    Two kinds have none, because it would not hold the truth as often as `level` says (`docs/interval_coverage.py`).
    APs that are means over categories: a resample asks some questions twice, which raises the AP of a small category.
    Metrics that are the same on every resample, such as a parse rate of 1: one more question may change them.
    """
    spread = {name: np.nanmax(d) > np.nanmin(d) for name, d in draws.items() if not np.isnan(d).all()}
    return {name: _interval(draws[name], level) for name, varies in spread.items() if varies and name not in MACRO}


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(draws: Array, level: float) -> list[float]:
    tail = (1 - level) / 2
    return [float(edge) for edge in np.nanquantile(draws, [tail, 1 - tail])]
