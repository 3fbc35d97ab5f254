"""What training starts from: the embedded model, and three more that know the same but are used to something else.

    embedded    as shipped: it can look carefully, and by default does not
    quick       it has all but forgotten that it could look
    seldom      it looks now and then
    careful     it looks by default

The last three are the embedded model after it imitated its two annotators (`minirft.tiny.annotators`) in another
mixture on fresh pictures, so they differ from it in habit, hardly in ability.  They answer the question what
reinforcement can find: a habit that is never sampled is never rewarded, and one that is there need not be found.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from torch import Tensor

from minirft.experiments.settings import config
from minirft.policy import Policy
from minirft.runs import load_policy, load_weights, make_optimiser
from minirft.samples import Sample
from minirft.sft import sft_step
from minirft.tiny import world
from minirft.tiny.annotators import annotate

CAREFUL_SHARE = {"quick": 0.0, "seldom": 0.06, "careful": 1.0}
STEPS, RATE, SEED = 60, 1e-4, 40_000_003


def fresh_policy(base: str = "embedded") -> Policy:
    """The base again.  One policy serves all cells of a process: its vision tower is frozen, so it need not look at a
    picture twice.
    """
    weights = _weights(base)
    load_weights(_policy(), weights)
    return _policy()


@cache
def _policy() -> Policy:
    return load_policy(config("detection", 0))


@cache
def _weights(base: str) -> dict[str, Tensor]:
    """The weights that training changes, as they are at the start."""
    policy = _policy()
    if base != "embedded":
        _imitate(fresh_policy(), CAREFUL_SHARE[base])
    return {name: weight.detach().clone() for name, weight in policy.trainable().items()}


def _imitate(policy: Policy, share: float) -> None:
    """Train on texts of the annotators, a `share` of them by the careful one, tags broken as often as ever."""
    settings = replace(config("detection", SEED), sft_steps=STEPS, sft_learning_rate=RATE, sft_target="answer")
    optimiser, size = make_optimiser(policy, settings), settings.prompts_per_step
    samples = [_written(index, sample, share) for index, sample in enumerate(world.detection(STEPS * size, SEED))]
    for step in range(STEPS):
        sft_step(policy, optimiser, samples[step * size : (step + 1) * size], settings, step + 1)


def _written(index: int, sample: Sample, share: float) -> Sample:
    """The sample with all that an annotator wrote as its solution."""
    question = world.ask_detection(np.random.default_rng([SEED, index]))
    return replace(sample, solution=annotate(question, np.random.default_rng([SEED + 1, index]), share))
