"""Detection in two stages, as the paper evaluates it: is there one in the picture, and only then, where?

The paper asks the first question of the untrained model, or takes the categories of a picture as known (section 4.1);
its prompt was not released, ours is `prompts.presence`.  Here one policy answers both, so whatever it gets
wrong in the first stage, a missed object or an invented one, is in the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from minirft import UserError
from minirft.policy import Policy
from minirft.rewards import parse, prompts
from minirft.runs.config import GRPOConfig
from minirft.runs.loop import generate
from minirft.samples import Sample

NO = "<think>there is none</think> " + prompts.detection_solution([])
"""What a no of the first stage says in the second one's words."""


def answers_in_two_stages(policy: Policy, config: GRPOConfig, samples: list[Sample], mode: str = "greedy") -> list[str]:
    """One detection answer for each sample: `NO` where the first answer is no, else the answer to the sample.

    A first answer that is neither yes nor no goes on to the second stage: only a no may hide an object.
    """
    first = generate(policy, config, [presence_question(sample) for sample in samples], mode)
    left = [sample for sample, text in zip(samples, first, strict=True) if parse("presence", text) is not False]
    second = iter(generate(policy, config, left, mode)) if left else iter(())
    return [NO if parse("presence", text) is False else next(second) for text in first]


def batches_in_two_stages(
    policy: Policy, config: GRPOConfig, samples: list[Sample], mode: str = "greedy", first: int = 0
) -> Iterator[list[str]]:
    """The same `config.eval_batch` samples at a time, from sample `first` on; as `minirft.runs.loop.generate_batches`.

    Raises `UserError` where a sample is no detection question.
    """
    for start in range(first, len(samples), config.eval_batch):
        batch = samples[start : start + config.eval_batch]
        yield answers_in_two_stages(policy, replace(config, seed=config.seed + start), batch, mode)


def presence_question(sample: Sample) -> Sample:
    """Is there one of the category that a detection sample asks for?

    >>> from pathlib import Path
    >>> sample = Sample("0", Path("0.jpg"), "detection", "?", "<answer>No Objects</answer>", "cat")
    >>> question = presence_question(sample)
    >>> question.task, question.solution
    ('presence', '<answer>no</answer>')
    """
    if sample.task != "detection":
        raise UserError(f"two stages are for detection; sample {sample.id} is a {sample.task} question")
    if sample.asked:
        raise UserError("two stages ask about one category: set data.categories_per_question = 1")
    there = len(parse("detection", sample.solution)) > 0
    return replace(
        sample,
        task="presence",
        problem=prompts.presence(sample.category),
        solution=prompts.presence_solution(there),
        reasoning="",
    )
