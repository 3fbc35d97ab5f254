"""The KL explorer: a policy and a reference over a few tokens, with the estimators k1, k2 and k3.

With few tokens every expectation is a sum, so nothing is sampled.  The value and the gradient (by autograd) of an
estimator are exact, and are compared with those of the true divergence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import kl_div

from minirft.loss import Estimator, kl_estimate
from minirft.show.play import Playground, canvas, plot_axes, table
from minirft.show.plots import draw_bars
from minirft.show.style import BLUE, GREEN, INK, ORANGE, QUIET, SKY, signed

KINDS: tuple[Estimator, ...] = get_args(Estimator)
COLOURS = dict(zip(KINDS, (ORANGE, GREEN, BLUE), strict=True))
TOKENS = ("cat", "dog", "bird", "fish")
POLICY = (1.4, 0.4, -0.4, -1.4)


class KLExplorer(Playground):
    """This widget has sliders for the policy's logits, and compares each estimator's value and gradient with the truth.

    `policy` holds one logit for each of `tokens`, 2 to 6 of them.

    >>> play = KLExplorer()
    >>> bool(torch.isclose(play.expectation("k1"), play.divergence())), play.direction("k1"), play.direction("k3")
    (True, '0', '∇KL(ref ‖ π)')
    """

    def __init__(self, policy: Sequence[float] = POLICY, tokens: Sequence[str] = TOKENS) -> None:
        self.tokens = list(tokens)
        count = len(self.tokens)
        if len(policy) != count or not 2 <= count <= 6:
            raise ValueError(f"one logit for each of 2 to 6 tokens, got {len(policy)} and {count}")
        self.references = {
            "uniform": torch.zeros(count, dtype=torch.float64),
            "the last token is likely": 2.0 * torch.eye(count, dtype=torch.float64)[-1],
            "close to the first policy": (0.8 * torch.tensor(policy, dtype=torch.float64)).round(decimals=2),
        }
        self.logits = [
            ipywidgets.FloatSlider(
                value, min=-4, max=4, step=0.01, orientation="vertical", description=token,
                layout={"width": "72px", "height": "150px"},
            )
            for value, token in zip(np.round(policy, 2), self.tokens, strict=True)
        ]  # fmt: skip
        self.reference = ipywidgets.Dropdown(options=list(self.references), description="reference π_ref")
        self.reference.style.description_width = "110px"
        self.same, self.again = (
            ipywidgets.Button(description=words, layout={"width": "auto"})
            for words in ("policy = reference", "as it began")
        )
        self.same.on_click(lambda _: self.set_logits(self.references[self.reference.value].tolist()))
        self.again.on_click(lambda _: self.set_logits(policy))
        side = ipywidgets.VBox([self.reference, ipywidgets.HBox([self.same, self.again])])
        super().__init__([ipywidgets.HBox([ipywidgets.Label("logits of the policy π"), *self.logits, side])])
        self.watch(*self.logits, self.reference)

    def set_logits(self, values: Sequence[float]) -> None:
        """Set all sliders of the policy at once, rounded to hundredths, the step of the sliders."""
        with self.at_once():
            for slider, value in zip(self.logits, values, strict=True):
                slider.value = round(float(value), 2)

    def policy(self) -> Tensor:
        """Return the policy's logits as a leaf tensor: (V,), float64."""
        return torch.tensor([slider.value for slider in self.logits], dtype=torch.float64, requires_grad=True)

    def ref_logprobs(self) -> Tensor:
        """Return log π_ref, (V,)."""
        return self.references[self.reference.value].log_softmax(-1)

    def divergence(self) -> Tensor:
        """Compute KL(π ‖ π_ref) in nats, with torch's function."""
        return self._divergence(self.policy()).detach()

    def expectation(self, kind: Estimator) -> Tensor:
        """Compute the expected value of an estimator: Σ π k, over the tokens."""
        logprobs = self.policy().detach().log_softmax(-1)
        return (logprobs.exp() * kl_estimate(logprobs, self.ref_logprobs(), kind)).sum()

    def gradient(self, kind: Estimator) -> Tensor:
        """Compute the expected gradient of an estimator as a loss on samples of π, with respect to the logits: (V,).

        Σ sg[π] ∇k        the sampling has no gradient, as in training
        """
        leaf = self.policy()
        logprobs = leaf.log_softmax(-1)
        expected = (logprobs.exp().detach() * kl_estimate(logprobs, self.ref_logprobs(), kind)).sum()
        return torch.autograd.grad(expected, leaf)[0]

    def true_gradients(self) -> dict[str, Tensor]:
        """Return 0, ∇KL(π ‖ ref) and ∇KL(ref ‖ π) with respect to the logits, each (V,), by name."""
        leaf, reference = self.policy(), self.ref_logprobs()
        back = kl_div(leaf.log_softmax(-1), reference, log_target=True, reduction="sum")
        return {
            "0": torch.zeros_like(reference),
            "∇KL(π ‖ ref)": torch.autograd.grad(self._divergence(leaf), leaf)[0],
            "∇KL(ref ‖ π)": torch.autograd.grad(back, leaf)[0],
        }

    def direction(self, kind: Estimator) -> str:
        """Return the name of the one of `true_gradients` that equals the gradient of an estimator.

        If π equals the reference, all of them are 0.
        """
        mine = self.gradient(kind)
        found = [name for name, true in self.true_gradients().items() if torch.allclose(mine, true, atol=1e-9)]
        return "0, as all are" if len(found) > 1 else "".join(found) or "none of them"

    def figure(self) -> Figure:
        """Draw both distributions, the estimators on each token, their means, and their gradients."""
        figure, axes = canvas(5.0, (1, 1.15), (1, 1), left=0.075, top=0.94, bottom=0.07, wspace=0.2, hspace=0.42)
        self._draw_distributions(axes[0])
        self._draw_estimators(axes[1])
        self._draw_means(axes[2])
        self._draw_gradients(axes[3])
        return figure

    def words(self) -> str:
        """Write a table of the estimators: the mean, its difference from the true divergence, and the gradient."""
        true = self.divergence().item()
        rows = []
        for kind in KINDS:
            mean = self.expectation(kind).item()
            rows.append([kind, f"{mean:.3f}", signed(mean - true, 3), self.direction(kind)])
        head = ["estimator", "mean", "mean − true KL", "expected gradient as a loss"]
        return f"true KL(π ‖ π_ref) = {true:.3f} nats{table(head, rows)}"

    def _divergence(self, logits: Tensor) -> Tensor:
        return kl_div(self.ref_logprobs(), logits.log_softmax(-1), log_target=True, reduction="sum")

    def _draw_distributions(self, axes: Axes) -> None:
        plot_axes(axes, "policy and reference", y="probability")
        groups = {
            "policy π": (self.policy().detach().softmax(-1), SKY),
            "reference π_ref": (self.ref_logprobs().exp(), QUIET),
        }
        _groups(axes, self.tokens, groups)
        axes.set_ylim(0, 1.1)
        axes.legend(frameon=False, fontsize=8, loc="upper right", labelcolor=INK)

    def _draw_estimators(self, axes: Axes) -> None:
        plot_axes(axes, "value of each estimator at one token", "l = log π − log π_ref, in nats")
        logprobs = self.policy().detach().log_softmax(-1)
        ratio, size = (logprobs - self.ref_logprobs()).tolist(), (20 + 160 * logprobs.exp()).tolist()
        reach = max(3.2, 1.1 * max(map(abs, ratio)))
        line = torch.linspace(-reach, reach, 161, dtype=torch.float64)
        for kind, colour in COLOURS.items():
            axes.plot(line.numpy(), kl_estimate(line, torch.zeros_like(line), kind).numpy(), color=colour, linewidth=2)
            values = kl_estimate(logprobs, self.ref_logprobs(), kind).tolist()
            axes.scatter(ratio, values, s=size, color=colour, edgecolor="white", zorder=3, label=kind)
        axes.vlines(ratio, -2.7, 5, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        for place, names in _near(ratio, self.tokens, 0.2 * reach).items():
            axes.text(place, -3.3, names, ha="center", va="bottom", fontsize=8.5, color=INK)
        axes.set(xlim=(-reach, reach), ylim=(-3.4, 5))
        axes.legend(frameon=False, fontsize=8, loc="upper center", labelcolor=INK, ncols=3)

    def _draw_means(self, axes: Axes) -> None:
        plot_axes(axes, "mean over tokens that π samples", y="nats")
        means = [self.expectation(kind).item() for kind in KINDS]
        true = self.divergence().item()
        axes.bar(range(len(KINDS)), means, width=0.6, color=list(COLOURS.values()))
        named = [f"{kind}: {mean:.3f}" for kind, mean in zip(KINDS, means, strict=True)]
        axes.set_xticks(range(len(KINDS)), named, fontsize=9)
        axes.axhline(true, color=INK, linewidth=1.4, linestyle=(0, (4, 3)), label=f"true KL: {true:.3f}")
        axes.set_ylim(0, max(0.5, 1.3 * max(*means, true)))
        axes.legend(frameon=False, fontsize=8, loc="upper left", labelcolor=INK)

    def _draw_gradients(self, axes: Axes) -> None:
        plot_axes(axes, "expected gradient of each, as a loss", y="∂ / ∂ logit")
        groups = {"true ∇KL(π ‖ ref)": (self.true_gradients()["∇KL(π ‖ ref)"], INK)}
        groups |= {kind: (self.gradient(kind), COLOURS[kind]) for kind in KINDS}
        _groups(axes, self.tokens, groups)
        axes.axhline(0, color=QUIET, linewidth=1)
        limit = max(0.3, 1.45 * max(values.abs().max().item() for values, _ in groups.values()))
        axes.set_ylim(-limit, limit)
        axes.legend(frameon=False, fontsize=8, loc="upper right", labelcolor=INK, ncols=2)


def _near(places: Sequence[float], names: Sequence[str], gap: float) -> dict[float, str]:
    """Join the names whose places are closer than `gap` into one label, at their middle.

    >>> _near([0.0, 1.0, 0.25], ["a", "b", "c"], gap=0.3)
    {0.125: 'a, c', 1.0: 'b'}
    """
    clusters: list[list[tuple[float, str]]] = []
    for place, name in sorted(zip(places, names, strict=True)):
        if clusters and place - clusters[-1][-1][0] < gap:
            clusters[-1].append((place, name))
        else:
            clusters.append([(place, name)])
    return {(c[0][0] + c[-1][0]) / 2: ", ".join(name for _, name in c) for c in clusters}


def _groups(axes: Axes, tokens: Sequence[str], groups: dict[str, tuple[Tensor, str]]) -> None:
    """Draw bars side by side for each token; a dot marks a bar of height 0."""
    draw_bars(
        axes, {name: x for name, (x, _) in groups.items()}, tokens, {name: ink for name, (_, ink) in groups.items()}
    )
    for bars in axes.containers:
        flat = [bar.get_center()[0] for bar in bars if abs(bar.get_height()) < 1e-9]
        axes.plot(flat, [0] * len(flat), "o", color=bars[0].get_facecolor(), markersize=5, zorder=3)
