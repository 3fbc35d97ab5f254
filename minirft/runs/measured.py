"""What a GRPO step reports: a row of metrics for the log, and its completions for `completions.jsonl`."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

from torch import Tensor

from minirft.advantages import degenerate_groups
from minirft.rewards import Score
from minirft.samples import Rollout

Row = dict[str, Any]


def rollout_metrics(rollout: Rollout, scores: list[Score], rewards: Tensor) -> Row:
    """Means over the rollout; `log.METRICS` defines each.  `rewards` is (P, G)."""
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
