"""The group of the notebooks: eight completions that the embedded model wrote to one question.

They were sampled once (seed 7, temperature 1).  Their tokens are stored beside this file, so every notebook shows the
same group on every machine.  Log-probs and rewards are computed again.  The group was chosen by hand for variety: three
completions look before they answer, five do not; two break the format, and one of them is unreadable; one is wrong with
a high confidence, and one is poor with a low confidence.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from minirft.advantages import group_advantages
from minirft.policy import Policy
from minirft.rewards import Score, reading
from minirft.runs import given_rollout
from minirft.samples import Rollout, Sample
from minirft.tiny import world

SAVED = json.loads(Path(__file__).with_name("group.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Lesson:
    """The embedded policy, the question, its eight completions as a rollout, and their scores under `strict`."""

    policy: Policy
    sample: Sample
    rollout: Rollout
    scores: list[Score]

    @property
    def texts(self) -> list[str]:
        """Return the eight completions."""
        return self.rollout.texts

    @property
    def rewards(self) -> torch.Tensor:
        """Return the weighted sums of the reward parts: (1, 8)."""
        return torch.tensor([[score.total for score in self.scores]])


def the_sample() -> Sample:
    """Return the question, "where is the blue square?", without loading a model."""
    scene = SAVED["scene"]
    return world.detection(scene["count"], seed=scene["seed"])[scene["index"]]


def the_texts() -> list[str]:
    """Return the eight completions as text, without loading a model."""
    return list(SAVED["texts"])


def the_group() -> Lesson:
    """Load the policy and the eight completions with log-probs and scores, on the CPU in a second.

    >>> lesson = the_group()
    >>> lesson.sample.category, [round(reward, 2) for reward in lesson.rewards[0].tolist()]
    ('blue square', [2.83, 2.55, 1.29, 0.0, 2.9, 1.84, 0.32, 3.0])
    """
    policy, sample, ids = Policy.load("tiny"), the_sample(), SAVED["token_ids"]
    rollout = given_rollout(policy, [sample], [policy.decode(row) for row in ids], ids, SAVED["temperature"])
    with torch.no_grad():
        rollout.logprobs.copy_(policy.logprobs(rollout))
    reward = reading("detection", "strict")
    return Lesson(policy, sample, rollout, [reward(text, sample.solution) for text in rollout.texts])


def gdpo_advantages(parts: torch.Tensor, eps: float = 1e-4) -> torch.Tensor:
    """Compute advantages from K reward parts of equal weight, (K, P, G) -> (P, G), each part normalised first.

        s = Σₖ (rₖ - mean_group rₖ) / (std_group rₖ + eps)        A = s / (std_batch s + eps)

    So each part influences the advantage equally; in the weighted sum, the part that varies most dominates.  For an
    exercise in notebook 03; training uses the sum.  GDPO (arXiv 2601.05242) also subtracts the batch mean of s, 0.

    >>> parts = torch.tensor([[[1.0, 0.0, 1.0, 0.0]], [[0.1, 0.1, 0.0, 0.0]]])  # the second part has a small spread
    >>> gdpo_advantages(parts).round(decimals=2)
    tensor([[ 1.2200, -0.0000,  0.0000, -1.2200]])
    """
    summed = torch.stack([group_advantages(part, eps=eps) for part in parts]).sum(0)
    return summed / (summed.std() + eps)
