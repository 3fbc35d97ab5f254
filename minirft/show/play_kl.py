"""The KL explorer: a policy and a reference over a few tokens, with the estimators k1, k2 and k3.

With few tokens every expectation is a sum, so nothing is sampled.  The value and the gradient (by autograd) of an
estimator are exact, and are compared with those of the true divergence.
"""

from typing import get_args

import ipywidgets
import torch
from matplotlib.figure import Figure, SubFigure
from torch import Tensor
from torch.nn.functional import kl_div

from minirft.loss import Estimator, kl_estimate
from minirft.show.play import Playground, buttons, canvas, table, upright
from minirft.show.plots import bars, lines
from minirft.show.style import BLUE, GREEN, INK, ORANGE, QUIET, SKY, signed

KINDS: tuple[Estimator, ...] = get_args(Estimator)
COLOURS = dict(zip(KINDS, (ORANGE, GREEN, BLUE), strict=True))
POLICY = {"cat": 1.4, "dog": 0.4, "bird": -0.4, "fish": -1.4}  # the logits at the start


class KLExplorer(Playground):
    """This widget has sliders for the policy's logits, and compares each estimator's value and gradient with the truth.

    >>> play = KLExplorer()
    >>> bool(torch.isclose(play.expectation("k1"), play.divergence())), play.direction("k1"), play.direction("k3")
    (True, '0', '∇KL(ref ‖ π)')
    """

    def __init__(self) -> None:
        start = torch.tensor([*POLICY.values()], dtype=torch.float64)
        self.references = {
            "uniform": torch.zeros_like(start),
            "the last token is likely": torch.tensor([0, 0, 0, 2.0], dtype=torch.float64),
            "close to the first policy": (0.8 * start).round(decimals=2),
        }
        self.logits = [upright(token, value, -4, 4) for token, value in POLICY.items()]
        self.reference = ipywidgets.Dropdown(options=list(self.references), description="reference π_ref")
        self.reference.style.description_width = "110px"
        resets = {
            "policy = reference": lambda: self.move(self.logits, self.references[self.reference.value].tolist()),
            "as it began": lambda: self.move(self.logits, POLICY.values()),
        }
        side = ipywidgets.VBox([self.reference, ipywidgets.HBox(buttons(resets))])
        controls = [ipywidgets.Label("logits of the policy π"), *self.logits, side]
        super().__init__([controls], [*self.logits, self.reference])

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
        figure, parts = canvas(5.4, (1, 1.15), (1, 1))
        true, of_kind = "true ∇KL(π ‖ ref)", {kind: self.gradient(kind) for kind in KINDS}
        distributions = {"policy π": self.policy().softmax(-1), "reference π_ref": self.ref_logprobs().exp()}
        gradients = {true: self.true_gradients()["∇KL(π ‖ ref)"], **of_kind}
        means = {f"{kind}: {(mean := self.expectation(kind).item()):.3f}": mean for kind in KINDS}
        kl = self.divergence().item()
        high = max(0.5, 1.3 * max(kl, *means.values()))
        far = max(0.3, 1.2 * max(values.abs().max().item() for values in gradients.values()))
        bars({"policy and reference": distributions}, [*POLICY], colours={"policy π": SKY, "reference π_ref": QUIET},
             ylabel="probability", ylim=(0, 1.1), on=parts[0])  # fmt: skip
        self._draw_estimators(parts[1])
        inks = dict(zip(means, COLOURS.values(), strict=True))
        bars({"mean over tokens that π samples": means}, across={f"true KL: {kl:.3f}": kl}, form="", colours=inks,
             ylabel="nats", ylim=(0, high), on=parts[2])  # fmt: skip
        bars({"expected gradient of each, as a loss": gradients}, [*POLICY], colours=COLOURS | {true: INK},
             ylabel="∂ / ∂ logit", ylim=(-far, far), on=parts[3])  # fmt: skip
        for row in parts[3].axes[0].containers:  # a dot is a bar of height 0
            flat = [bar.get_center()[0] for bar in row if abs(bar.get_height()) < 1e-9]
            parts[3].axes[0].plot(flat, [0] * len(flat), "o", color=row[0].get_facecolor(), markersize=5)
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

    def _draw_estimators(self, part: SubFigure) -> None:
        logprobs = self.policy().detach().log_softmax(-1)
        ratio = logprobs - self.ref_logprobs()
        reach = max(3.2, 1.1 * ratio.abs().max().item())
        line, zero = torch.linspace(-reach, reach, 161, dtype=torch.float64), torch.zeros(161, dtype=torch.float64)
        curves = {kind: (line, kl_estimate(line, zero, kind)) for kind in KINDS}
        points = {f"_{kind}": (ratio, kl_estimate(logprobs, self.ref_logprobs(), kind)) for kind in KINDS}
        places = {token: (x, -3.6 - 0.9 * i) for i, (token, x) in enumerate(zip(POLICY, ratio.tolist(), strict=True))}
        lines(
            {"value of each estimator at one token": curves | points}, at={"_tokens": ratio}, notes=places, on=part,
            style=dict.fromkeys(points, "o"), colours=COLOURS | {f"_{kind}": COLOURS[kind] for kind in KINDS},
            xlabel="l = log π − log π_ref, in nats", xlim=(-reach, reach), ylim=(-3.4 - 0.9 * len(places), 5),
        )  # fmt: skip
