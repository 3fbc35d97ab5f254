"""Which samples a step sees: a pure function of the configuration and the step.

Because no state is kept between steps, a resumed run asks for step 41 and gets what step 41 always gets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol

import numpy as np

from minirft import UserError
from minirft.data.checks import choose
from minirft.data.findings import tell
from minirft.data.identity import without_pictures_of
from minirft.data.screening import Screening, redraw
from minirft.data.settings import DataConfig, evaluation_data
from minirft.data.shots import k_shot, k_shot_of_stream, of_split, read_split
from minirft.samples import Sample, step_seed

Feed = Callable[[int], list[Sample]]  # step -> P samples


class Asked(Protocol):
    """What this module reads of a run's settings; `GRPOConfig` has it all."""

    @property
    def data(self) -> DataConfig: ...
    @property
    def seed(self) -> int: ...
    @property
    def prompts_per_step(self) -> int: ...
    @property
    def eval_samples(self) -> int: ...


def training_feed(config: Asked, screening: Screening | None = None) -> Feed:
    """The training samples of every step, P at a time; `screening` as in `training_set`.

    Raises `UserError` when there are none.
    """
    data, count = config.data, config.prompts_per_step
    if data.kind == "tiny" and not data.shots:
        return lambda step: _tiny(data, count, step_seed(config.seed, step))
    return partial(cycle, training_set(data, screening), config.seed, count)


def training_set(data: DataConfig, screening: Screening | None = None) -> list[Sample]:
    """The finite training set: those a split file names, k shots of each category, or with `shots` 0 all there are.

    `screening` gathers what is bad; it opens every picture, and of one that does not open another is drawn in the
    place.  Without one only rows and headers are looked at.
    """
    if data.kind == "tiny":
        return k_shot_of_stream(
            lambda n: _tiny(data, n, data.seed), _tiny_names(data), data.shots, data.seed, data.negatives
        )
    from minirft.data.together import together  # here, so that a run on the tiny world imports no reader

    return together(_drawn(data, screening or Screening(data.on_bad, data.max_bad, open_pictures=False)), data)


def _drawn(data: DataConfig, screening: Screening) -> list[Sample]:
    """The questions of the training set, about one category each."""
    from minirft.data.readers import candidates

    named = read_split(data.split, data.shots) if data.split else None
    every = candidates(data, only=named, findings=screening.findings)
    if data.split and named:
        every = of_split(named, every, data.split, screening.findings)
    if named or not data.shots:
        return redraw(lambda bad: [sample for sample in every if sample.id not in bad], every, screening)
    return redraw(lambda bad: k_shot(every, data.shots, data.seed, data.negatives, bad), every, screening)


def validation(config: Asked, screening: Screening | None = None) -> list[Sample]:
    """The samples that a run is evaluated on while it trains, `config.eval_samples` at most.

    The tiny world has a stream of its own for them, so that whoever chooses settings by a curve does not choose them by
    the test questions.  Of other data these are the questions of `held_out`.
    """
    if evaluation_data(config.data).kind == "tiny":
        return _held_out_of_tiny(config, "VALIDATION")
    return held_out(config, screening)


def held_out(config: Asked, screening: Screening | None = None) -> list[Sample]:
    """The test samples, `config.eval_samples` at most.

    Without data of its own for evaluation these are of pictures that are not trained on, also under the name of another
    file or row with the same bytes; of data of its own `minirft data inspect` reports them.  `screening` as in
    `training_set`.  Raises `UserError` when there are none.
    """
    data, count = config.data, config.eval_samples or None
    other = evaluation_data(data)
    if other.kind == "tiny":
        return _held_out_of_tiny(config, "TEST")
    from minirft.data.readers import candidates, parts_of
    from minirft.data.together import together

    screening = screening or Screening(data.on_bad, data.max_bad, open_pictures=False)
    part = _part(data.eval_part, parts_of(other))
    if part != "train" or _has_evaluation_data(data):
        prefix = "eval_" if other.kind != data.kind else ""
        left = candidates(other, part, prefix=prefix, findings=screening.findings)
    else:
        every = candidates(other, findings=screening.findings)
        left = without_pictures_of(every, training_set(data, screening))
    sound = screening.sound(_some(together(left, other), count, data.seed))
    screening.settle()
    if not sound:
        field = "eval_annotations" if data.kind in ("coco", "lvis", "csv", "jsonl") else "eval_folder"
        raise UserError(f"training uses every picture, so none is left to evaluate on: set data.{field}")
    return sound


def _held_out_of_tiny(config: Asked, stream: str) -> list[Sample]:
    from minirft.tiny import world

    data = evaluation_data(config.data)
    options = _tiny_options(data, data.categories)
    return world.held_out(data.task, config.eval_samples or 1000, getattr(world, stream), **options)


def _part(wanted: str, parts: Collection[str]) -> str:
    """The part to evaluate on: that which is wanted, val in place of a test part that is not there, or train.

    >>> _part("test", ["train", "test"]), _part("test", ["train", "val"]), _part("test", [])
    ('test', 'val', 'train')
    """
    if wanted in parts or not parts:
        return wanted if parts else "train"
    if wanted == "test" and "val" in parts:
        tell("there is no test part: the val part is held out")
        return "val"
    raise UserError(f"data.eval_part = {wanted!r}: this data has the parts {', '.join(parts)}; name one of them")


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


def _has_evaluation_data(data: DataConfig) -> bool:
    return bool(data.eval_annotations or data.eval_folder or (data.eval_kind or data.kind) != data.kind)


def _tiny(data: DataConfig, count: int, seed: int) -> list[Sample]:
    from minirft.tiny import world

    options = _tiny_options(data, data.categories)
    if data.task == "detection":
        options["absent"] = data.negatives
    return getattr(world, data.task)(count, seed, **options)


def _tiny_options(data: DataConfig, categories: tuple[str, ...]) -> dict[str, Any]:
    """What narrows a question of the tiny world down; for classification the one category is a family."""
    from minirft.tiny import CATEGORIES, FAMILIES

    known = list(FAMILIES) if data.task == "classification" else list(CATEGORIES)
    categories = tuple(choose(categories, known, "data.categories: the tiny world")) if categories else ()
    if data.task == "classification":
        return {"family": categories[0] if categories else known[0]}
    return {"categories": categories} if categories else {}


def _tiny_names(data: DataConfig) -> tuple[str, ...]:
    """The categories that k-shot counts by."""
    from minirft.tiny import BASE, FAMILIES

    if data.task == "classification":
        return tuple(FAMILIES[_tiny_options(data, data.categories)["family"]])
    return _tiny_options(data, data.categories).get("categories", BASE)
