"""Numbers of 16 bits: what they lose, and how each loss is met.

Half the bits, half the memory and more speed; but bfloat16 has 8 significant bits, and float16 nothing below 6e-8.

    activations   stay in 16 bits through the adapters too (see `layers`)
    weights       of 32 bits where there is room.  An adapter kept in bfloat16 is rounded up or down at random:
                  a step of 1e-5 on a weight of 0.02, a twelfth of the way to the next number, is taken once in twelve
    gradients     of a float16 loss are those of a multiple of the loss, so that the small ones do not become 0
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# ------------------------------------------------------------------ weights of 16 bits


def stochastic_round(x: Tensor, generator: torch.Generator) -> Tensor:
    """float32 -> bfloat16, to the number above or below at random, with mean x; exact where x is a bfloat16.

    A bfloat16 is the upper half of a float32's bits: adding a random lower half before cutting it off carries into
    the upper one with the probability that is left.

    >>> x = torch.full((4000,), 1 + 2**-9)  # a quarter of the way from 1 to 1 + 2**-7
    >>> rounded = stochastic_round(x, torch.Generator().manual_seed(0)).float()
    >>> rounded.unique().tolist(), bool((rounded.mean() - x[0]).abs() < 3e-4)
    ([1.0, 1.0078125], True)
    """
    bits = x.view(torch.int32)
    noise = torch.randint(0, 2**16, bits.shape, dtype=torch.int32, device=x.device, generator=generator)
    return ((bits + noise) & -(2**16)).view(torch.float32).bfloat16()


def round_at_random(optimiser: torch.optim.Optimizer, seed: int) -> None:
    """From now on the optimiser steps its bfloat16 weights in float32 and rounds them at random.

    Its moments are float32 too: in bfloat16 a second moment never falls, since 0.999 of it rounds to itself.  The
    noise is a function of (seed, optimiser step), so a resumed run draws the same.
    """
    weights = [w for group in optimiser.param_groups for w in group["params"] if w.dtype == torch.bfloat16]

    def widen(*_: Any) -> None:
        for weight in weights:
            grad, weight.grad = weight.grad, None
            weight.data = weight.data.float()
            weight.grad = None if grad is None else grad.float()

    def narrow(*_: Any) -> None:
        steps = max((int(state["step"]) for state in optimiser.state.values()), default=0)
        stream = int(np.random.SeedSequence([seed, steps]).generate_state(1, np.uint64)[0] >> 1)
        for weight in weights:
            generator = torch.Generator(weight.device).manual_seed(stream)
            stream += 1
            weight.grad = None
            weight.data = stochastic_round(weight.data, generator)

    if weights:
        optimiser.register_step_pre_hook(widen)
        optimiser.register_step_post_hook(narrow)
        # Loading casts the moments to the format of their weight.
        optimiser.register_load_state_dict_pre_hook(widen)
        optimiser.register_load_state_dict_post_hook(narrow)


# ------------------------------------------------------------------ gradients of a float16 loss


@dataclass
class LossScale:
    """What a loss is multiplied by before `backward`, and its gradient divided by after: a power of 2, so both exact.

    1 and fixed unless the model computes in float16.  There the gradient of a logit, at most 1 / tokens, would often
    be below the smallest float16, 6e-8, and vanish.  The scale starts at 65,536 as torch's `GradScaler` does; an
    overflow halves it, `GROWTH` updates without one double it.

    >>> scale = LossScale(65536.0)
    >>> scale.halve(), scale.value
    (True, 32768.0)
    >>> LossScale().halve()
    False
    """

    value: float = 1.0
    updates: int = 0  # without overflow, since the last change

    GROWTH = 200

    @classmethod
    def of(cls, dtype: torch.dtype) -> LossScale:
        """The scale that a model of this number format starts with."""
        return cls(2.0**16 if dtype == torch.float16 else 1.0)

    def remove_from(self, weights: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the scale."""
        for weight in weights:
            if weight.grad is not None and self.value != 1:
                weight.grad /= self.value

    def halve(self) -> bool:
        """After an overflow: a smaller scale; False where there is none, and the gradient itself is to blame."""
        if self.value <= 1:
            return False
        self.value, self.updates = self.value / 2, 0
        return True

    def worked(self) -> None:
        """After an update whose gradient was finite."""
        if self.value > 1:
            self.updates += 1
            if self.updates == self.GROWTH:
                self.value, self.updates = self.value * 2, 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint; `LossScale(**state)` goes on from it."""
        return asdict(self)
