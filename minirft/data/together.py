"""This module joins the detection questions about one picture into questions about several categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from minirft.data.questions import question
from minirft.data.settings import DataConfig
from minirft.rewards import parse_solution, prompts
from minirft.samples import Sample, TrueBoxes


def together(samples: Sequence[Sample], data: DataConfig) -> list[Sample]:
    """Join up to `data.categories_per_question` samples about the same picture into one.

    A joined sample has the boxes of all its categories, each with its label; pictures keep their order.

    >>> from pathlib import Path
    >>> boxes = {"cat": prompts.detection_solution([[0, 0, 9, 9]]), "dog": prompts.detection_solution([])}
    >>> pair = [Sample(f"7:{name}", Path("7.jpg"), "detection", "", text, name) for name, text in boxes.items()]
    >>> (one,) = together(pair, DataConfig("coco", categories_per_question=2))
    >>> one.id, one.asked, one.solution
    ('7:cat+dog', ('cat', 'dog'), "<answer>[{'Position': [0, 0, 9, 9], 'Label': 'cat', 'Confidence': 1}]</answer>")
    """
    size = data.categories_per_question
    if size == 1:
        return list(samples)
    pictures: dict[str, list[Sample]] = {}
    for sample in samples:
        pictures.setdefault(_picture(sample), []).append(sample)
    return [_joined(own[first : first + size], data) for own in pictures.values() for first in range(0, len(own), size)]


def _picture(sample: Sample) -> str:
    """Return the part of an id such as 139:cat that names the picture."""
    return sample.id.removesuffix(f":{sample.category}")


def _joined(samples: Sequence[Sample], data: DataConfig) -> Sample:
    names = tuple(sample.category for sample in samples)
    boxes = [(box, s.category) for s in samples for box in parse_solution("detection", s.solution).boxes]
    solution = prompts.detection_solution([box for box, _ in boxes], labels=[name for _, name in boxes])
    problem = question("detection", ", ".join(names), data.question, prompts.detection_together(names))
    return replace(
        samples[0],
        id=f"{_picture(samples[0])}:{'+'.join(names)}",
        problem=problem,
        solution=solution,
        category=", ".join(names),
        asked=names,
        exact=_exact(samples),
    )


def _exact(samples: Sequence[Sample]) -> TrueBoxes | None:
    known = [(sample.category, sample.exact) for sample in samples if sample.exact is not None]
    if not known:
        return None
    labels = [name for name, exact in known for _ in exact.boxes]
    labels += [name for name, exact in known for _ in exact.crowds]
    boxes, crowds = (np.concatenate(side) for side in zip(*((e.boxes, e.crowds) for _, e in known), strict=True))
    return TrueBoxes(known[0][1].frame, boxes, crowds, tuple(labels))
