"""The optimiser's part of a step: the rate, the gradients' norm, an overflow of float16, the cause of a NaN."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from bitsandbytes.optim import AdamW8bit

from minirft import UserError
from minirft.engine import round_at_random
from minirft.policy import Policy
from minirft.runs.config import GRPOConfig
from minirft.samples import Rollout

Share = TypeVar("Share")


def make_optimiser(policy: Policy, config: GRPOConfig) -> torch.optim.Optimizer:
    """AdamW over what learns, its moments in 32 or 8 bits; the rate is set at every step.

    Adapters in bfloat16 are rounded at random (`precision.round_at_random`).  Raises `UserError` for a whole model
    of 16 bits: its 8 or 11 significant bits swallow steps of a usual size.
    """
    half = [name for name, weight in policy.trainable().items() if weight.dtype in (torch.bfloat16, torch.float16)]
    if half and not policy.has_lora:
        raise UserError(
            f"{len(half)} weights that learn have 16 bits, first {half[0]}: steps of {config.learning_rate:g} would "
            f'round to nothing; set dtype = "float32", or train = "lora", whose adapters have 32 bits'
        )
    if config.optimiser == "adamw8bit":
        _check_8_bit_runs(policy.device)
    kind = AdamW8bit if config.optimiser == "adamw8bit" else torch.optim.AdamW
    optimiser = kind(policy.trainable().values(), lr=0.0, weight_decay=config.weight_decay)
    round_at_random(optimiser, config.seed)
    return optimiser


def _check_8_bit_runs(device: torch.device) -> None:
    """Not every bitsandbytes has 8-bit optimisers for every device: one step on zeros tells, before a rollout does."""
    weight = torch.nn.Parameter(torch.zeros(4096, device=device))
    weight.grad = torch.zeros_like(weight)
    try:
        AdamW8bit([weight]).step()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"this bitsandbytes has no 8-bit AdamW on {device} ({reason}): upgrade it, or set optimiser = adamw"
        ) from None


def learning_rate(step: int, steps: int, peak: float, schedule: str, warmup: int) -> float:
    """The rate of step 1..steps: a rise over `warmup` steps, then constant or a straight fall towards 0.

    >>> [learning_rate(step, 4, 1.0, "linear", 0) for step in (1, 2, 3, 4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if step <= warmup:
        return peak * step / warmup
    return peak if schedule == "constant" else peak * (steps - step + 1) / (steps - warmup)


def update(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    rate: float,
    max_norm: float,
    backward: Callable[[list[int]], Share],
    passes: list[list[int]],
) -> tuple[list[Share], float]:
    """Adds gradients by `backward(rows)` for each of `passes`, then does `apply_gradients`; returns what these return.

    A gradient that overflowed float16 is taken again at half the loss scale, and that is said: the rollout behind it
    cost far more than a backward pass.  Raises `FloatingPointError` when the scale is not to blame.
    """
    scale = policy.loss_scale
    while True:
        shares = [backward(rows) for rows in passes]
        scale.remove_from(policy.trainable().values())
        try:
            norm = apply_gradients(policy, optimiser, rate, max_norm)
        except FloatingPointError:
            if not scale.halve():
                raise
            policy.model.zero_grad()
            print(f"minirft: a float16 gradient overflowed; again with loss scale {scale.value:g}", file=sys.stderr)
        else:
            scale.worked()
            return shares, norm


def apply_gradients(policy: Policy, optimiser: torch.optim.Optimizer, rate: float, max_norm: float) -> float:
    """One optimiser step on the gradients at hand, scaled to `max_norm`; returns their norm before that.

    Raises `FloatingPointError`, with the weights as they were, when the norm is not finite.
    """
    weights = [weight for weight in policy.trainable().values() if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
    if not norm.isfinite():
        raise FloatingPointError(f"gradient norm is {norm.item()}")
    torch.nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm.item()


def not_finite(step: int, culprit: str) -> str:
    """What a run that stops because a number overflowed says."""
    return (
        f"step {step}: {culprit}; nothing was saved and earlier checkpoints are intact: "
        f"lower learning_rate, or look at that sample"
    )


def blame(policy: Policy, rollout: Rollout, rows: list[int], backward: Callable[[list[int]], object]) -> str:
    """Which tensor and which sample are to blame for a gradient that is not finite: each prompt's is taken again."""
    for name, weight in policy.trainable().items():
        if not weight.isfinite().all():
            return f"the weight {name} is not finite"
    for p, sample in enumerate(rollout.samples):
        policy.model.zero_grad()
        backward([b for b in rows if b // rollout.group_size == p])
        for name, weight in policy.trainable().items():
            if weight.grad is not None and not weight.grad.isfinite().all():
                return f"the gradient of {name} is not finite, first for sample {sample.id}"
    return "the sum of all gradients is not finite, though each prompt's is"
