"""The confidence explorer: a widget that shows which stated confidence has the best expected reward.

A rule is proper if the best confidence for a box that hits with chance p is p itself.  The paper's linear rule is not
proper; the rule of `strict` is.
"""

from functools import cache

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from minirft.rewards import CONFIDENCE_RULES, PAPER, STRICT, Array
from minirft.show.play import WIDTH, Playground, buttons, slider, table
from minirft.show.plots import lines
from minirft.show.style import BLUE, INK, ORANGE, SKY, VERMILION

LOOK = {  # rule -> name, colour, line
    PAPER.rule: ("linear: the paper", ORANGE, "-"),
    STRICT.rule: ("proper: strict", BLUE, "-"),
    "brier": ("Brier", SKY, "--"),
}
STAR = {"marker": "*", "linestyle": "", "markersize": 14, "markeredgecolor": INK, "zorder": 4}
DOT = {"marker": "o", "linestyle": "", "markersize": 7, "markerfacecolor": "white", "zorder": 3}
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
        self.chance = slider("p: chance that the box hits", chance, 0, 1, wide=520, named=190)
        self.confidence = slider("c: confidence it states", confidence, 0, 1, wide=520, named=190)
        self.brier = ipywidgets.Checkbox(False, description="the Brier score too", indent=False)
        honest = buttons({"state c = p": lambda: setattr(self.confidence, "value", self.chance.value)})
        controls = self.chance, self.confidence, self.brier
        super().__init__([[self.chance], [self.confidence], [*honest, self.brier]], controls)

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
        p, rules = self.chance.value, self.rules()
        pays = {LOOK[rule][0]: (GRID, expected_score(rule, p)) for rule in rules}
        ends = {rule: [best_confidence(rule, chance)[[0, -1]] for chance in GRID] for rule in rules}
        best = {LOOK[rule][0]: (np.repeat(GRID, 2), np.ravel(ends[rule])) for rule in rules}
        stars = [(self.best(rule)[0], expected_score(rule, p).max()) for rule in rules if len(self.best(rule)) == 1]
        x, y = np.reshape(stars, (-1, 2)).T
        pays |= {"best c": (x, y), "your c": ([self.confidence.value] * len(rules), [*map(self.earned, rules)])}
        best |= {"best c": (np.full_like(x, p), x)}
        names = ("expected reward of what is stated", "best c to state")
        return lines(
            dict(zip(names, (pays, best), strict=True)),
            at={"p": p},
            style={name: line for name, _, line in LOOK.values()} | {"best c": STAR, "your c": DOT},
            colours={name: colour for name, colour, _ in LOOK.values()} | {"best c": VERMILION, "your c": INK},
            xlabel=dict(zip(names, ("stated confidence c", "chance p that the box hits"), strict=True)),
            ylabel="expected R_conf", ylim=(-0.05, 1.08), size=(WIDTH / 2, 3.6),
        )  # fmt: skip

    def words(self) -> str:
        """Write a table of each rule: the best confidence, its reward, and the reward of the stated confidence."""
        p, c = self.chance.value, self.confidence.value
        rows = []
        for rule in self.rules():
            name, top, earned = LOOK[rule][0], expected_score(rule, p).max(), self.earned(rule)
            best = "any" if len(self.best(rule)) > 1 else f"{self.best(rule)[0]:.2f}"
            rows.append([name, best, f"{top:.3f}", f"{earned:.3f}", f"{top - earned:.3f}"])
        head = ["rule", "best c", "earns", f"your c = {c:.2f} earns", "lost"]
        return f"a box that hits with chance p = {p:.2f}{table(head, rows)}"


@cache
def _outcomes(rule: str) -> tuple[Array, Array]:
    """Return R(c, hit) and R(c, miss) for each c of `GRID`: (101,) each."""
    score = CONFIDENCE_RULES[rule]
    hit, miss = (np.array([score(np.array([c]), np.array([y]), truths=1) for c in GRID]) for y in (1.0, 0.0))
    return hit, miss
