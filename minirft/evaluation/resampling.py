"""This module resamples the questions, and makes those intervals that contain the truth as often as their level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minirft.evaluation.measures import Array

Statistic = Callable[[Array], dict[str, Array]]  # query weights (R, Q) -> {metric: (R,)}, NaN where not defined
MACRO = ("ap", "ap50", "ap75")
"""Average precisions that are means over categories."""


def resampled(statistic: Statistic, number: int, resamples: int) -> tuple[dict[str, float | None], dict[str, Array]]:
    """Compute a statistic on all of `number` queries, None where it is undefined, and on `resamples` of them.

    The resamples are drawn from seed 0, so they are the same for all statistics.
    """
    on_all = {name: float(value[0]) for name, value in statistic(np.ones((1, number))).items()}
    values = {name: None if np.isnan(value) else value for name, value in on_all.items()}
    weights = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), resamples)
    return values, statistic(weights.astype(np.float64)) if resamples else {}


def intervals(draws: dict[str, Array]) -> dict[str, list[float]]:
    """Compute the 95% percentile interval of each metric that is defined on some resample: {name: [low, high]}.

    Two kinds of metric get none, because it would contain the truth less often than in 95% of the cases
    (`docs/interval_coverage.py`).  The first are APs that are means over categories: a resample contains some questions
    twice, which raises the AP of a small category.  The second are metrics that are equal on every resample, such as a
    parse rate of 1: one more question may change them.
    """
    spread = {name: np.nanmax(d) > np.nanmin(d) for name, d in draws.items() if not np.isnan(d).all()}
    printed = [name for name, varies in spread.items() if varies and name not in MACRO]
    return {name: np.nanquantile(draws[name], [0.025, 0.975]).tolist() for name in printed}
