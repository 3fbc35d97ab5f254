"""Advantages from several reward parts, for an exercise in notebook 03; training uses the weighted sum of the parts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from minirft.advantages import Scale, check_rewards, group_advantages


def combine(
    parts: Tensor,
    weights: Tensor,
    order: Literal["sum_then_normalise", "normalise_then_sum"] = "sum_then_normalise",
    scale: Scale = "std",
    ddof: int = 1,
    eps: float = 1e-4,
) -> Tensor:
    """Compute advantages from K reward parts.

        sum_then_normalise    A = group_advantages(Σₖ wₖ rₖ, scale)
        normalise_then_sum    s = Σₖ wₖ (rₖ - mean_group rₖ) / (std_group rₖ + eps)
                              A = s / (std_batch s + eps)                            GDPO, arXiv 2601.05242

    With the first, the reward part that varies most dominates.  With the second, each part influences the advantage
    in proportion to its weight, and `scale` is ignored.  (GDPO also subtracts the batch mean of s, which is 0.)
    `parts` is (K, P, G), `weights` (K,), the result (P, G).  In the second, a group is degenerate if all its
    parts are degenerate.  Raises `ValueError` as `group_advantages` does.

    >>> parts = torch.tensor([[[1.0, 0.0, 1.0, 0.0]], [[0.1, 0.1, 0.0, 0.0]]])  # the second part has a small spread
    >>> combine(parts, torch.ones(2))
    tensor([[ 0.9477, -0.7754,  0.7754, -0.9477]])
    >>> combine(parts, torch.ones(2), "normalise_then_sum").round(decimals=2)
    tensor([[ 1.2200, -0.0000,  0.0000, -1.2200]])
    """
    check_rewards(parts, "parts", dimensions=3, smallest_group=1)
    if weights.shape != parts.shape[:1]:
        raise ValueError(f"{len(parts)} reward parts need weights of shape ({len(parts)},), got {tuple(weights.shape)}")
    weights = weights.to(parts).view(-1, 1, 1)
    if order == "sum_then_normalise":
        return group_advantages((weights * parts).sum(0), scale, ddof, eps)
    if order != "normalise_then_sum":
        raise ValueError(f"order must be 'sum_then_normalise' or 'normalise_then_sum', got {order!r}")
    normalised = torch.stack([group_advantages(part, "std", ddof, eps) for part in parts])
    summed = (weights * normalised).sum(0)
    return summed / (summed.std(correction=ddof) + eps)
