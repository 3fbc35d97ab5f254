"""Which samples a step sees: a pure function of the configuration and the step.

Because no state is kept between steps, a resumed run asks for step 41 and gets what step 41 always gets.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minirft.config import DataConfig, GRPOConfig
from minirft.data.coco import load_coco
from minirft.data.shots import is_present, k_shot
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
        return lambda step: _tiny(data, count, step_seed(config.seed, step))
    return partial(cycle, training_set(data), config.seed, count)


def training_set(data: DataConfig) -> list[Sample]:
    """The finite training set: k shots of each category, or with `shots` 0 all that a COCO file has."""
    if data.kind == "coco":
        every = _coco(data, data.annotations, data.images, data.categories)
        return k_shot(every, data.shots, data.seed, data.negatives) if data.shots else every
    names, pool, enough = _tiny_names(data), 64, False
    while not enough:  # the world is endless, and its first samples do not depend on how many are drawn
        pool *= 2
        every = _tiny(data, pool, data.seed)
        shown = Counter(sample.category for sample in every if is_present(sample))
        enough = all(shown[name] >= data.shots for name in names)
    return k_shot(every, data.shots, data.seed, data.negatives)


def held_out(config: GRPOConfig) -> list[Sample]:
    """The samples that evaluation asks about, `config.eval_samples` at most; none of them is trained on.

    Raises `UserError` when there are none.
    """
    data, count = config.data, config.eval_samples or None
    categories = data.eval_categories or data.categories
    if data.kind == "tiny":
        from minirft.tiny.world import held_out as draw

        return draw(data.task, count or 1000, **_tiny_options(data, categories))
    if data.eval_annotations:
        every = _coco(data, data.eval_annotations, data.eval_images or data.images, categories)
        return _some(every, count, data.seed)
    trained_on = {sample.image for sample in training_set(data)}
    every = _coco(data, data.annotations, data.images, categories)
    left = [sample for sample in every if sample.image not in trained_on]
    if not left:
        raise UserError("training uses every picture, so none is left to evaluate on: set data.eval_annotations")
    return _some(left, count, data.seed)


def _some(samples: list[Sample], count: int | None, seed: int) -> list[Sample]:
    """`count` samples drawn by the seed, in their order: the first of a file are no fair sample of it."""
    if count is None or count >= len(samples):
        return samples
    chosen = np.random.default_rng(seed).choice(len(samples), count, replace=False)
    return [samples[i] for i in sorted(chosen)]


def cycle(samples: list[Sample], seed: int, count: int, step: int) -> list[Sample]:
    """The `count` samples of `step` when a finite set is gone through in epochs, reshuffled for each.

    >>> [sorted(cycle(["a", "b"], seed=0, count=2, step=step)) for step in (1, 2)]
    [['a', 'b'], ['a', 'b']]
    """
    chosen = []
    for position in range((step - 1) * count, step * count):
        epoch, index = divmod(position, len(samples))
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        chosen.append(samples[order[index]])
    return chosen


def _coco(data: DataConfig, annotations: Path | None, images: Path | None, categories: tuple[str, ...]) -> list[Sample]:
    if annotations is None:
        raise UserError("data.annotations is not set: name the COCO-format JSON file (--data.annotations FILE)")
    if images is None:
        raise UserError("data.images is not set: name the folder of the pictures (--data.images DIR)")
    if data.task not in ("detection", "presence"):
        raise UserError(f"data.task = {data.task!r}: a COCO file answers detection and presence questions only")
    return load_coco(
        annotations,
        images,
        categories or None,
        task=data.task,
        negatives=data.negatives,
        seed=data.seed,
        bad_boxes=data.bad_boxes,
    )


def _tiny(data: DataConfig, count: int, seed: int) -> list[Sample]:
    from minirft.tiny import world

    options = _tiny_options(data, data.categories)
    if data.task == "detection":
        options["absent"] = data.negatives
    return getattr(world, data.task)(count, seed, **options)


def _tiny_options(data: DataConfig, categories: tuple[str, ...]) -> dict[str, Any]:
    """What narrows a question of the tiny world down; for classification the one category is a family."""
    from minirft.tiny.lookalikes import FAMILIES
    from minirft.tiny.scenes import CATEGORIES

    known = list(FAMILIES) if data.task == "classification" else list(CATEGORIES)
    for name in categories:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known[:4])}, ..."
            raise UserError(f"data.categories: the tiny world has no {name}; {hint}")
    if data.task == "classification":
        return {"family": categories[0] if categories else known[0]}
    return {"categories": categories} if categories else {}


def _tiny_names(data: DataConfig) -> tuple[str, ...]:
    """The categories that k-shot counts by."""
    from minirft.tiny.lookalikes import FAMILIES
    from minirft.tiny.scenes import BASE

    if data.task == "grounding":
        raise UserError("data.shots: instructions have no categories to count shots by; set it to 0")
    if data.task == "classification":
        return tuple(FAMILIES[_tiny_options(data, data.categories)["family"]])
    return data.categories or BASE
