"""GRPO: sample groups, score them, push up what beat its group.

`grpo_step` is the whole algorithm on one screen, in the order of the data:

    Sample -> Prompt -> sample_groups -> Rollout -> rewards (P, G) -> advantages (P, G) -> loss -> optimiser step

Deviations from the released code: completions are packed behind a shared prompt, the reference is the base under
a switched-off adapter (or a frozen copy), nothing is cut to fit, and a step that is not finite stops the run.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from minirft.advantages import degenerate_groups, group_advantages
from minirft.data.feed import step_generator, training_feed
from minirft.data.screening import Screening
from minirft.engine.prefix import passes, policy_logprobs
from minirft.loss import policy_loss, sampler_correction
from minirft.policy import Policy
from minirft.reference import Reference
from minirft.rewards.readings import Score, reading
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import Row, open_run
from minirft.runs.loop import learning_rate, not_finite, run_steps, update
from minirft.sampler import sample_groups
from minirft.samples import Rollout, Sample, UserError

RewardFn = Callable[[str, str], Score]  # (completion, solution) -> score


def train(config: GRPOConfig, resume: Path | None = None, progress: bool = False) -> Iterator[Row]:
    """Run or go on with a GRPO run; yields every logged row as it happens.

    Raises `UserError` for what the user can put right, and `KeyboardInterrupt` after Ctrl-C and a save.
    """
    screening = Screening.of(config.data, resume, progress)
    feed = training_feed(config, screening)  # before the model: a mistake in the data shows at once
    reward = reading(config.data.task, config.reward, config.reward_weights or None)
    run = open_run("grpo", config, resume)

    def do_step(samples: list[Sample], step: int) -> tuple[Row, list[Row]]:
        return grpo_step(run.policy, run.reference, run.optimiser, samples, reward.at(step), config, step)

    yield from run_steps(run, config.steps, feed, do_step, progress, screening)


def grpo_step(
    policy: Policy,
    reference: Reference | None,
    optimiser: torch.optim.Optimizer,
    samples: list[Sample],
    reward: RewardFn,
    config: GRPOConfig,
    step: int,
) -> tuple[Row, list[Row]]:
    """One step on P samples; returns its metrics and what was written.  Changes the weights and the optimiser."""
    clock = [time.perf_counter()]
    prompts = [policy.encode(sample) for sample in samples]
    clock.append(time.perf_counter())

    rollout = sample_groups(
        policy,
        prompts,
        config.group_size,
        temperature=config.temperature,
        max_completion_length=config.max_completion_length,
        generator=step_generator(config.seed, step),
        shared=config.shared_prefix,
        decoder=config.decoder,
        prompts_per_pass=config.prompts_per_rollout or None,
    )
    clock.append(time.perf_counter())

    scores = score(rollout, reward)  # B of them
    rewards = torch.tensor([score.total for score in scores]).view(len(samples), config.group_size)
    advantages = group_advantages(rewards, config.advantage_scale, eps=config.advantage_eps)
    ref_logprobs = reference_logprobs(reference, rollout, config)
    clock.append(time.perf_counter())

    rate = learning_rate(step, config.steps, config.learning_rate, config.lr_schedule, config.warmup_steps)
    rows = learning_rows(rewards, config.skip_degenerate)
    old_logprobs = torch.zeros_like(rollout.logprobs)  # of the policy as it is now, filled in by the first update
    scored = policy, rollout, old_logprobs, ref_logprobs, advantages.flatten(), config, rows
    parts = passes(rollout, config.rows_per_pass or None, rows)
    updates: Counter[str] = Counter()
    for turn in range(config.updates_per_rollout if rows else 0):
        backward = partial(add_gradients, *scored, first=turn == 0)
        try:
            shares, norm = update(policy, optimiser, rate, config.max_grad_norm, backward, parts)
            for share in [*shares, {"grad_norm": norm}]:
                updates.update(share)
        except FloatingPointError:
            raise UserError(not_finite(step, blame(policy, rollout, rows, backward))) from None
    clock.append(time.perf_counter())

    means = {name: value / config.updates_per_rollout for name, value in updates.items()}
    row = {"step": step, **rollout_metrics(rollout, scores, rewards), **means, "lr": rate, **times(clock, rollout)}
    row |= mismatch(rollout, old_logprobs, rows, step)
    return row, written(rollout, scores, advantages)


def score(rollout: Rollout, reward: RewardFn) -> list[Score]:
    """What each of the B completions earned.  Raises `UserError`, with the sample, for one that is not finite."""
    scores = []
    for b, text in enumerate(rollout.texts):
        sample = rollout.samples[b // rollout.group_size]
        scores.append(reward(text, sample.solution))
        if not math.isfinite(scores[-1].total):
            parts = ", ".join(f"{name} {value}" for name, value in scores[-1].parts.items())
            raise UserError(f"the reward of a completion of sample {sample.id} is not finite ({parts}): use strict")
    return scores


def reference_logprobs(reference: Reference | None, rollout: Rollout, config: GRPOConfig) -> Tensor | None:
    """Log-probs of the whole rollout under the reference, (B, T), `rows_per_pass` rows at a time; None without one."""
    if reference is None:
        return None
    parts = passes(rollout, config.rows_per_pass or None)
    return torch.cat([reference.logprobs(rollout, rows, config.shared_prefix) for rows in parts])


def learning_rows(rewards: Tensor, skip_degenerate: bool) -> list[int]:
    """The rows of the rollout that enter the loss: all, or those of groups (P, G) whose rewards differ.

    >>> learning_rows(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), skip_degenerate=True)
    [0, 1]
    """
    skipped = degenerate_groups(rewards) & skip_degenerate
    return (~skipped).repeat_interleave(rewards.shape[1]).nonzero()[:, 0].tolist()


def add_gradients(
    policy: Policy,
    rollout: Rollout,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    config: GRPOConfig,
    step_rows: list[int],
    rows: list[int],
    first: bool = True,
) -> dict[str, float]:
    """Add the gradient of the loss on `rows`, a part of the step's `step_rows`; returns the pass's share of metrics.

    In the `first` update on a rollout π_old is π itself: its log-probs are written to `old_logprobs`, (B, T), and
    later updates read them there.  Those of sampling come from other arithmetic, so their ratio would not be 1.
    """
    step_tokens = int(rollout.lengths[step_rows].sum())
    logprobs, entropy = policy_logprobs(policy, rollout, rows, shared=config.shared_prefix, entropy=True)
    if first:
        old_logprobs[rows] = logprobs.detach()
    old, sampled, cap = old_logprobs[rows], rollout.logprobs[rows], config.importance_cap
    loss, metrics = policy_loss(
        config.loss,
        logprobs,
        old,
        None if ref_logprobs is None else ref_logprobs[rows],
        advantages[rows].to(logprobs),
        rollout.completion_mask[rows],
        clip_eps=config.clip_eps,
        clip_eps_high=config.clip_eps_high,
        kl_coef=config.kl_coef,
        kl=config.kl,
        max_completion_length=config.max_completion_length,
        weights=sampler_correction(old, sampled, cap) if cap else None,
        step_rows=len(step_rows),
        step_tokens=step_tokens,
    )
    (loss * policy.loss_scale.value).backward()
    return {**{name: value.item() for name, value in metrics.items()}, "entropy": entropy.sum().item() / step_tokens}


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


# ------------------------------------------------------------------ what is logged


def rollout_metrics(rollout: Rollout, scores: list[Score], rewards: Tensor) -> Row:
    """Means over the rollout; `runlog.METRICS` defines each.  `rewards` is (P, G)."""
    parts = {f"reward_{name}": sum(s.parts[name] for s in scores) / len(scores) for name in scores[0].parts}
    return {
        "reward": rewards.mean().item(),
        **parts,
        "reward_std": rewards.std(-1).mean().item(),
        "degenerate_groups": degenerate_groups(rewards).float().mean().item(),
        "parse_rate": sum(s.failure is None for s in scores) / len(scores),
        "completion_length": rollout.lengths.float().mean().item(),
        "truncated": 1 - rollout.finished.float().mean().item(),
    }


def mismatch(rollout: Rollout, old_logprobs: Tensor, rows: list[int], step: int, bound: float = 0.05) -> Row:
    """Mean |log π_old - log π_sampler| over the tokens of the rows that learn, in nats; above `bound` that is said."""
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
    """Seconds of the four parts of a step, from the five readings of the clock around them."""
    seconds = clock[-1] - clock[0]
    parts = dict(zip(("prepare", "rollout", "score", "update"), (b - a for a, b in pairwise(clock)), strict=True))
    return {
        "seconds": seconds,
        **{f"seconds_{name}": value for name, value in parts.items()},
        "tokens_per_second": rollout.lengths.sum().item() / seconds,
    }


def written(rollout: Rollout, scores: list[Score], advantages: Tensor) -> list[Row]:
    """The completions of the step with what they earned, for `completions.jsonl`."""
    return [
        {
            "sample": rollout.samples[b // rollout.group_size].id,
            "text": text,
            "parts": score.parts,
            "reward": score.total,
            "failure": score.failure,
            "advantage": advantage,
        }
        for b, (text, score, advantage) in enumerate(
            zip(rollout.texts, scores, advantages.flatten().tolist(), strict=True)
        )
    ]
