"""The intervals that are printed hold the truth, in small; docs/experiments.md has the whole simulation."""

import interval_coverage as coverage
import numpy as np
import pytest
from scipy.stats import binom

from minirft.evaluation.resampling import MACRO


def least(repeats: int, level: float = 0.90) -> float:
    """The share of `repeats` that a coverage of `level` stays above in 999 of 1,000 simulations."""
    return float(binom.ppf(0.001, repeats, level)) / repeats


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98, 0.998])
@pytest.mark.parametrize("questions", [300, 500])
def test_the_interval_of_a_share_holds_it(share: float, questions: int) -> None:
    """An interval of a share near 1, such as a parse rate, that is too short or [1, 1]."""
    assert coverage.of_a_share(share, questions, 2000) >= least(2000)


def test_the_headline_of_detection_is_one_whose_interval_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A headline whose interval lies beside the truth, as that of a mean over categories does."""
    monkeypatch.setattr(coverage, "POPULATION", 4000)
    asked = coverage.population(65, False, np.random.default_rng(0))
    found = coverage.of_one_evaluation(asked, 300, 20)
    for name in ("ap50_pooled", "recall", "mean_iou", "auc"):
        assert found[name]["held"] >= least(20), name
    assert all(found[name]["held"] < least(20) for name in MACRO)


def test_five_equal_seeds_are_rarely_called_different() -> None:
    """A star for chance: two equal methods, sure to differ more often than one time in twenty."""
    found = coverage.of_seeds(0.02, repeats=200)
    assert found["falsely sure"] <= binom.ppf(0.999, 200, 0.05) / 200
