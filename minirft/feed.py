"""Which samples a step sees: a pure function of the configuration and the step.

Because no state is kept between steps, a resumed run asks for step 41 and gets what step 41 always gets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from minirft.config import DataConfig, GRPOConfig
from minirft.samples import Sample, UserError

Feed = Callable[[int], list[Sample]]  # step -> P samples


def step_seed(seed: int, step: int) -> int:
    """One 63-bit seed for each (seed, step), unrelated between neighbours.

    >>> step_seed(0, 1) == step_seed(0, 1), step_seed(0, 1) == step_seed(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random stream that samples the completions of a step."""
    return torch.Generator().manual_seed(step_seed(seed, step))


def training_feed(config: GRPOConfig) -> Feed:
    """The training samples of every step, P at a time.  Raises `UserError` when there are none."""
    data, count = config.data, config.prompts_per_step
    if data.kind == "tiny" and not data.shots:
        return lambda step: _tiny(data)(count, seed=step_seed(config.seed, step))
    samples = _tiny_shots(data) if data.kind == "tiny" else _coco(data)[0]
    return partial(cycle, samples, config.seed, count)


def held_out(config: GRPOConfig) -> list[Sample]:
    """The samples that evaluation asks about, `config.eval_samples` at most."""
    data, count = config.data, config.eval_samples
    if data.kind == "tiny":
        from minirft.tiny.world import held_out as draw

        return draw(data.task, count or 1000, **_tiny_options(data, data.eval_categories or data.categories))
    samples = _coco(data)[1]
    return samples[:count] if count else samples


def cycle(samples: list[Sample], seed: int, count: int, step: int) -> list[Sample]:
    """The `count` samples of `step` when a finite set is gone through in epochs, reshuffled for each.

    >>> [cycle(["a", "b", "c"], 0, 2, step) for step in (1, 2, 3)] == [cycle(["a", "b", "c"], 0, 2, s) for s in (1, 2, 3)]
    True
    >>> sorted(sum([cycle(["a", "b", "c"], 0, 2, step) for step in (1, 2, 3)], []))
    ['a', 'a', 'b', 'b', 'c', 'c']
    """
    chosen = []
    for position in range((step - 1) * count, step * count):
        epoch, index = divmod(position, len(samples))
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        chosen.append(samples[order[index]])
    return chosen
