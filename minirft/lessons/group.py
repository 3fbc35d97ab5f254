"""The group that travels through the notebooks: eight completions that the embedded model wrote to one question.

They were sampled once (seed 7, temperature 1) and their tokens are kept beside this file, so that every notebook, and
every machine, tells the same story.  Everything else about them is computed anew: log-probs by the model, rewards by
the rules.  Picked for variety, by hand: three look before they answer, five do not; two break the format, one of them
so badly that no answer can be read; one is wrong and sure of it, one is poor and says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from minirft.policy import Policy
from minirft.rewards import Score, reading
from minirft.runs import given_rollout
from minirft.samples import Rollout, Sample
from minirft.tiny import world

FILE = Path(__file__).with_name("group.json")


@dataclass(frozen=True)
class Lesson:
    """The embedded policy, the question, its eight completions as a rollout, and what each earns by `strict`."""

    policy: Policy
    sample: Sample
    rollout: Rollout
    scores: list[Score]

    @property
    def texts(self) -> list[str]:
        """The eight completions."""
        return self.rollout.texts

    @property
    def rewards(self) -> torch.Tensor:
        """What they earn, weighted and summed: (1, 8)."""
        return torch.tensor([[score.total for score in self.scores]])


def the_sample() -> Sample:
    """The one question: where is the blue square?  No model is loaded."""
    scene = json.loads(FILE.read_text(encoding="utf-8"))["scene"]
    return world.detection(scene["count"], seed=scene["seed"])[scene["index"]]


def the_texts() -> list[str]:
    """The eight completions as text.  No model is loaded."""
    return json.loads(FILE.read_text(encoding="utf-8"))["texts"]


def the_group() -> Lesson:
    """The eight completions with everything known about them, on the CPU in a second.

    >>> lesson = the_group()
    >>> lesson.sample.category, [round(reward, 2) for reward in lesson.rewards[0].tolist()]
    ('blue square', [2.83, 2.55, 1.29, 0.0, 2.9, 1.84, 0.32, 3.0])
    """
    saved = json.loads(FILE.read_text(encoding="utf-8"))
    policy, sample, ids = Policy.load("tiny"), the_sample(), saved["token_ids"]
    rollout = given_rollout(policy, [sample], [policy.decode(row) for row in ids], ids, saved["temperature"])
    with torch.no_grad():
        rollout.logprobs.copy_(policy.logprobs(rollout))
    reward = reading("detection", "strict")
    return Lesson(policy, sample, rollout, [reward(text, sample.solution) for text in rollout.texts])
