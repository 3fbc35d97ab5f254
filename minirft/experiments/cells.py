"""One cell of an experiment: a method, a number of shots and a seed, trained and tested.

There are two kinds.  A cell that *tunes* has a learning rate and a seed of its own, and answers the validation
questions after every length of training that may be chosen.  A cell that *tests* has the chosen rate and length, and
answers every test question once greedily and once sampled.  The result of a cell depends only on its key.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from minirft.data import cycle
from minirft.evaluation import bootstrap, confidence_levels, mask_scores, metrics
from minirft.experiments.bases import fresh_policy
from minirft.experiments.settings import CHOSEN_BY, RFT, STOPS, Part, config, find
from minirft.policy import Policy
from minirft.rewards import reading
from minirft.runs import GRPOConfig, answers_in_two_stages, generate, make_optimiser, sft_step
from minirft.samples import Sample
from minirft.tiny import CAREFUL_START, QUICK_THOUGHT, segment, true_mask
from minirft.train import grpo_step

TUNING_SEED = 1000
DRAWS = 200
"""Bootstrap resamples of the test questions that a cell keeps; resample i is the same for every cell of a test."""
KEPT = 12
"""The number of answers of a test that are stored for display, those to its first questions."""


@dataclass(frozen=True)
class Key:
    """The identity of a cell.  `method` "base" is the untrained model, with `rate` and `steps` 0."""

    experiment: str
    part: str
    method: str
    shots: int
    seed: int
    rate: float = 0.0
    steps: int = 0
    """Length of training; 0 for a cell that tunes, which tries all lengths."""

    @property
    def tunes(self) -> bool:
        return self.seed == TUNING_SEED


def run_cell(key: Key) -> dict[str, Any]:
    """Train and test a cell; return its results as JSON data."""
    torch.set_num_threads(1)
    start, part = time.perf_counter(), find(key.experiment).parts[key.part]
    found = tune(part, key) if key.tunes else test(part, key)
    return found | {"seconds": time.perf_counter() - start}


def tune(part: Part, key: Key) -> dict[str, Any]:
    """Return the metric of `CHOSEN_BY` on the validation questions at each length: {"validation": {steps: value}}."""
    questions, metric, found = asked(key.experiment, key.part), CHOSEN_BY[part.task], {}
    for step, policy in training(part, replace(key, steps=max(STOPS[key.method]))):
        if step in STOPS[key.method]:
            answers = generate(policy, config(key.seed), questions)
            found[str(step)] = metrics(part.task, answers, questions, resamples=0)[metric]
    return {"validation": found}


def test(part: Part, key: Key) -> dict[str, Any]:
    """Answer every test of the part greedily and sampled, and `judge` the answers.  Seed 1 stores some answers."""
    start, policy = time.perf_counter(), fresh_policy(part.base)
    for _ in training(part, key):  # trains the policy of this process
        pass
    seconds, tests = time.perf_counter() - start, {}
    for name in part.tests:
        questions = asked(key.experiment, key.part, name)
        ask = answers_in_two_stages if name in part.staged else generate
        answers = {mode: ask(policy, config(key.seed), questions, mode) for mode in ("greedy", "sampled")}
        tests[name] = {mode: judge(part, texts, questions) for mode, texts in answers.items()}
        for mode in answers if name in part.masked else ():
            values, draws = mask_scores(answers[mode], questions, segment, true_mask, resamples=DRAWS)
            tests[name][mode] |= rounded(values) | {f"{metric}_draws": drawn(draws[metric]) for metric in values}
        if key.seed == 1:
            tests[name]["answers"] = answers["greedy"][:KEPT]
    return {"seconds_training": seconds, **effort(key.method, config(key.seed), key.steps), "tests": tests}


def judge(part: Part, answers: list[str], questions: list[Sample]) -> dict[str, Any]:
    """Compute all metrics, and the headline metric on `DRAWS` resamples of the questions.

    "careful" is the share of answers that look before they answer; "levels" counts boxes by stated confidence,
    {confidence: [boxes, hits at IoU .5]}, for a calibration curve.
    """
    values, draws = bootstrap(part.task, answers, questions, resamples=DRAWS)
    careful = round(sum(CAREFUL_START in text for text in answers) / len(answers), 4)
    found = rounded(values) | {"careful": careful, "draws": drawn(draws[part.metric])}
    return found | ({"levels": confidence_levels(answers, questions)} if part.task == "detection" else {})


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Round metrics to five decimals, for the file."""
    return {name: None if value is None else round(value, 5) for name, value in values.items()}


def drawn(values: np.ndarray) -> list[float]:
    """Round resamples to four decimals, as a list."""
    return [round(float(value), 4) for value in values]


def training(part: Part, key: Key) -> Iterator[tuple[int, Policy]]:
    """Yield the policy after each step of training; nothing for the base."""
    if key.method == "base":
        return
    settings, samples = settings_of(key), part.train(key.shots, key.seed)
    if key.method == "sft-quick":
        samples = [replace(sample, reasoning=QUICK_THOUGHT) for sample in samples]
    policy = fresh_policy(part.base)
    optimiser, reward = make_optimiser(policy, settings), reading(part.task, settings.reward)
    for step in range(1, key.steps + 1):
        batch = cycle(samples, key.seed, settings.prompts_per_step, step)
        if key.method in RFT:
            grpo_step(policy, None, optimiser, batch, reward, settings, step)
        else:
            sft_step(policy, optimiser, batch, settings, step)
        yield step, policy


@cache
def asked(experiment: str, part: str, test: str = "") -> list[Sample]:
    """Return the questions of a test, or without a name those of validation; they are drawn once in a process."""
    found = find(experiment).parts[part]
    return found.test(test) if test else found.validation()


def settings_of(key: Key) -> GRPOConfig:
    """Return the settings of training with the rate and length of the cell, and the reward or target of its method."""
    if key.method in RFT:
        reward = "official" if key.method == "rft-official" else "strict"
        return replace(config(key.seed), steps=key.steps, learning_rate=key.rate, reward=reward)
    target = "answer" if key.method == "sft" else "reasoning"
    return replace(config(key.seed), sft_steps=key.steps, sft_learning_rate=key.rate, sft_target=target)


def effort(method: str, settings: GRPOConfig, steps: int) -> dict[str, int]:
    """Count the pictures seen in training, with repeats, and the completions sampled."""
    seen = steps * settings.prompts_per_step
    return {"pictures_seen": seen, "completions_sampled": seen * settings.group_size * (method in RFT)}
