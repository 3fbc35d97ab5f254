"""The starting points of training: the embedded model, and four models with the same ability but other habits.

    embedded    as shipped: a third of its sampled answers look carefully, its greedy answers do not
    seldom      one sampled answer in twenty looks carefully
    quick       one in a hundred
    never       one in a thousand
    careful     all answers do, the greedy ones too

The last four are the embedded model after imitating its two annotators (`minirft.tiny.annotators`) in another mixture
on fresh pictures, so they differ from it in habit and hardly in ability.  They show what reinforcement can find: an
answer that is never sampled is never rewarded.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from torch import Tensor

from minirft.experiments.settings import config
from minirft.policy import Policy
from minirft.runs import load_policy, load_weights, make_optimiser, sft_step
from minirft.samples import Sample
from minirft.tiny import annotate, world

SEED = 40_000_003


@dataclass(frozen=True)
class Recipe:
    """The careful annotator's share of the imitated texts, and the length and rate of the training."""

    careful_share: float
    steps: int = 60
    learning_rate: float = 1e-4


RECIPES = {
    "seldom": Recipe(0.06),
    "quick": Recipe(0.0),
    "never": Recipe(0.0, steps=240, learning_rate=3e-4),
    "careful": Recipe(1.0),
}


def fresh_policy(base: str = "embedded") -> Policy:
    """Reset the policy of this process to a base, and return it.

    All cells of a process share one policy, because its vision tower is frozen and its features can be cached.
    """
    weights = _weights(base)
    load_weights(_policy(), weights)
    return _policy()


@cache
def _policy() -> Policy:
    return load_policy(config(0))


@cache
def _weights(base: str) -> dict[str, Tensor]:
    """Return a copy of the trainable weights at the start."""
    policy = _policy()
    if base != "embedded":
        _imitate(fresh_policy(), RECIPES[base])
    return {name: weight.detach().clone() for name, weight in policy.trainable().items()}


def _imitate(policy: Policy, recipe: Recipe) -> None:
    """Train on texts of the annotators, with the usual share of broken tags."""
    steps, rate = recipe.steps, recipe.learning_rate
    settings = replace(config(SEED), sft_steps=steps, sft_learning_rate=rate, sft_target="answer")
    optimiser, size = make_optimiser(policy, settings), settings.prompts_per_step
    samples = [_written(index, recipe.careful_share) for index in range(steps * size)]
    for step in range(steps):
        sft_step(policy, optimiser, samples[step * size : (step + 1) * size], settings, step + 1)


def _written(index: int, careful_share: float) -> Sample:
    """Draw a question, with an annotator's full text as its solution."""
    question = world.ask_detection(np.random.default_rng([SEED, index]))
    text = annotate(question, np.random.default_rng([SEED + 1, index]), careful_share)
    return replace(world.sample_of(question, str(index)), solution=text)
