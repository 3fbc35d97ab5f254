"""GRPO samples groups, scores them, and makes the completions that beat their group more likely.

`grpo_step` is the whole algorithm on one screen, in the order of the data:

    Sample -> Prompt -> sample_groups -> Rollout -> rewards (P, G) -> advantages (P, G) -> loss -> optimiser step

Deviations from the released code: completions are packed behind a shared prompt; the reference is the model with its
adapter switched off (or a frozen copy); prompts are never truncated; a step that is not finite stops the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from minirft.advantages import degenerate_groups, sound_advantages
from minirft.engine import passes
from minirft.loss import policy_loss, sampler_correction
from minirft.policy import Policy
from minirft.reference import Reference
from minirft.rewards import OwnFunction, RewardFn, Score, is_own, reward_for
from minirft.runs import GRPOConfig, Row, learning_rate, mismatch, optimiser_step, rollout_metrics, times, written
from minirft.sampler import sample_groups
from minirft.samples import Rollout, Sample, step_seed


def run(
    config: GRPOConfig,
    resume: Path | None = None,
    progress: bool = False,
    reward: RewardFn | OwnFunction | None = None,
) -> Iterator[Row]:
    """Start or resume a GRPO run; yield every row of its log as it is made.

    `reward` is your own function, (completion, sample) -> float or dict of floats; it replaces `config.reward`.

    Raises `UserError` for mistakes that the user can correct, and `KeyboardInterrupt` after Ctrl-C and a save.
    """
    from minirft.data import Screening, training_feed  # here, because a step alone needs neither data nor a folder
    from minirft.runs import anchored, open_run, run_steps

    config = anchored(config)
    screening = Screening(config.data, resume, progress)
    feed = training_feed(config, screening)  # before the slow loading of the model, so mistakes in the data show early
    scored = reward_for(config.data.task, reward or config.reward, config.reward_weights, config.reward_timeout)
    opened = open_run("grpo", config, resume, scored if reward or is_own(config.reward) else None)

    def do_step(samples: list[Sample], step: int) -> tuple[Row, list[Row]]:
        return grpo_step(opened.policy, opened.reference, opened.optimiser, samples, scored, config, step)

    yield from run_steps(opened, config.steps, feed, do_step, progress, screening)


def grpo_step(
    policy: Policy,
    reference: Reference | None,
    optimiser: torch.optim.Optimizer,
    samples: list[Sample],
    reward: RewardFn,
    config: GRPOConfig,
    step: int,
) -> tuple[Row, list[Row]]:
    """Take one step on P samples; return its metrics and its completions.  Changes the weights and the optimiser."""
    clock = [time.perf_counter()]
    prompts = [policy.encode(sample) for sample in samples]
    clock.append(time.perf_counter())

    rollout = sample_groups(
        policy, prompts, config.group_size, seed=step_seed(config.seed, step),
        temperature=config.temperature, max_completion_length=config.max_completion_length,
        prompts_per_decode=config.prompts_per_decode or None,
    )  # fmt: skip
    clock.append(time.perf_counter())

    rewards, scores = score(rollout, reward)  # (P, G), and B scores with their parts
    advantages = sound_advantages(rewards, config.advantage_scale, config.advantage_eps)
    ref_logprobs = reference.logprobs(rollout, rows_per_pass=config.rows_per_pass or None) if reference else None
    clock.append(time.perf_counter())

    rows = learning_rows(rewards, config.skip_degenerate)
    old_logprobs = torch.zeros_like(rollout.logprobs)  # of the policy before its update; the first update fills it in
    given = rollout, old_logprobs, ref_logprobs, advantages.flatten(), config, rows
    rate = learning_rate(step, config.steps, config.learning_rate, config.lr_schedule, config.warmup_steps)
    totals: Counter[str] = Counter()
    for update in range(config.updates_per_rollout if rows else 0):
        norm = None
        while norm is None:  # None: a gradient overflowed float16; compute it again with a smaller loss scale
            shares = []
            for part in passes(rollout, config.rows_per_pass or None, rows):
                shares.append(add_gradients(policy, *given, part, first=update == 0))
            norm = optimiser_step(policy, optimiser, rate, config.max_grad_norm, rollout, rows, step)
        for share in [*shares, {"grad_norm": norm}]:
            totals.update(share)
    clock.append(time.perf_counter())

    means = {name: value / config.updates_per_rollout for name, value in totals.items()}
    row = {"step": step, **rollout_metrics(rollout, scores, rewards), **means, "lr": rate, **times(clock, rollout)}
    return row | mismatch(rollout, old_logprobs, rows, step), written(rollout, scores, advantages)


def score(rollout: Rollout, reward: RewardFn) -> tuple[Tensor, list[Score]]:
    """Score the completions: return totals (P, G), and the score with its parts of each of the B rows."""
    scores = [reward(text, rollout.sample_of(b)) for b, text in enumerate(rollout.texts)]
    return torch.tensor([found.total for found in scores]).view(-1, rollout.group_size), scores


def learning_rows(rewards: Tensor, skip_degenerate: bool) -> list[int]:
    """Select the rows that enter the loss: all, or (skip_degenerate) those of groups (P, G) whose rewards differ.

    A group with a reward that is not finite never enters.

    >>> learning_rows(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, torch.nan]]), skip_degenerate=True)
    [0, 1]
    """
    skipped = ~rewards.isfinite().all(-1) | degenerate_groups(rewards) & skip_degenerate
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
    """Add the gradient of the loss on `rows`, a part of the step's `step_rows`; return the pass's share of metrics.

    In the `first` update on a rollout π_old is π itself: its log-probs are stored in `old_logprobs`, (B, T), and
    later updates read them there.  The sampler rounds differently, so with its log-probs the ratio would not be 1.
    """
    step_tokens = int(rollout.lengths[step_rows].sum())
    logprobs, entropy = policy.logprobs(rollout, rows, entropy=True)
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
        weights=sampler_correction(old, sampled, cap) if cap else None,
        clip_eps=config.clip_eps, clip_eps_high=config.clip_eps_high, kl_coef=config.kl_coef, kl=config.kl,
        max_completion_length=config.max_completion_length, step_rows=len(step_rows), step_tokens=step_tokens,
    )  # fmt: skip
    (loss * policy.loss_scale.value).backward()
    return {**{name: value.item() for name, value in metrics.items()}, "entropy": entropy.sum().item() / step_tokens}
