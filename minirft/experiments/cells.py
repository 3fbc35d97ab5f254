"""One cell of an experiment: a method, a number of shots, a seed; trained and questioned from nothing.

Two kinds.  A cell that *tunes* has a learning rate and a seed of its own, and answers the validation questions after
every length of training that may be chosen.  A cell that *tests* has the chosen rate and length, and answers every test
question once greedily and once sampled.  Both are functions of their key, so they can be done anywhere and again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minirft.config import GRPOConfig
from minirft.evaluate import STATISTICS, metrics
from minirft.experiments.settings import HEADLINE, STOPS, Part, config, find
from minirft.feed import cycle
from minirft.loop import generate
from minirft.policy import Policy
from minirft.rewards import reading
from minirft.runs import load_policy, load_weights, make_optimiser
from minirft.samples import Sample
from minirft.sft import sft_step
from minirft.tiny.annotators import QUICK_THOUGHT
from minirft.train import grpo_step

TUNING_SEED = 1000
DRAWS = 200
"""Bootstrap resamples of the test questions that a cell keeps; resample i is the same for every cell of a test."""


@dataclass(frozen=True)
class Key:
    """Which cell.  `method` "base" is the model as it is; `rate` and `steps` are 0 there."""

    experiment: str
    part: str
    method: str
    shots: int
    seed: int
    rate: float = 0.0
    steps: int = 0
    """Length of training; 0 for a cell that tunes, which goes through all lengths."""

    @property
    def tunes(self) -> bool:
        return self.seed == TUNING_SEED


def run_cell(key: Key) -> dict[str, Any]:
    """Train and question; everything that was found, ready for JSON."""
    torch.set_num_threads(1)
    start, part = time.perf_counter(), find(key.experiment).parts[key.part]
    found = tune(part, key) if key.tunes else test(part, key)
    return found | {"seconds": time.perf_counter() - start}


def tune(part: Part, key: Key) -> dict[str, Any]:
    """The headline metric on the validation questions after each length of training: {"validation": {steps: value}}."""
    questions, metric, found = asked(key.experiment, key.part), HEADLINE[part.task], {}
    for step, policy in training(part, replace(key, steps=max(STOPS[key.method]))):
        if step in STOPS[key.method]:
            answers = generate(policy, config(part.task, key.seed), questions)
            found[str(step)] = metrics(part.task, answers, questions, resamples=0)[metric]
    return {"validation": found}


def test(part: Part, key: Key) -> dict[str, Any]:
    """Every test of the part: metrics of greedy and of sampled answers, and the resamples of the greedy headline."""
    start, policy = time.perf_counter(), fresh_policy()
    for _ in training(part, key):  # the one policy of this process
        pass
    seconds, tests = time.perf_counter() - start, {}
    for name in part.tests:
        questions = asked(key.experiment, key.part, name)
        answers = {
            mode: generate(policy, config(part.task, key.seed), questions, mode) for mode in ("greedy", "sampled")
        }
        found = {mode: metrics(part.task, texts, questions, resamples=0) for mode, texts in answers.items()}
        tests[name] = found | {"draws": resampled(part, answers["greedy"], questions)}
    return {"seconds_training": seconds, **cost(key), "tests": tests}


def training(part: Part, key: Key) -> Iterator[tuple[int, Policy]]:
    """The policy after each step of training; nothing for the base."""
    if key.method == "base":
        return
    settings, task = at(config(part.task, key.seed), key), part.task
    samples = part.train(key.shots, key.seed)
    if key.method == "sft-quick":
        samples = [replace(sample, reasoning=QUICK_THOUGHT) for sample in samples]
    policy = fresh_policy()
    optimiser, reward = make_optimiser(policy, settings), reading(task, settings.reward)
    for step in range(1, key.steps + 1):
        batch = cycle(samples, key.seed, settings.prompts_per_step, step)
        if key.method == "rft":
            grpo_step(policy, None, optimiser, batch, reward.at(step), settings, step)
        else:
            sft_step(policy, optimiser, batch, settings, step)
        yield step, policy


@cache
def _base() -> tuple[Policy, dict[str, Tensor]]:
    policy = load_policy(config("detection", 0))
    return policy, {name: weight.detach().clone() for name, weight in policy.trainable().items()}


def fresh_policy() -> Policy:
    """The base again.  One policy serves all cells of a process: its vision tower is frozen, so it need not look at a
    picture twice.
    """
    policy, weights = _base()
    load_weights(policy, weights)
    return policy


@cache
def asked(experiment: str, part: str, test: str = "") -> list[Sample]:
    """The questions of a test, or without a name those of validation; drawn once in a process."""
    found = find(experiment).parts[part]
    return found.test(test) if test else found.validation()


def at(settings: GRPOConfig, key: Key) -> GRPOConfig:
    """The settings with the rate, length and target of the cell."""
    rate, target = key.rate, "answer" if key.method == "sft" else "reasoning"
    return replace(
        settings,
        steps=key.steps,
        sft_steps=key.steps,
        learning_rate=rate,
        sft_learning_rate=rate,
        sft_target=target,
        updates_per_rollout=1,
    )


def cost(key: Key) -> dict[str, int]:
    """Pictures looked at in training, with repeats, and completions sampled."""
    settings = config("detection", 0)
    seen = key.steps * settings.prompts_per_step
    return {"pictures_seen": seen, "completions_sampled": seen * settings.group_size * (key.method == "rft")}


def resampled(part: Part, answers: list[str], questions: list[Sample]) -> list[float]:
    """The headline metric on `DRAWS` resamples of the questions, four digits."""
    number = len(questions)
    weights = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), DRAWS)
    values = STATISTICS[part.task](answers, questions)(weights.astype(float))[HEADLINE[part.task]]
    return [round(float(value), 4) for value in values]
