"""This module chooses the samples of a step, as a pure function of the configuration and the step.

No state is kept between steps, so step 41 gets the same samples in a resumed run.  The configuration is a `GRPOConfig`,
or any object with its fields `data`, `seed`, `prompts_per_step` and `eval_samples`.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np

from minirft import UserError
from minirft.data.checks import choose
from minirft.data.findings import report
from minirft.data.identity import without_pictures_of
from minirft.data.questions import together
from minirft.data.screening import Screening, redraw
from minirft.data.settings import DataConfig, evaluation_data
from minirft.data.shots import k_shot, k_shot_of_stream, of_split, read_split
from minirft.samples import Sample, step_seed
from minirft.tiny import BASE, CATEGORIES, FAMILIES, world

Feed = Callable[[int], list[Sample]]  # step -> P samples


def training_feed(config: Any, screening: Screening | None = None) -> Feed:
    """Return the function that gives the P training samples of a step; `screening` is as in `training_set`.

    Raises `UserError` when there are none.
    """
    data, count = config.data, config.prompts_per_step
    if data.kind == "tiny" and not data.shots:
        return lambda step: _tiny(data, count, step_seed(config.seed, step))
    return partial(cycle, training_set(data, screening), config.seed, count)


def training_set(data: DataConfig, screening: Screening | None = None) -> list[Sample]:
    """Return the finite training set: the samples of a split file, k shots of each category, or all if `shots` is 0.

    `screening` opens every picture and collects the problems; a picture that does not open is replaced by another draw.
    Without `screening` only rows and headers are read.
    """
    if data.kind == "tiny":
        options = _tiny_options(data)
        names = options["categories"] if "categories" in options else tuple(FAMILIES[options["family"]])
        return k_shot_of_stream(lambda n: _tiny(data, n, data.seed), names, data.shots, data.seed, data.negatives)
    return together(_drawn(data, screening or Screening(data, open_pictures=False)), data)


def first_samples(config: Any, steps: int, screening: Screening | None = None) -> list[Sample]:
    """Return the training set, or of the world that is drawn anew at every step the samples of the first `steps`."""
    if config.data.kind != "tiny" or config.data.shots:
        return training_set(config.data, screening)
    feed = training_feed(config)
    return [sample for step in range(1, steps + 1) for sample in feed(step)]


def _drawn(data: DataConfig, screening: Screening) -> list[Sample]:
    """Return the questions of the training set, about one category each."""
    from minirft.data.readers import candidates  # here, so that a run on the tiny world imports no reader

    ids = read_split(data.split, data.shots) if data.split else None
    every = candidates(data, only=ids, findings=screening.findings)
    if data.split and ids:
        every = of_split(ids, every, data.split, screening.findings)
    if ids or not data.shots:
        return redraw(lambda bad: [sample for sample in every if sample.id not in bad], every, screening)
    return redraw(lambda bad: k_shot(every, data.shots, data.seed, data.negatives, bad), every, screening)


def validation(config: Any, screening: Screening | None = None) -> list[Sample]:
    """Return the samples for the evaluations during training, at most `config.eval_samples`.

    The tiny world draws them from a separate stream, so that settings chosen by these curves are not chosen by the
    test questions.  For other data they are the questions of `held_out`.
    """
    if evaluation_data(config.data).kind == "tiny":
        return _held_out_of_tiny(config, world.VALIDATION)
    return held_out(config, screening)


def held_out(config: Any, screening: Screening | None = None) -> list[Sample]:
    """Return the test samples, at most `config.eval_samples`.

    If the settings name no evaluation data, these are the pictures that are not trained on; a copy of a training
    picture (equal bytes under another name) is excluded too.  In separate evaluation data copies stay, and
    `minirft data inspect` reports them.  `screening` is as in `training_set`.  Raises `UserError` when there are none.
    """
    data, count = config.data, config.eval_samples or None
    other = evaluation_data(data)
    if other.kind == "tiny":
        return _held_out_of_tiny(config, world.TEST)
    from minirft.data.readers import candidates, parts_of

    screening = screening or Screening(data, open_pictures=False)
    part = _part(data.eval_part, parts_of(other))
    own = data.eval_annotations or data.eval_folder or (data.eval_kind or data.kind) != data.kind
    if part != "train" or own:
        prefix = "eval_" if other.kind != data.kind else ""
        left = candidates(other, part, prefix=prefix, findings=screening.findings)
    else:
        every = candidates(other, findings=screening.findings)
        left = without_pictures_of(every, training_set(data, screening))
    sound = screening.sound(subset(together(left, other), count, data.seed))
    screening.settle()
    if not sound:
        field = "eval_annotations" if data.kind in ("coco", "lvis", "csv", "jsonl") else "eval_folder"
        raise UserError(f"training uses every picture, so none is left to evaluate on: set data.{field}")
    return sound


def _held_out_of_tiny(config: Any, stream: int) -> list[Sample]:
    data = evaluation_data(config.data)
    return world.held_out(data.task, config.eval_samples or 1000, stream, **_tiny_options(data))


def _part(wanted: str, parts: Collection[str]) -> str:
    """Return the part to evaluate on: `wanted`; if there is no test part val, and if there is no val part either train.

    >>> _part("test", ["train", "test"]), _part("test", ["train", "val"]), _part("test", ["train"]), _part("val", [])
    ('test', 'val', 'train', 'train')
    """
    if wanted in parts:
        return wanted
    if wanted == "test" and "val" in parts:
        report("there is no test part: the val part is held out")
        return "val"
    if wanted == "test" or not parts:
        return "train"
    raise UserError(f"data.eval_part = {wanted!r}: this data has the parts {', '.join(parts)}; name one of them")


def subset(samples: list[Sample], count: int | None, seed: int) -> list[Sample]:
    """Draw `count` samples with the seed, in their order; the first ones of a file would be a biased choice."""
    if count is None or count >= len(samples):
        return samples
    chosen = np.random.default_rng(seed).choice(len(samples), count, replace=False)
    return [samples[i] for i in sorted(chosen)]


def cycle(samples: list[Sample], seed: int, count: int, step: int) -> list[Sample]:
    """Return the `count` samples of `step` from a finite set, which is shuffled anew for each epoch.

    >>> [sorted(cycle(["a", "b"], seed=0, count=2, step=step)) for step in (1, 2)]
    [['a', 'b'], ['a', 'b']]
    """
    chosen = []
    for position in range((step - 1) * count, step * count):
        epoch, index = divmod(position, len(samples))
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        chosen.append(samples[order[index]])
    return chosen


def _tiny(data: DataConfig, count: int, seed: int) -> list[Sample]:
    options = _tiny_options(data)
    if data.task == "detection":
        options["absent"] = data.negatives
    return getattr(world, data.task)(count, seed, **options)


def _tiny_options(data: DataConfig) -> dict[str, Any]:
    """Return the options that restrict the tiny world's questions; in classification the category is a family."""
    labels = data.task == "classification"
    known, usual = (tuple(FAMILIES), tuple(FAMILIES)) if labels else (CATEGORIES, BASE)
    chosen = tuple(choose(data.categories or usual, known, "data.categories: the tiny world"))
    return {"family": chosen[0]} if labels else {"categories": chosen}
