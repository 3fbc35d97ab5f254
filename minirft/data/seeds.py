"""The random stream of a step: a pure function of (seed, step)."""

from __future__ import annotations

import numpy as np
import torch


def step_seed(seed: int, step: int) -> int:
    """One 63-bit seed for each (seed, step), unrelated between neighbours.

    >>> step_seed(0, 1) == step_seed(0, 1), step_seed(0, 1) == step_seed(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random stream that samples the completions of a step."""
    return torch.Generator().manual_seed(step_seed(seed, step))
