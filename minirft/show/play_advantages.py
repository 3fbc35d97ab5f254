"""The advantage playground: sliders for the rewards of a group, and their advantages under each way of scaling."""

from __future__ import annotations

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from minirft.advantages import degenerate_groups, group_advantages
from minirft.show.play import Playground, buttons, canvas, slider, upright
from minirft.show.plots import bars
from minirft.show.style import BLUE, GRID, ORANGE, QUIET, SKY, VERMILION, signed
from minirft.show.tokens import name_of

FORMULAS = {
    "std": "A = (r − mean) / (std + ε)",
    "mean": "A = r − mean",
    "batch": "A = (r − mean) / (std of batch + ε)",
    "none": "A = r",
}
LIT = "#fff1d0"  # background of the axes of a degenerate group
HIGHEST = 3.0  # three parts in [0, 1]


class AdvantagePlayground(Playground):
    """This widget has sliders for the rewards of a group, shows spread and advantages, and marks a degenerate group.

    `rewards` is (G,) or (1, G), rounded to hundredths, the step of the sliders.  `others`, (P - 1, G), are the other
    groups of the batch, which only the scale "batch" uses; by default one group, half 0 and half 3.

    >>> play = AdvantagePlayground([1.0, 1.0, 0.0, 0.0])
    >>> play.scale.value = "mean"
    >>> play.advantages().tolist()
    [0.5, 0.5, -0.5, -0.5]
    """

    def __init__(self, rewards: ArrayLike, others: ArrayLike | None = None) -> None:
        self.start = np.round(np.asarray(rewards, dtype=np.float64).reshape(-1), 2)
        group = len(self.start)
        self.names = [name_of(g) for g in range(group)]
        spread = np.where(np.arange(group) < group // 2, 0.0, HIGHEST)
        self.others = np.reshape(spread if others is None else others, (-1, group)).astype(np.float64)
        low, high = min(0.0, self.start.min()), max(HIGHEST, self.start.max())
        self.sliders = [upright("", r, low, high) for r in self.start]
        centred = {"display": "flex", "justify_content": "center"}
        named = [  # separate labels: the handle of a slider at the top would cover its description
            ipywidgets.VBox([ipywidgets.Label(name, layout=centred), control])
            for name, control in zip(self.names, self.sliders, strict=True)
        ]
        self.scale = ipywidgets.Dropdown(options=list(FORMULAS), description="scale", layout={"width": "190px"})
        log = {"kind": ipywidgets.FloatLogSlider, "readout_format": ".0e"}
        self.eps = slider("ε", 1e-4, -8, 0, 1, wide=280, named=80, **log)
        self.ddof = ipywidgets.ToggleButtons(options=[0, 1], value=1, style={"button_width": "48px"})
        presets = {
            "the group of the lesson": lambda: self.move(self.sliders, self.start),
            "near tie": lambda: self.move(self.sliders, [1.51] + [1.50] * (group - 1)),
            "all equal": lambda: self.move(self.sliders, [self.rewards().mean().item()] * group),
        }
        self.scale.observe(lambda change: setattr(self.eps, "disabled", change.new in ("mean", "none")), "value")
        choices = [self.scale, self.eps, ipywidgets.Label("ddof"), self.ddof]
        super().__init__([choices, buttons(presets), named], [*self.sliders, self.scale, self.eps, self.ddof])

    def rewards(self) -> Tensor:
        """Return the rewards of the sliders: (G,), float64."""
        return torch.tensor([slider.value for slider in self.sliders], dtype=torch.float64)

    def batch(self) -> Tensor:
        """Return the group and then the others: (P, G)."""
        return torch.cat([self.rewards()[None], torch.from_numpy(self.others)])

    def advantages(self) -> Tensor:
        """Compute `group_advantages` of the group with the chosen scale, ε and ddof: (G,)."""
        return group_advantages(self.batch(), self.scale.value, self.ddof.value, self.eps.value)[0]

    def degenerate(self) -> bool:
        """Return whether all rewards of the group are equal."""
        return bool(degenerate_groups(self.rewards()[None])[0])

    def figure(self) -> Figure:
        """Draw the rewards with their mean and spread, and the advantages beside them."""
        figure, (left, right) = canvas(3.1, widths=(1, 1))
        rewards, advantages = self.rewards(), self.advantages()
        mean, std = rewards.mean().item(), rewards.std(correction=self.ddof.value).item()
        bars({"rewards r, their mean, one std either way": {"": rewards}}, self.names, colours={"": SKY},
             across={"_mean": mean}, ylim=(self.sliders[0].min, self.sliders[0].max * 1.1), on=left)  # fmt: skip
        left.axes[0].axhspan(mean - std, mean + std, color=GRID, alpha=0.7, linewidth=0, zorder=0)
        limit = max(3.2, 1.15 * advantages.abs().max().item())
        of_name = dict(zip(self.names, advantages.tolist(), strict=True))
        colours = {name: BLUE if a > 0 else ORANGE if a < 0 else QUIET for name, a in of_name.items()}
        title = f"advantages   {FORMULAS[self.scale.value]}"
        bars({title: of_name}, form=signed, colours=colours, ylim=(-limit, limit), on=right)
        if self.degenerate():
            for axes in figure.axes:
                axes.set_facecolor(LIT)
                axes.spines[:].set(visible=True, color=VERMILION, linewidth=2)
        return figure

    def words(self) -> str:
        """Describe mean, spread and advantages; add a badge when the group is degenerate."""
        rewards, advantages = self.rewards(), self.advantages()
        parts = [f"mean reward {rewards.mean():.2f}", f"std {rewards.std(correction=self.ddof.value):.4f}"]
        if self.scale.value == "batch":
            everything = self.batch()
            std = everything.std(correction=self.ddof.value)
            parts.append(f"std of the batch of {len(everything)} groups {std:.4f}")
        listed = " ".join(f"{name_of(g)} {signed(a)}" for g, a in enumerate(advantages.tolist()))
        lines = [" · ".join(parts), f"advantages: {listed}"]
        if self.degenerate():
            effect = "every A is 0, and the group adds nothing to the gradient"
            if self.scale.value == "none":
                effect = "but “none” has no baseline: every completion is pushed by its reward, none before another"
            badge = "background:#d55e00;color:white;padding:2px 8px;border-radius:4px"
            lines.insert(0, f'<b style="{badge}">degenerate group</b> all rewards are equal: {effect}')
        return "<br>".join(lines)
