"""This module converts rewards to and from TRL's form, `reward_func(completions, **columns) -> list[float | None]`.

TRL (`GRPOTrainer(reward_funcs=...)`) scores a batch: every column of the data set is a list as long as `completions`, a
completion is a text or a conversation of one message, and None means that this reward does not apply.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from minirft.rewards.own import OwnFunction
from minirft.rewards.readings import RewardFn
from minirft.samples import Sample, Task

TrlReward = Callable[..., list[float | None]]


def to_trl(reward: RewardFn, task: Task) -> TrlReward:
    """Convert a reward of this package to a reward for TRL's trainer.

    It uses the column `solution`, and `problem`, `image`, `category` and `id` if they exist.  A score that is not
    finite becomes None.

    >>> from minirft.rewards import reading
    >>> score = to_trl(reading("classification"), "classification")
    >>> score(["<think>ears</think> <answer>cat</answer>", "dog"], solution=["<answer>cat</answer>"] * 2)
    [2.0, 0.0]
    """

    def reward_func(completions: list[Any], **columns: Any) -> list[float | None]:
        totals = []
        for n, completion in enumerate(completions):
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            row = {name: column[n] for name, column in columns.items() if isinstance(column, list) and n < len(column)}
            totals.append(reward(text, _sample(row, task, n)).total)
        return [total if math.isfinite(total) else None for total in totals]

    reward_func.__name__ = getattr(reward, "name", task)  # TRL logs it under this name
    return reward_func


def from_trl(function: TrlReward, conversational: bool = True) -> OwnFunction:
    """Convert a reward for TRL to one of this package, a function of one completion and one sample.

    If `conversational`, the function gets [{"role": "assistant", "content": text}] in place of the text.  It gets the
    columns `prompts`, `solution`, `problem`, `category`, `id`, and `image` if it has a parameter of that name.

    >>> def long_enough(completions, solution, **columns): return [float(len(c[0]["content"]) > 3) for c in completions]
    >>> sample = Sample("s0", Image.new("RGB", (4, 3)), "classification", "What?", "<answer>cat</answer>")
    >>> from_trl(long_enough)("a cat", sample)
    {'long_enough': 1.0}
    """
    name, parameters = function.__name__, inspect.signature(function).parameters

    def reward(completion: str, sample: Sample) -> Mapping[str, float]:
        message = [{"role": "assistant", "content": completion}] if conversational else completion
        columns = {"solution": sample.solution, "problem": sample.problem, "category": sample.category, "id": sample.id}
        if "image" in parameters:
            columns["image"] = sample.picture()
        known = {key: [value] for key, value in (columns | {"prompts": sample.problem}).items()}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            known = {key: value for key, value in known.items() if key in parameters}
        (value,) = function(completions=[message], **known)
        return {} if value is None else {name: value}

    reward.__name__, reward.__wrapped__ = name, function  # type: ignore[attr-defined]  # for `inspect.unwrap`
    return reward


def _sample(row: Mapping[str, Any], task: Task, n: int) -> Sample:
    """Convert a row of a TRL data set to a sample; a row without a picture gets a grey one."""
    image = row.get("image") or Image.new("RGB", (1, 1), "grey")
    return Sample(str(row.get("id", n)), image, task, row.get("problem", ""), row["solution"], row.get("category", ""))
