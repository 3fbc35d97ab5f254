"""This module holds the parts of a step besides its loss: the optimiser, the cause of a NaN, the row of the log."""

import math
import sys
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from minirft import UserError, as_user_error
from minirft.advantages import degenerate_groups
from minirft.engine import need_bitsandbytes
from minirft.policy import Policy
from minirft.rewards import Score
from minirft.runs.config import GRPOConfig
from minirft.samples import Rollout

Row = dict[str, Any]


def make_optimiser(policy: Policy, config: GRPOConfig) -> torch.optim.Optimizer:
    """Return AdamW over the trainable weights, with moments in 32 or 8 bits; the rate is set at every step.

    Raises `UserError` if a whole model of 16 bits is to be trained: steps of a usual size are smaller than the rounding
    error of its 8 or 11 significant bits.
    """
    half = [name for name, weight in policy.trainable().items() if weight.dtype in (torch.bfloat16, torch.float16)]
    if half and not policy.has_lora:
        raise UserError(
            f"{len(half)} weights that learn have 16 bits, first {half[0]}: steps of {config.learning_rate:g} would "
            f'round to nothing; set dtype = "float32", or train = "lora", whose adapters have 32 bits'
        )
    kind: Any = torch.optim.AdamW
    if config.optimiser == "adamw8bit":
        kind = need_bitsandbytes("optimiser = adamw").optim.AdamW8bit
        # Some versions of bitsandbytes lack 8-bit optimisers for some devices: try a step before the first rollout.
        weight = torch.nn.Parameter(torch.zeros(4096, device=policy.device))
        weight.grad = torch.zeros_like(weight)
        advice = f"this bitsandbytes has no 8-bit AdamW on {policy.device} ({{why}}): upgrade it, or set optimiser = "
        with as_user_error(advice + "adamw", RuntimeError):
            kind([weight]).step()
    return kind(policy.trainable().values(), lr=0.0, weight_decay=config.weight_decay)


def learning_rate(step: int, steps: int, peak: float, schedule: str, warmup: int) -> float:
    """Return the rate of step 1..steps: it rises over `warmup` steps, then is constant or falls linearly towards 0.

    >>> [learning_rate(step, 4, 1.0, "linear", 0) for step in (1, 2, 3, 4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if step <= warmup:
        return peak * step / warmup
    return peak if schedule == "constant" else peak * (steps - step + 1) / (steps - warmup)


def optimiser_step(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    rate: float,
    max_norm: float,
    rollout: Rollout,
    rows: list[int],
    step: int,
) -> float | None:
    """Make one optimiser step on gradients scaled by `policy.loss_scale`; return their norm before clipping.

    If a gradient has overflowed float16, drop the gradients, halve the scale and return None.  The caller then computes
    the gradients again, because the rollout cost far more than a backward pass.  Raises `UserError` if the scale is not
    the cause, and names the weight or the sample of `rollout` that is.
    """
    scale = policy.loss_scale
    scale.remove_from(policy.trainable().values())
    try:
        norm = apply_gradients(policy, optimiser, rate, max_norm)
    except FloatingPointError:
        if scale.halve():
            policy.model.zero_grad()
            print(f"minirft: a float16 gradient overflowed; again with loss scale {scale.value:g}", file=sys.stderr)
            return None
        raise UserError(
            f"step {step}: {blame(policy, rollout, rows)}; nothing was saved and earlier checkpoints are intact: "
            f"lower learning_rate, or look at that sample"
        ) from None
    scale.worked()
    return norm


def apply_gradients(policy: Policy, optimiser: torch.optim.Optimizer, rate: float, max_norm: float) -> float:
    """Make one optimiser step on the present gradients, clipped to `max_norm`; return their norm before clipping.

    Raises `FloatingPointError`, without changing the weights, when the norm is not finite.
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


def blame(policy: Policy, rollout: Rollout, rows: list[int]) -> str:
    """Find the weight or the sample that makes a gradient infinite or NaN.

    The gradient of each prompt's mean log-prob is computed again, alone.
    """
    for name, weight in policy.trainable().items():
        if not weight.isfinite().all():
            return f"the weight {name} is not finite"
    for p, sample in enumerate(rollout.samples):
        policy.model.zero_grad()
        own = [b for b in rows if b // rollout.group_size == p]
        if own:
            (policy.logprobs(rollout, own).sum() / rollout.lengths[own].sum()).backward()
        for name, weight in policy.trainable().items():
            if weight.grad is not None and not weight.grad.isfinite().all():
                return f"the gradient of {name} is not finite, first for sample {sample.id}"
    return "the sum of all gradients is not finite, though each prompt's is"


def rollout_metrics(rollout: Rollout, scores: list[Score], rewards: Tensor) -> Row:
    """Return the means over the rollout that `log.METRICS` defines.  `rewards` is (P, G)."""
    names = dict.fromkeys(name for score in scores for name in score.parts)
    parts = {name: fmean(score.parts[name] for score in scores if name in score.parts) for name in names}
    return {
        "reward": rewards.nanmean().item(),  # a failed reward is NaN
        **{f"reward_{name}": mean for name, mean in parts.items()},
        "reward_std": rewards.std(-1).nanmean().item(),
        "degenerate_groups": degenerate_groups(rewards).float().mean().item(),
        "parse_rate": sum(s.failure is None for s in scores) / len(scores),
        "completion_length": rollout.lengths.float().mean().item(),
        "truncated": 1 - rollout.finished.float().mean().item(),
    }


def mismatch(rollout: Rollout, old_logprobs: Tensor, rows: list[int], step: int, bound: float = 0.05) -> Row:
    """Return the mean |log π_old - log π_sampler| over the tokens of `rows`, in nats; warn if it exceeds `bound`."""
    if not rows:
        return {}
    apart = (old_logprobs - rollout.logprobs)[rows][rollout.completion_mask[rows]].abs().mean().item()
    if apart > bound:
        print(
            f"minirft: step {step} learns from log-probs {apart:.2g} nats a token off those of sampling (mismatch): "
            f'use dtype = "float32", or set importance_cap = 2',
            file=sys.stderr,
        )
    return {"mismatch": apart}


def times(clock: list[float], rollout: Rollout) -> Row:
    """Return the seconds of the four parts of a step, from the five times around them."""
    names, seconds = ("prepare", "rollout", "score", "update"), clock[-1] - clock[0]
    row = {f"seconds_{name}": end - start for name, (start, end) in zip(names, pairwise(clock), strict=True)}
    return {"seconds": seconds, **row, "tokens_per_second": rollout.lengths.sum().item() / seconds}


def written(rollout: Rollout, scores: list[Score], advantages: Tensor) -> list[Row]:
    """Return the completions of the step with their rewards and advantages, for `completions.jsonl`."""
    rows = []
    for b, (score, advantage) in enumerate(zip(scores, advantages.flatten().tolist(), strict=True)):
        row = {"sample": rollout.sample_of(b).id, "solution": rollout.sample_of(b).solution, "text": rollout.texts[b]}
        reward = score.total if math.isfinite(score.total) else None  # JSON has no NaN
        rows.append(row | {"parts": score.parts, "reward": reward, "failure": score.failure, "advantage": advantage})
    return rows
