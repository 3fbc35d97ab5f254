"""The rollout browser: a widget that shows completions group by group, with the numbers of each token.

A group is plain data (`Record`), which `minirft.lessons.record` makes from a rollout.  The colour of a token is the
distance of its number from the neutral value (1 for the ratio, 0 for all else): blue above, orange below.  All groups
of a browser have the same scale, so their colours can be compared.  Pages without a kernel show a drawing.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure

from minirft.advantages import degenerate_groups
from minirft.samples import Sample  # noqa: F401  a field of Group: pdoc reads the types of Record here
from minirft.show.pictures import Group, answer_grid
from minirft.show.play import Playground, buttons, canvas, live, slider, table
from minirft.show.plots import bars
from minirft.show.style import INK, signed
from minirft.show.tokens import draw_tokens, height_of, layout, name_of, reach, shade

ALL, TEACH, DEGENERATE, FAILURE = "all groups", "groups that teach", "degenerate groups", "failure: "
NO_HEAT = "no colours"
NEUTRAL = {"ratio": 1.0}  # every other number is neutral at 0


@dataclass(frozen=True)
class Record(Group):
    """A group with its tokens: G completions as lists of strings, and numbers of each token by name.

    `heat` is, for example, {"log-prob": G lists}; a list has one number for each token.
    """

    tokens: list[list[str]] = field(default_factory=list)
    heat: dict[str, list[list[float]]] = field(default_factory=dict)

    @property
    def degenerate(self) -> bool:
        """Return whether all rewards are equal."""
        return bool(degenerate_groups(torch.tensor([self.rewards]))[0])


def kinds(records: Sequence[Record]) -> dict[str, list[int]]:
    """Return the filters, each with the indices of its groups: all, degenerate or not, and each reason of failure.

    >>> kinds([Record(None, ["a", "b"], [0.0, 1.0], [-0.7, 0.7], failures=["no answer block", None])])
    {'all groups': [0], 'groups that teach': [0], 'degenerate groups': [], 'failure: no answer block': [0]}
    """
    rows = list(enumerate(records))
    reasons = sorted({reason for record in records for reason in record.failures if reason})
    found = {ALL: [i for i, _ in rows], TEACH: [i for i, r in rows if not r.degenerate]}
    found[DEGENERATE] = [i for i, r in rows if r.degenerate]
    return found | {FAILURE + reason: [i for i, r in rows if reason in r.failures] for reason in reasons}


class RolloutBrowser(Playground):
    """This widget moves through groups, filters them, and shows one completion on its picture and the tokens in colour.

    >>> browser = RolloutBrowser([Record(None, ["a", "b"], [0.0, 0.0], [0.0, 0.0])])
    >>> browser.kind.value = "groups that teach"
    >>> "no group fits" in browser.readout.value
    True
    """

    def __init__(self, records: Sequence[Record], heat: str = "") -> None:
        if not records:
            raise ValueError("a browser needs at least one group")
        self.records, self.place = list(records), 0
        self.scales: dict[str, tuple[float, float]] = {}  # name of a number -> its neutral value, and its reach
        for name in dict.fromkeys(name for record in records for name in record.heat):
            neutral, every = NEUTRAL.get(name, 0.0), [row for record in records for row in record.heat.get(name, [])]
            self.scales[name] = neutral, reach(every, neutral)
        rewards = [reward for record in records for reward in record.rewards]
        low, high = np.floor(min(rewards) * 20) / 20, np.ceil(max(rewards) * 20) / 20 + 0.05
        self.kinds = kinds(self.records)
        self.kind = ipywidgets.Dropdown(options=[*self.kinds], description="show", layout={"width": "300px"})
        between = {"kind": ipywidgets.FloatRangeSlider, "wide": 340, "named": 80}
        self.worth = slider("reward in", (low, high), low, high, 0.05, **between)
        self.previous, self.next = moves = buttons({"◀ previous": lambda: self.go(-1), "next ▶": lambda: self.go(1)})
        heats = [*self.scales, NO_HEAT]
        self.heat = ipywidgets.Dropdown(options=heats, value=heat or heats[0], description="colours")
        options = [(name_of(g), g) for g in range(len(records[0].texts))]
        self.which = ipywidgets.ToggleButtons(options=options, style={"button_width": "44px"})
        rows = [*moves, self.heat], [self.kind, self.worth], [ipywidgets.Label("picture"), self.which]
        super().__init__(rows, [self.heat, self.which])
        for control in (self.kind, self.worth):
            control.observe(lambda _: self.go(-self.place), "value")

    def selected(self) -> list[int]:
        """Return the indices of the groups of the kind that have a completion with a reward in the range."""
        low, high = np.add(self.worth.value, (-1e-6, 1e-6))  # the slider's ends are rounded
        of_kind = self.kinds[self.kind.value]
        return [i for i in of_kind if any(low <= reward <= high for reward in self.records[i].rewards)]

    def record(self) -> Record | None:
        """Return the group that is shown; None when no group passes the filters."""
        places = self.selected()
        return self.records[places[self.place]] if places else None

    def go(self, by: int) -> None:
        """Move by that many groups; after the last group comes the first."""
        self.place = (self.place + by) % max(1, len(self.selected()))
        self.at_once(self._choose_first)

    def figure(self) -> Figure:
        """Draw the chosen completion on its picture, and the rewards of all completions."""
        figure, (part,) = canvas(2.9)
        self._draw(part)
        return figure

    def drawing(self) -> Figure:
        """Draw the figure with the tokens below, for pages without a kernel."""
        record = self.record()
        if not (record and record.tokens):
            return self.figure()
        numbers = zip(record.rewards, record.advantages, strict=True)
        labels = [f"{name_of(g)} {reward:5.2f} {signed(a):>6}" for g, (reward, a) in enumerate(numbers)]
        placed = layout(record.tokens, labels)
        height = height_of(placed)
        figure, (top, below) = canvas(2.9 + height, heights=(2.9, height))
        self._draw(top)
        draw_tokens(placed, lambda g, t: self._colour(record, g, t), self._key(), below)
        return figure

    def words(self) -> str:
        """Describe the group, and list its completions with reward parts, advantage and tokens."""
        record = self.record()
        if record is None:
            return "no group fits: widen the filters"
        mean = sum(record.rewards) / len(record.rewards)
        head = [
            f"group {self.place + 1} of {len(self.selected())}",
            f"step {record.step}" if record.step else "",
            f"“{html.escape(record.sample.category)}”" if record.sample else "",
            f"mean reward {mean:.2f}",
            "<b>degenerate group</b>: no gradient" if record.degenerate else "",
            html.escape(record.note),
        ]
        columns = ["", *record.parts, "r", "A", f'<div style="text-align:left">{self._key()}</div>']
        return " · ".join(filter(None, head)) + table(columns, [self._row(record, g) for g in range(len(record.texts))])

    def _row(self, record: Record, g: int) -> list[str]:
        parts = [f"{values[g]:.2f}" for values in record.parts.values()]
        failure = record.failures[g] if record.failures else None
        note = f"<i>unreadable: {html.escape(failure)}</i> " if failure else ""
        text = html.escape(record.texts[g])
        if record.tokens:
            text = "".join(self._span(record, g, t) for t in range(len(record.tokens[g])))
        name = f"<b>{name_of(g)}</b>" if g == self.which.value else name_of(g)
        numbers = [f"{record.rewards[g]:.2f}", signed(record.advantages[g])]
        style = "text-align:left;font:12px/1.5 monospace;white-space:pre-wrap;overflow-wrap:anywhere"
        return [name, *parts, *numbers, f'<div style="{style}">{note}{text}</div>']

    def _span(self, record: Record, g: int, t: int) -> str:
        red, green, blue = (round(255 * channel) for channel in self._colour(record, g, t))
        numbers = ", ".join(f"{name} {signed(rows[g][t], 4)}" for name, rows in record.heat.items())
        token = html.escape(record.tokens[g][t])
        return f'<span title="{html.escape(numbers)}" style="background:rgb({red},{green},{blue})">{token}</span>'

    def _colour(self, record: Record, g: int, t: int) -> tuple[float, float, float]:
        name = self.heat.value
        return shade(record.heat[name][g][t], *self.scales[name]) if name in record.heat else (1.0, 1.0, 1.0)

    def _key(self) -> str:
        name = self.heat.value
        if name == NO_HEAT:
            return "tokens"
        neutral, full = self.scales[name]
        return f"{name} of each token: white is {neutral:g}, full colour {full:.2g} away; blue above, orange below"

    def _draw(self, part: SubFigure) -> None:
        record, g = self.record(), self.which.value or 0
        left, right = part.subfigures(1, 2, width_ratios=(1, 1.75))
        if record and record.sample:
            title = f"{name_of(g)}: {record.sample.category}"
            answer_grid([(record.sample, record.texts[g], title, {"fontweight": "bold"})], on=left)
        if record:
            _draw_earned(right, record, g)

    def _choose_first(self) -> None:
        record = self.record()
        names = [(name_of(g), g) for g in range(len(record.texts))] if record else []
        if names and len(names) != len(self.which.options):  # new options lose the pressed button on the page
            self.which.options = names
        self.which.value = 0

    def _ipython_display_(self) -> None:
        live(self.widget, self.drawing(), small=True)


def _draw_earned(part: SubFigure, record: Record, g: int) -> None:
    """Draw a bar for each completion, stacked by reward part, with its advantage above."""
    parts = record.parts or {"": record.rewards}
    base = np.sum([*parts.values()], axis=0)
    names = [name_of(i) for i in range(len(base))]
    limits = min(0, *base), max(3.4, 1.15 * max(base))
    bars({"reward by part, advantage A above": parts}, names, stacked=True, ylim=limits, on=part)
    (axes,) = part.axes
    for i, advantage in enumerate(record.advantages):
        axes.text(i, max(base[i], 0) + 0.06, signed(advantage), ha="center", fontsize=8, color=INK)
    axes.get_xticklabels()[g].set_fontweight("bold")
