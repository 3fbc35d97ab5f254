"""The clip explorer: a widget that shows the loss of one token and its gradient.

Every number is a value or a gradient (by autograd) of a function of `minirft.loss`; nothing is derived by hand.
"""

import ipywidgets
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from minirft.loss import clipped_gain, policy_loss
from minirft.show.play import Playground, buttons, canvas, slider
from minirft.show.plots import lines
from minirft.show.style import BLUE, INK, ORANGE, QUIET, VERMILION, signed

Bounds = tuple[float, float]  # ε_low, ε_high
OLD = 0.3  # the token's probability when it was sampled
RATIOS = torch.linspace(0.02, 2.0, 34, dtype=torch.float64)
FINE = torch.linspace(0.005, 2.0, 400, dtype=torch.float64)
ADVANTAGES = torch.linspace(-2.0, 2.0, 80, dtype=torch.float64)  # 0 is not among them
KINDS = {"min(ρ A, clip(ρ) A): grpo, dapo, …": "grpo", "sg[min(ρ, high)] A log π: cispo": "cispo"}
PUSH = LinearSegmentedColormap.from_list("push", [ORANGE, "#ffffff", BLUE])  # down, up
DEAD = "#c3c9cf"
HERE = {"marker": "o", "linestyle": "", "markersize": 10, "markeredgecolor": "white", "zorder": 5}
QUADRANTS = {  # (A > 0, ρ > 1) -> the case, the effect of the loss
    (True, False): ("a good token that became rarer", "is pulled back up, however far it fell"),
    (True, True): ("a good token that became likelier", "is pushed on, until ρ passes 1 + ε_high"),
    (False, False): ("a bad token that became rarer", "is pushed down, until ρ passes 1 − ε_low"),
    (False, True): ("a bad token that became likelier", "is pushed back down, the harder the further it rose"),
}


def one_token(kind: str, ratio: float, advantage: float, eps: Bounds = (0.2, 0.2)) -> dict[str, float]:
    """Return the objective J = -loss of an answer of one token, its gradient dJ / d log π, and whether ρ A was clipped.

    `kind` is one of `loss.LOSSES` other than dr_grpo, `ratio` is ρ > 0, `eps` is (ε_low, ε_high); the token had
    probability 0.3 under π_old.

    >>> one_token("grpo", ratio=1.5, advantage=1.0)
    {'objective': 1.2, 'gradient': 0.0, 'clipped': 1.0}
    """
    ratios, advantages = torch.tensor([[ratio], [advantage]], dtype=torch.float64)
    logprobs, loss, metrics = _loss(kind, ratios, advantages, eps)
    (gradient,) = torch.autograd.grad(-loss, logprobs)
    return {"objective": -loss.item(), "gradient": gradient.item(), "clipped": metrics["clip_fraction"].item()}


def gradients(kind: str, ratios: Tensor, advantages: Tensor, eps: Bounds = (0.2, 0.2)) -> Tensor:
    """Compute dJ / d log π for many answers of one token each: (K,), (K,) -> (K,).

    >>> gradients("grpo", torch.tensor([1.0, 1.5]), torch.tensor([1.0, 1.0])).tolist()
    [1.0, 0.0]
    """
    logprobs, loss, _ = _loss(kind, ratios, advantages, eps)
    return torch.autograd.grad(-loss, logprobs)[0][:, 0]


class ClipExplorer(Playground):
    """This widget has sliders for ρ, A and the bounds, and shows the objective, its gradient, and where that is 0.

    >>> play = ClipExplorer()
    >>> play.ratio.value = 1.5
    >>> play.state()["gradient"], play.branch()
    (0.0, 'clip(ρ) A, gradient 0')
    """

    def __init__(self) -> None:
        style, layout = {"description_width": "130px"}, {"width": "380px"}
        self.kind = ipywidgets.Dropdown(options=KINDS, description="surrogate", style=style, layout=layout)
        self.ratio, self.advantage = slider("ratio ρ = π / π_old", 1.4, 0.02, 2), slider("advantage A", 1.0, -2, 2, 0.1)
        self.eps_low, self.eps_high = slider("ε_low", 0.2, 0, 0.5), slider("ε_high", 0.2, 0, 0.5)
        presets = {
            "the first update: ρ = 1": lambda: self.move([self.ratio], [1.0]),
            "DAPO's bounds: 0.20, 0.28": lambda: self.move([self.eps_low, self.eps_high], [0.2, 0.28]),
        }
        self.kind.observe(lambda change: setattr(self.eps_low, "disabled", change.new == "cispo"), "value")
        controls = self.ratio, self.advantage, self.eps_low, self.eps_high, self.kind
        super().__init__([controls[:2], controls[2:4], [self.kind, *buttons(presets)]], controls)

    def state(self) -> dict[str, float]:
        """Return `one_token` at the values of the sliders."""
        return one_token(self.kind.value, self.ratio.value, self.advantage.value, self._eps())

    def figure(self) -> Figure:
        """Draw the objective and its gradient over ρ at the chosen A, and the gradient over all ρ and A."""
        figure, (curves, whole) = canvas(3.2, widths=(2, 1.25))
        kind, ratio, advantage, state = self.kind.value, self.ratio.value, self.advantage.value, self.state()
        bounds = [1 - self.eps_low.value, 1 + self.eps_high.value][kind == "cispo" :]
        ratios = torch.cat([RATIOS, torch.tensor(bounds)]).sort().values  # a corner lies on a bound
        objective = [one_token(kind, x, advantage, self._eps())["objective"] for x in ratios.tolist()]
        slopes = gradients(kind, FINE, torch.full_like(FINE, advantage), self._eps())
        unclipped = {"ρ A": (RATIOS, clipped_gain(RATIOS, torch.tensor(advantage), 0.0, torch.inf))}
        lines(
            {
                "objective J": (unclipped if kind == "grpo" else {})
                | {"": (ratios, objective), "this token": ([ratio], [state["objective"]])},
                "gradient dJ / d log π": {"": (FINE, slopes), "this token": ([ratio], [state["gradient"]])},
            },
            at={"bounds": bounds}, style={"ρ A": ":", "this token": HERE}, xlabel="ρ", on=curves,
            colours={"": INK, "ρ A": QUIET, "this token": VERMILION}, xlim=(0, 2.05), ylim=(-4.3, 4.3),
        )  # fmt: skip
        shade = BLUE if advantage > 0 else ORANGE
        curves.axes[1].fill_between(FINE.numpy(), slopes.numpy(), color=shade, alpha=0.25, linewidth=0)
        self._draw_map(whole)
        return figure

    def words(self) -> str:
        """Describe the quadrant, the active branch, the value and the gradient."""
        ratio, advantage, state = self.ratio.value, self.advantage.value, self.state()
        numbers = f"objective {signed(state['objective'])}, gradient with respect to log π {signed(state['gradient'])}"
        what, does = QUADRANTS[advantage > 0, ratio > 1]
        if ratio == 1 or advantage == 0:
            what, does = "A = 0: this token" if advantage == 0 else "At the first update (ρ = 1) a token", ""
            does = "gets no gradient" if advantage == 0 else "gets the gradient A, whatever the objective reads"
        if self.kind.value == "cispo":
            does = "keeps its gradient: ρ is only a weight, capped at 1 + ε_high"
        head = f"ρ = {ratio:.2f}, A = {signed(advantage)}: {numbers}"
        return f"{head}<br>branch: <b>{self.branch()}</b>. {what[0].upper()}{what[1:]} {does}."

    def branch(self) -> str:
        """Return which side of the minimum is active at the values of the sliders."""
        ratio, inside = self.ratio.value, 1 - self.eps_low.value <= self.ratio.value <= 1 + self.eps_high.value
        if self.kind.value == "cispo":
            return "weight capped" if ratio > 1 + self.eps_high.value else "weight ρ"
        if self.state()["clipped"]:
            return "clip(ρ) A, gradient 0"
        return "both agree" if inside else "ρ A"

    def _eps(self) -> Bounds:
        return self.eps_low.value, self.eps_high.value

    def _draw_map(self, part: SubFigure) -> None:
        here = {"this token": ([self.ratio.value], [self.advantage.value])}
        lines(
            {"gradient for every ρ and A": here}, style={"this token": HERE}, colours={"this token": VERMILION},
            across={"": 0}, xlabel="ρ", ylabel="A", xlim=(0, 2), ylim=(-2.05, 2.05), on=part,
        )  # fmt: skip
        (axes,) = part.axes
        axes.grid(False)
        advantage, ratio = torch.meshgrid(ADVANTAGES, FINE, indexing="ij")
        slopes = gradients(self.kind.value, ratio.flatten(), advantage.flatten(), self._eps()).view_as(ratio)
        axes.set_facecolor(DEAD)
        shown = np.ma.masked_equal(slopes.numpy(), 0)
        axes.imshow(shown, cmap=PUSH, vmin=-2.5, vmax=2.5, extent=(0, 2, -2, 2), origin="lower", aspect="auto")
        on, down = ("stop", "stop") if shown.mask.any() else ("push on", "push down")
        names = {(0.4, 1.55): "good,\nrarer:\npull up", (1.6, 1.55): f"good,\nlikelier:\n{on}"}
        names |= {(0.4, -1.55): f"bad,\nrarer:\n{down}", (1.6, -1.55): "bad,\nlikelier:\npush down"}
        for (x, y), name in names.items():
            axes.text(x, y, name, ha="center", va="center", fontsize=8.5, color=INK, fontweight="bold")


def _loss(kind: str, ratios: Tensor, advantages: Tensor, eps: Bounds) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return log π of the tokens, (K, 1), the loss and its metrics.

    The loss is summed over the rows (no mean), so that the gradient of a row does not depend on the number of rows.
    """
    logprobs = (ratios.log() + np.log(OLD))[:, None].requires_grad_()
    old, mask = torch.full_like(logprobs, np.log(OLD)), torch.ones_like(logprobs, dtype=torch.bool)
    limits = {"clip_eps": eps[0], "clip_eps_high": eps[1], "step_rows": 1, "step_tokens": 1}
    return logprobs, *policy_loss(kind, logprobs, old, None, advantages, mask, **limits)
