"""The reward lab: a widget that compares two rewards, with sliders for the weights, on the same saved completions.

`minirft.show.rescoring` computes the numbers.  A button scores the cheats of the red team.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets
from matplotlib.figure import Figure, SubFigure

from minirft.rewards import Scorer, reward_for
from minirft.show.pictures import Group
from minirft.show.play import Playground, buttons, canvas, slider, table
from minirft.show.plots import bars, lines
from minirft.show.rescoring import Behaviours, Rescored, pushes, red_team, reversed_pairs, scores_of, weigh, weights_of
from minirft.show.style import BLUE, INK, ORANGE, QUIET, signed

HEAVIEST = 3.0  # of the weight sliders
WORST = 6  # answers of the red team that are shown
NAMED = 6  # groups with another winner that are listed by number

KINDS = {"honest": QUIET, "blind": ORANGE}  # kind of an answer -> colour; a spoilt answer is blue


def red_team_bars(teams: Mapping[str, Sequence[Mapping[str, Any]]], worst: int = WORST) -> Figure:
    """Draw the mean totals of the best-paid blind (orange) and spoilt (blue) answers, a panel for each reward.

    The honest answer is at the top, with a dashed line at its total.
    """
    shown, colours = {}, {}
    for name, rows in teams.items():
        honest = next(row for row in rows if row["kind"] == "honest")
        chosen = [honest, *[row for row in rows if row["kind"] != "honest"][:worst]]
        shown[name] = {row["answer"]: row["total"] for row in chosen}
        colours |= {row["answer"]: KINDS.get(row["kind"], BLUE) for row in chosen}
    size = (8.0 / len(teams), 0.75 + 0.3 * (worst + 1))
    figure = bars(shown, form="", horizontal=True, colours=colours, size=size, xlabel="mean total")
    for axes, totals in zip(figure.axes, shown.values(), strict=True):
        axes.axvline(next(iter(totals.values())), color=INK, linewidth=1, linestyle=(0, (4, 3)))
    return figure


class RewardLab(Playground):
    """This widget compares two rewards on the same saved completions, with sliders for the weights of the second.

    `groups` are saved groups (their own rewards are not used).  `rewards` are named rewards or functions of
    (completion, sample).
    """

    def __init__(self, groups: Sequence[Group], rewards: Mapping[str, Scorer], behaviours: Behaviours) -> None:
        self.groups, self.behaviours = list(groups), dict(behaviours)
        self.task = self.groups[0].sample.task
        self.rewards = {name: reward_for(self.task, reward) for name, reward in rewards.items()}
        self.scores = {name: scores_of(self.groups, reward) for name, reward in self.rewards.items()}
        self.own = {name: weights_of(self.scores[name], reward) for name, reward in self.rewards.items()}
        names, layout = list(self.rewards), {"width": "250px"}
        self.base = ipywidgets.Dropdown(options=names, description="reward", layout=layout)
        self.trial = ipywidgets.Dropdown(options=names, value=names[-1], description="on trial", layout=layout)
        self.group = ipywidgets.IntSlider(0, 0, len(self.groups) - 1, description="group", layout={"width": "280px"})
        (self.attack,) = buttons({"send the red team": self.send_red_team})
        self.report = ipywidgets.HTML()
        self.weights: dict[str, ipywidgets.FloatSlider] = {}
        self.sliders = ipywidgets.HBox()
        self._slide()
        rows = [self.base, self.trial], [self.sliders], [self.group, self.attack]
        super().__init__(rows, [self.base, self.group])
        self.widget.children = [*self.widget.children, self.report]
        self.trial.observe(lambda change: self.at_once(self._slide), "value")

    def send_red_team(self) -> list[dict[str, Any]]:
        """Score the cheats with the reward on trial and its present weights; show the best paid below the figure."""
        reward = self.rewards[self.trial.value]
        rows = red_team(replace(reward, weights=self._trial_weights()), self.task)
        best = [row for row in rows if row["kind"] != "honest"][:WORST]
        cells = []
        for row in best:
            share = "-" if row["share"] is None else f"{row['share']:.0%}"
            cells.append([html.escape(row["answer"]), row["kind"], f"{row['total']:.2f}", share])
        self.report.value = table(["answer", "kind", "mean total", "share of the honest"], cells)
        return rows

    def compare(self) -> tuple[Rescored, Rescored]:
        """Score the groups with both rewards; the reward on trial takes the weights of the sliders."""
        base, trial = self.base.value, self.trial.value
        return weigh(self.scores[base], self.own[base]), weigh(self.scores[trial], self._trial_weights())

    def figure(self) -> Figure:
        """Draw the order of one group under both rewards, and the pushes of both."""
        figure, (left, right) = canvas(3.3, widths=(1, 1.5))
        before, after = self.compare()
        p = self.group.value
        _draw_order(left, f"order of group {p}", before.rewards[p].tolist(), after.rewards[p].tolist(), self._names())
        pushed = [pushes(self.groups, found.advantages, self.behaviours) for found in (before, after)]
        series = {name: [*push.values()] for name, push in zip(self._names(), pushed, strict=True)}
        bars({"push: correlation of advantage and behaviour": series}, [*pushed[0]], form="", ylim=(-1, 1), on=right)
        return figure

    def words(self) -> str:
        """Describe dead groups, reversed pairs, changed winners, the group that is drawn, and the pushes."""
        before, after = self.compare()
        count, p = len(self.groups), self.group.value
        other = [i for i, (a, b) in enumerate(zip(before.best, after.best, strict=True)) if a != b]
        named = f" ({', '.join(map(str, other[:NAMED]))}{', …' if other[NAMED:] else ''})" if other else ""
        pushed = pushes(self.groups, after.advantages, self.behaviours)
        listed = ", ".join(f"{name} {signed(value)}" for name, value in pushed.items())
        return (
            f"dead groups: {before.dead} of {count} → {after.dead} of {count} · "
            f"{reversed_pairs(before.rewards, after.rewards):.0%} of the ordered pairs reversed · "
            f"another best completion in {len(other)} of {count} groups{named}<br>"
            f"group {p}: {reversed_pairs(before.rewards[[p]], after.rewards[[p]]):.0%} of its pairs reversed<br>"
            f"pushes of the reward on trial: {listed}"
        )

    def _names(self) -> tuple[str, str]:
        base, trial = self.base.value, self.trial.value
        changed = self._trial_weights() != self.own[trial]
        return base, f"{trial}{', own weights' if changed else ' ' if trial == base else ''}"

    def _trial_weights(self) -> dict[str, float]:
        return {name: slider.value for name, slider in self.weights.items()}

    def _slide(self) -> None:
        """Make one slider for each part of the reward on trial, at its weight."""
        self.weights = {
            name: slider(name, weight, min(-HEAVIEST, weight), max(HEAVIEST, weight), 0.1, wide=270, named=90)
            for name, weight in self.own[self.trial.value].items()
        }
        self.sliders.children = list(self.weights.values())
        self.watch(*self.weights.values())


def _draw_order(part: SubFigure, title: str, before: list[float], after: list[float], names: tuple[str, str]) -> None:
    """Draw a line for each completion from its rank under one reward to its rank under the other; ties share a rank."""
    places = [[sum(x > y for x in rewards) + 1 for y in rewards] for rewards in (before, after)]
    ends = {f"_{g}": pair for g, pair in enumerate(zip(*places, strict=True))}
    colours = {g: BLUE if b < a else ORANGE if b > a else QUIET for g, (a, b) in ends.items()}
    lines({title: ends}, [0, 1], style="o-", colours=colours, xticks=[0, 1], xticklabels=names, xlim=(-0.45, 1.45),
          yticks=range(1, len(before) + 1), ylim=(len(before) + 0.6, 0.4), ylabel="place, 1 is the best",
          on=part)  # fmt: skip
    for x, of_side in enumerate(places):
        for place in set(of_side):
            label = ",".join(str(g + 1) for g, other in enumerate(of_side) if other == place)
            part.axes[0].text(x + (0.08 if x else -0.08), place, label, ha="left" if x else "right", va="center",
                              fontsize=8.5, color=INK)  # fmt: skip
