"""The confidence explorer: a widget that shows which stated confidence has the best expected reward.

A rule is proper if the best confidence for a box that hits with chance p is p itself.  The paper's linear rule is not
proper; the rule of `strict` is.
"""

from __future__ import annotations

from functools import cache

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minirft.rewards import CONFIDENCE_RULES, PAPER, STRICT, Array
from minirft.show.play import Playground, canvas, plot_axes, table
from minirft.show.style import BLUE, INK, ORANGE, QUIET, SKY

LOOK = {  # rule -> name, colour, line
    PAPER.rule: ("linear: the paper", ORANGE, "solid"),
    STRICT.rule: ("proper: strict", BLUE, "solid"),
    "brier": ("Brier", SKY, (0, (5, 2))),
}
GRID = np.round(np.linspace(0, 1, 101), 2)  # confidences have two decimal places
TIE = 1e-9


def expected_score(rule: str, chance: float) -> Array:
    """Return the expected reward of one predicted box, for each confidence of `GRID`: (101,).

        E(c) = p R(c, hit) + (1 - p) R(c, miss)

    `rule` is one of `detection.CONFIDENCE_RULES`, `chance` is p; there is one true box.

    >>> expected_score("linear", 0.75)[[0, 50, 100]].tolist()
    [0.25, 0.5, 0.75]
    """
    hit, miss = _outcomes(rule)
    return chance * hit + (1 - chance) * miss


def best_confidence(rule: str, chance: float) -> Array:
    """Return the confidences of `GRID` with the highest expected reward: one, or several with the same reward.

    >>> best_confidence("linear", 0.7).tolist(), best_confidence("shifted", 0.7).tolist()
    ([1.0], [0.7])
    >>> len(best_confidence("linear", 0.5))
    101
    """
    expected = expected_score(rule, chance)
    return GRID[expected >= expected.max() - TIE]


class ConfidenceExplorer(Playground):
    """This widget has sliders for the chance p of a hit and the stated confidence c, and shows each rule's mean reward.

    >>> play = ConfidenceExplorer(chance=0.7)
    >>> {rule: play.best(rule).tolist() for rule in play.rules()}
    {'linear': [1.0], 'shifted': [0.7]}
    """

    def __init__(self, chance: float = 0.7, confidence: float = 0.7) -> None:
        self.chance, self.confidence = (
            ipywidgets.FloatSlider(
                value, min=0, max=1, step=0.01, description=words,
                style={"description_width": "190px"}, layout={"width": "520px"},
            )
            for value, words in ((chance, "p: chance that the box hits"), (confidence, "c: confidence it states"))
        )  # fmt: skip
        self.honest = ipywidgets.Button(description="state c = p")
        self.honest.on_click(lambda _: setattr(self.confidence, "value", self.chance.value))
        self.brier = ipywidgets.Checkbox(False, description="the Brier score too", indent=False)
        super().__init__([self.chance, self.confidence, ipywidgets.HBox([self.honest, self.brier])])
        self.watch(self.chance, self.confidence, self.brier)

    def rules(self) -> list[str]:
        """Return the rules that are drawn, keys of `detection.CONFIDENCE_RULES`."""
        return [rule for rule in LOOK if rule != "brier" or self.brier.value]

    def best(self, rule: str) -> Array:
        """Return the best confidences of a rule at the chosen p."""
        return best_confidence(rule, self.chance.value)

    def earned(self, rule: str) -> float:
        """Return the expected reward of the stated confidence under a rule."""
        return float(np.interp(self.confidence.value, GRID, expected_score(rule, self.chance.value)))

    def figure(self) -> Figure:
        """Draw expected reward over stated confidence, and the best confidence over the chance of a hit."""
        figure, (pays, best) = canvas(3.5, widths=(1.45, 1), bottom=0.14, wspace=0.22)
        self._draw_pay(pays)
        self._draw_best(best)
        return figure

    def words(self) -> str:
        """Write a table of each rule: the best confidence, its reward, and the reward of the stated confidence."""
        p, c = self.chance.value, self.confidence.value
        rows = []
        for rule in self.rules():
            name, top, earned = LOOK[rule][0], expected_score(rule, p).max(), self.earned(rule)
            rows.append([name, _named(self.best(rule)), f"{top:.3f}", f"{earned:.3f}", f"{top - earned:.3f}"])
        head = ["rule", "best c", "earns", f"your c = {c:.2f} earns", "lost"]
        return f"a box that hits with chance p = {p:.2f}{table(head, rows)}"

    def _draw_pay(self, axes: Axes) -> None:
        plot_axes(axes, "expected reward of what is stated", "stated confidence c", "expected R_conf")
        p, ground = self.chance.value, {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.axvline(p, color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.text(
            p, 1.03, f"p = {p:.2f}", ha="center", va="center", fontsize=8.5, color=QUIET, bbox=ground
        )  # fmt: skip
        for rule in self.rules():
            name, colour, line = LOOK[rule]
            expected, best = expected_score(rule, self.chance.value), self.best(rule)
            axes.plot(GRID, expected, color=colour, linewidth=2.2, linestyle=line, label=name)
            if len(best) == 1:
                axes.plot(best, expected.max(), "*", color=colour, markersize=15, markeredgecolor=INK, zorder=4)
            axes.plot(self.confidence.value, self.earned(rule), "o", color="white", markeredgecolor=colour, zorder=3)
        axes.plot([], [], "*", color="white", markeredgecolor=INK, markersize=11, label="best c")
        axes.plot([], [], "o", color="white", markeredgecolor=INK, label="your c")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.08))
        axes.legend(framealpha=1, edgecolor="white", borderpad=0, fontsize=8, loc="lower left", ncols=2, labelcolor=INK)

    def _draw_best(self, axes: Axes) -> None:
        plot_axes(axes, "best thing to state", "chance p that the box hits", "best c")
        for rule in self.rules():
            _, colour, line = LOOK[rule]
            ends = [(best.min(), best.max()) for best in (best_confidence(rule, chance) for chance in GRID)]
            axes.plot(np.repeat(GRID, 2), np.ravel(ends), color=colour, linewidth=2.2, linestyle=line)
            if len(self.best(rule)) == 1:
                axes.plot(
                    self.chance.value, self.best(rule), "*", color=colour, markersize=13, markeredgecolor=INK, zorder=4
                )
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.05, 1.08))


@cache
def _outcomes(rule: str) -> tuple[Array, Array]:
    """Return R(c, hit) and R(c, miss) for each c of `GRID`: (101,) each."""
    score = CONFIDENCE_RULES[rule]
    hit, miss = (np.array([score(np.array([c]), np.array([y]), truths=1) for c in GRID]) for y in (1.0, 0.0))
    return hit, miss


def _named(confidences: Array) -> str:
    """
    >>> _named(np.array([0.7])), _named(GRID)
    ('0.70', 'any')
    """
    return f"{confidences[0]:.2f}" if len(confidences) == 1 else "any"
