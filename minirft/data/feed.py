"""Which samples a step sees: a pure function of the configuration and the step.

Because no state is kept between steps, a resumed run asks for step 41 and gets what step 41 always gets.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from minirft import UserError
from minirft.data.identity import without_pictures_of
from minirft.data.settings import DataConfig
from minirft.data.shots import k_shot, k_shot_of_stream, read_split, split_ids
from minirft.samples import Sample, step_seed

Feed = Callable[[int], list[Sample]]  # step -> P samples
PARTS = ("flowers", "pets", "aircraft", "cars", "reasonseg")  # sets whose files say what is for testing


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


def training_feed(config: Asked) -> Feed:
    """The training samples of every step, P at a time.  Raises `UserError` when there are none."""
    data, count = config.data, config.prompts_per_step
    if data.kind == "tiny" and not data.shots:
        return lambda step: _tiny(data, count, step_seed(config.seed, step))
    return partial(cycle, training_set(data), config.seed, count)


def training_set(data: DataConfig) -> list[Sample]:
    """The finite training set: those a split file names, k shots of each category, or with `shots` 0 all there are."""
    if data.split:
        return read_split(data.split, candidates(data, only=split_ids(data.split)))
    if data.kind != "tiny":
        every = candidates(data)
        return k_shot(every, data.shots, data.seed, data.negatives) if data.shots else every
    return k_shot_of_stream(
        lambda n: _tiny(data, n, data.seed), _tiny_names(data), data.shots, data.seed, data.negatives
    )


def validation(config: Asked) -> list[Sample]:
    """The samples that a run is evaluated on while it trains, `config.eval_samples` at most.

    The tiny world has a stream of its own for them, so that whoever chooses settings by a curve does not choose them by
    the test questions.  Of other data these are the questions of `held_out`.
    """
    if evaluation_data(config.data).kind == "tiny":
        return _held_out_of_tiny(config, "VALIDATION")
    return held_out(config)


def held_out(config: Asked) -> list[Sample]:
    """The test samples, `config.eval_samples` at most.

    Without data of its own for evaluation these are of pictures that are not trained on, also under the name of another
    file or row with the same bytes; of data of its own `minirft data inspect` reports them.  Raises `UserError` when
    there are none.
    """
    data, count = config.data, config.eval_samples or None
    other = evaluation_data(data)
    if other.kind == "tiny":
        return _held_out_of_tiny(config, "TEST")
    part = data.eval_part if other.kind in PARTS else "train"
    if (other.kind in PARTS and part != "train") or _has_evaluation_data(data):
        return _some(candidates(other, part, prefix="eval_" if other.kind != data.kind else ""), count, data.seed)
    left = without_pictures_of(candidates(other), training_set(data))
    if not left:
        field = "eval_annotations" if data.kind in ("coco", "lvis") else "eval_folder"
        raise UserError(f"training uses every picture, so none is left to evaluate on: set data.{field}")
    return _some(left, count, data.seed)


def _held_out_of_tiny(config: Asked, stream: str) -> list[Sample]:
    from minirft.tiny import world

    data = evaluation_data(config.data)
    options = _tiny_options(data, data.categories)
    return world.held_out(data.task, config.eval_samples or 1000, getattr(world, stream), **options)


def evaluation_data(data: DataConfig) -> DataConfig:
    """The settings of the evaluation data: each `eval_` field in the place of its own where it is set.

    >>> evaluation_data(DataConfig(categories=("cat",), eval_categories=("dog",))).categories
    ('dog',)
    """
    return replace(
        data,
        kind=data.eval_kind or data.kind,
        annotations=data.eval_annotations or data.annotations,
        images=data.eval_images or data.images,
        folder=data.eval_folder or data.folder,
        categories=data.eval_categories or data.categories,
        split=None,
        shots=0,
    )


def candidates(
    data: DataConfig, part: str = "train", only: Collection[str] | None = None, prefix: str = ""
) -> list[Sample]:
    """All samples of one part of the files, before shots are drawn; with `only`, those ids at least.

    Raises `UserError` for a path that is not set, whose field's name begins with `prefix`, and for everything in the
    files that cannot be right.
    """
    # Here, so that a run on the tiny world imports no reader.
    from minirft.data.coco import load_coco
    from minirft.data.fine_grained import load_fine_grained
    from minirft.data.folder import load_folder
    from minirft.data.lvis import load_lvis
    from minirft.data.reasonseg import load_reasonseg
    from minirft.data.virft import load_virft

    names = data.categories or None
    if data.kind in ("coco", "lvis"):
        options = {"negatives": data.negatives, "seed": data.seed, "bad_boxes": data.bad_boxes, "only": only}
        load = load_coco if data.kind == "coco" else load_lvis
        return load(_set(data, "annotations", prefix), _set(data, "images", prefix), names, task=data.task, **options)
    folder = _set(data, "folder", prefix)
    if data.kind == "folder":
        return load_folder(folder, names, family=data.family)
    if data.kind == "virft":
        return load_virft(folder, data.task, names, bad_boxes=data.bad_boxes)
    return (
        load_reasonseg(folder, part) if data.kind == "reasonseg" else load_fine_grained(data.kind, folder, part, names)
    )


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


def _set(data: DataConfig, field: str, prefix: str) -> Path:
    """A path that this kind of data needs."""
    path = getattr(data, field)
    if path is None:
        what = {
            "annotations": f"the {data.kind.upper()}-format JSON file (--data.{prefix}annotations FILE)",
            "images": f"the folder of the pictures (--data.{prefix}images DIR)",
            "folder": f"the folder of the {data.kind} data (--data.{prefix}folder DIR)",
        }[field]
        raise UserError(f"data.{prefix}{field} is not set: name {what}")
    return path


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
    from minirft.tiny import BASE, FAMILIES

    if data.task == "classification":
        return tuple(FAMILIES[_tiny_options(data, data.categories)["family"]])
    return data.categories or BASE
