"""This module evaluates detection in two stages, as the paper does: is there an object, and if so, where?

In the paper the untrained model answers the first question, or the categories of a picture are known (section 4.1); its
prompt was not released, ours is `prompts.presence`.  Here one policy answers both questions, so an error in the first
stage, a missed or an invented object, counts in the result.
"""

from dataclasses import replace

from minirft import UserError
from minirft.policy import Policy
from minirft.rewards import parse, prompts
from minirft.runs.config import GRPOConfig
from minirft.runs.loop import generate
from minirft.samples import Sample

NO = "<think>there is none</think> " + prompts.detection_solution([])
"""The detection answer that stands for a "no" in the first stage."""


def answers_in_two_stages(
    policy: Policy, config: GRPOConfig, samples: list[Sample], mode: str = "greedy", first: int = 0
) -> list[str]:
    """Return one detection answer for each sample: `NO` if the first answer is "no", else the second answer.

    A first answer that is neither yes nor no leads to the second stage, because only a "no" may suppress a detection.
    `mode` and `first` are as in `minirft.runs.loop.generate`.  Raises `UserError` if a sample is no detection question.
    """
    there = generate(policy, config, [presence_question(sample) for sample in samples], mode, first)
    left = [sample for sample, text in zip(samples, there, strict=True) if parse("presence", text) is not False]
    second = iter(generate(policy, config, left, mode, first))
    return [NO if parse("presence", text) is False else next(second) for text in there]


def presence_question(sample: Sample) -> Sample:
    """Return the presence question about the category of a detection sample.

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
