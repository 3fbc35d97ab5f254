"""The reference is the policy as it was before training; the KL term keeps the policy near it.

With LoRA it is the same model with its adapters switched off, and costs no memory.  A full-parameter run keeps a
frozen copy.  With kl_coef = 0 there is no reference.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from minirft.engine import passes
from minirft.policy import Policy
from minirft.samples import Rollout


@dataclass(frozen=True)
class Reference:
    """A reference is a frozen policy that only computes log-probabilities.

    With `adapters_off` it shares every weight with the policy that learns.
    """

    policy: Policy
    adapters_off: bool

    @torch.no_grad()
    def logprobs(
        self,
        rollout: Rollout,
        rows: Sequence[int] | None = None,
        *,
        shared: bool | None = None,
        rows_per_pass: int | None = None,
    ) -> Tensor:
        """Compute log π_ref of the sampled tokens, `rows_per_pass` rows at a time.

        The result is (rows, T) float32, 0 on padding, without gradient.
        """
        with self.policy.without_adapters() if self.adapters_off else nullcontext():
            parts = passes(rollout, rows_per_pass, rows)
            return torch.cat([self.policy.logprobs(rollout, part, shared=shared) for part in parts])


def make_reference(policy: Policy, kl_coef: float) -> Reference | None:
    """Make the reference of a run that starts from `policy` as it is now; None when kl_coef is 0.

    A frozen vision tower and its cached features are shared with the policy, not copied.
    """
    if kl_coef == 0:
        return None
    if policy.has_lora:
        return Reference(policy, adapters_off=True)
    tower = policy.core.model.visual
    kept = {} if policy.trains_vision else {id(tower): tower}
    frozen = copy.copy(policy)
    frozen.model = copy.deepcopy(policy.model, kept).requires_grad_(False)
    return Reference(frozen, adapters_off=False)
