"""Advantages compare the rewards in a group.

The baseline is the group's mean, so an advantage measures how much better a completion is than the others of its
group.  If all rewards of a group are equal, it gives no comparison: it is called degenerate, and its advantages are
exactly 0.

Deviation: the papers do not define their std; ours is the sample std (ddof 1) plus 1e-4, as in TRL and in
Visual-RFT's released code.  With G = 4 and rewards 1, 1, 0, 0 this gives ±0.866, and ddof 0 gives ±1.
"""

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["std", "mean", "batch", "none"]


def group_advantages(rewards: Tensor, scale: Scale = "std", ddof: int = 1, eps: float = 1e-4) -> Tensor:
    """Compute how much better each completion is than its group.

        std     A = (r - mean_group) / (std_group + eps)     GRPO, arXiv 2402.03300 §4.1.2; Visual-RFT eq. 4
        mean    A =  r - mean_group                          Dr. GRPO, arXiv 2503.20783 §3.2
        batch   A = (r - mean_group) / (std_batch + eps)     std over all P * G rewards; TRL `scale_rewards="batch"`
        none    A =  r                                       REINFORCE without a baseline

    `rewards` and the result have shape (P, G).  `ddof` (1: divide by G - 1) and `eps` default to those of TRL
    and Visual-RFT.  With graded rewards `eps` matters: rewards .7001, .7000, .7000, .6999 give 1.22 at eps
    1e-8, 0.55 at 1e-4, 0.01 at 1e-2.  Degenerate groups get 0, except with "none".
    Raises `ValueError` on NaN, another shape, or G < 2 (except "none").

    >>> group_advantages(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.3, 0.3, 0.3, 0.3]]), scale="mean").tolist()
    [[0.5, 0.5, -0.5, -0.5], [0.0, 0.0, 0.0, 0.0]]
    """
    check_rewards(rewards, "rewards", dimensions=2, smallest_group=1 if scale == "none" else 2)
    if scale == "none":
        return rewards
    centred = rewards - rewards.mean(-1, keepdim=True)
    if scale == "mean":
        advantages = centred
    elif scale == "std":
        advantages = centred / (rewards.std(-1, correction=ddof, keepdim=True) + eps)
    elif scale == "batch":
        advantages = centred / (rewards.std(correction=ddof) + eps)
    else:
        raise ValueError(f"scale must be 'std', 'mean', 'batch' or 'none', got {scale!r}")
    return advantages.masked_fill(degenerate_groups(rewards)[:, None], 0.0)


def sound_advantages(rewards: Tensor, scale: Scale = "std", eps: float = 1e-4) -> Tensor:
    """Compute `group_advantages` of the groups whose rewards are all finite; 0 for a group with a failed reward.

    A group with a failed reward (NaN) has no baseline.  `rewards` and the result have shape (P, G).

    >>> sound_advantages(torch.tensor([[1.0, 0.0], [1.0, torch.nan]]), "mean").tolist()
    [[0.5, -0.5], [0.0, 0.0]]
    """
    sound = rewards.isfinite().all(-1)  # (P,)
    if sound.all():
        return group_advantages(rewards, scale, eps=eps)
    advantages = torch.zeros_like(rewards)
    if sound.any():
        advantages[sound] = group_advantages(rewards[sound], scale, eps=eps)
    return advantages


def degenerate_groups(rewards: Tensor, tol: float = 1e-6) -> Tensor:
    """Find the groups whose rewards are all equal: (P, G) -> (P,) bool.

        max_g r - min_g r <= tol

    `tol` is in units of reward; it allows for the rounding of a weighted sum in float32.

    >>> degenerate_groups(torch.tensor([[0.0, 1.0], [0.5, 0.5]])).tolist()
    [False, True]
    """
    return rewards.amax(-1) - rewards.amin(-1) <= tol


def check_rewards(rewards: Tensor, name: str, dimensions: int, smallest_group: int) -> None:
    """Check rewards: raise `ValueError` for another shape, a group too small, or numbers that are not finite."""
    if rewards.dim() != dimensions or not rewards.is_floating_point():
        shape = "(P, G)" if dimensions == 2 else "(K, P, G)"
        raise ValueError(f"{name} must be floating point of shape {shape}, got {rewards.dtype} {tuple(rewards.shape)}")
    if rewards.shape[-1] < smallest_group:
        raise ValueError(
            f"a group of {rewards.shape[-1]} has no baseline: {name} {tuple(rewards.shape)} need at least two "
            "completions per prompt, or scale='none'"
        )
    if not rewards.isfinite().all():
        at = tuple((~rewards.isfinite()).nonzero()[0].tolist())
        raise ValueError(f"{name}{list(at)} is {rewards[at].item()}; rewards must be finite")
