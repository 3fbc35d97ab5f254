"""Scores of the same saved completions under another reward, and the behaviours that the update would push.

**The push.**  A small step of size η changes the policy by the factor exp(η A).  To first order the mean of a behaviour
x then changes by η Cov(A, x).  `pushes` returns that covariance within the groups as a correlation in [-1, 1], so
behaviours of different units can be compared.  Later training also depends on what the policy can vary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minirft import UserError
from minirft.advantages import degenerate_groups, group_advantages
from minirft.rewards import ParseFailure, RewardFn, Score, Scorer, audit, matched_iou, parse_detection, reward_for
from minirft.samples import Task
from minirft.show.pictures import Group

Behaviour = Callable[[str, str], float]  # (completion, solution) -> a number, NaN where it has none
Behaviours = Mapping[str, Behaviour]


# ------------------------------------------------------------------ behaviours


def _boxes(text: str, solution: str) -> float:
    found = parse_detection(text)
    return math.nan if isinstance(found, ParseFailure) else float(len(found))


def _recall(text: str, solution: str) -> float:
    found, truth = parse_detection(text), parse_detection(solution)
    if not len(truth):
        return math.nan
    return 0.0 if isinstance(found, ParseFailure) else float((matched_iou(found, truth) >= 0.5).sum()) / len(truth)


def _confidence(text: str, solution: str) -> float:
    found = parse_detection(text)
    return math.nan if isinstance(found, ParseFailure) or not found.confidence.size else float(found.confidence.mean())


# Behaviours of a detection answer, each a number computed from (completion, solution)
BEHAVIOURS: Behaviours = {
    "boxes": _boxes,
    "found": _recall,
    "confidence": _confidence,
    "words": lambda text, solution: float(len(text.split())),
    "readable": lambda text, solution: float(not isinstance(parse_detection(text), ParseFailure)),
}


def average(texts: Sequence[str], solutions: Sequence[str], behaviours: Behaviours) -> dict[str, float]:
    """Return the mean of each behaviour over the answers that have it.

    >>> average(["<answer>No Objects</answer>", "?"], ["", ""], {"boxes": BEHAVIOURS["boxes"]})
    {'boxes': 0.0}
    """
    pairs = list(zip(texts, solutions, strict=True))
    return {name: float(np.nanmean([measure(*pair) for pair in pairs])) for name, measure in behaviours.items()}


# ------------------------------------------------------------------ the same rollouts again


@dataclass(frozen=True)
class Rescored:
    """The same P groups under one reward: rewards and advantages (P, G), and the number of degenerate groups."""

    rewards: Tensor
    advantages: Tensor

    @property
    def dead(self) -> int:
        """Count the degenerate groups, which give no gradient under this reward."""
        return int(degenerate_groups(self.rewards).sum())

    @property
    def best(self) -> list[int]:
        """Return the index of the best completion of each group, the first of equals."""
        return self.rewards.argmax(-1).tolist()


def rescore(groups: Sequence[Group], reward: Scorer) -> Rescored:
    """Score the completions of saved groups again, and compute their advantages (`std` scaling).

    `reward` is a reward or your own function, (completion, sample) -> number or parts.
    """
    scorer = reward_for(groups[0].sample.task, reward)
    scores = scores_of(groups, scorer)
    return weigh(scores, weights_of(scores, scorer))


def scores_of(groups: Sequence[Group], reward: RewardFn) -> list[list[Score]]:
    """Score saved groups, P lists of G.  Raises `UserError` if the reward fails on a completion."""
    scores = [[reward(text, group.sample) for text in group.texts] for group in groups]
    for score in (score for row in scores for score in row):
        if not math.isfinite(score.total):
            raise UserError(f"{score.failure or 'a score is not finite'}; mend the reward first")
    return scores


def weights_of(scores: list[list[Score]], reward: RewardFn) -> dict[str, float]:
    """Return the weight of each part of the scores; 1 if the reward has no weight for it."""
    names = dict.fromkeys(name for row in scores for score in row for name in score.parts)
    return {name: getattr(reward, "weights", {}).get(name, 1.0) for name in names}


def weigh(scores: list[list[Score]], weights: Mapping[str, float]) -> Rescored:
    """Compute rewards and advantages of scores with other weights of their parts."""
    totals = [[sum(weights[k] * value for k, value in score.parts.items()) for score in row] for row in scores]
    rewards = torch.tensor(totals, dtype=torch.float64)
    return Rescored(rewards, group_advantages(rewards))


def reversed_pairs(before: Tensor, after: Tensor) -> float:
    """Return the share of ordered pairs within groups that the second reward reverses: (P, G), (P, G) -> [0, 1].

    >>> reversed_pairs(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 2.0, 1.0]])) == 1 / 3
    True
    """
    first, second = (torch.sign(x[:, :, None] - x[:, None, :]) for x in (before, after))
    ordered = (first != 0).sum().item()
    return ((first * second) < 0).sum().item() / ordered if ordered else 0.0


def pushes(groups: Sequence[Group], advantages: Tensor, behaviours: Behaviours) -> dict[str, float]:
    """Correlate the advantages (P, G) with each behaviour within the groups: numbers in [-1, 1].

    push = Σ A (x - mean_group x) / sqrt(Σ A² Σ (x - mean_group x)²), over the completions that have the behaviour;
    0 if it does not vary.
    """
    found = {}
    for name, measure in behaviours.items():
        rows = [[measure(text, group.sample.solution) for text in group.texts] for group in groups]
        values = np.ma.masked_invalid(np.array(rows, dtype=float))  # NaN: the completion does not have the behaviour
        centred = (values - values.mean(1, keepdims=True)).filled(0.0)
        weights = np.where(np.ma.getmaskarray(values), 0.0, advantages.numpy())
        size = math.sqrt((weights**2).sum() * (centred**2).sum())
        found[name] = float((weights * centred).sum() / size) if size > 1e-12 else 0.0
    return found


def red_team(reward: Scorer, task: Task = "detection") -> list[dict[str, Any]]:
    """Return the rows of `rewards.audit` for any reward, the best paid first, the honest answer included."""
    rows = audit(task, reward_for(task, reward))
    return sorted(rows, key=lambda row: -math.inf if row["total"] is None else row["total"], reverse=True)
