"""Completions and samples as queries: what was found and what is true, one category in one picture each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minirft.evaluation.measures import Array
from minirft.rewards import (
    MODEL,
    Detections,
    ParseFailure,
    convert,
    is_well_formed,
    normalise,
    parse,
    parse_solution,
)
from minirft.samples import Sample, Task

NOTHING = Detections(np.zeros((0, 4)), np.zeros(0))


def read(task: Task, completions: Sequence[str], samples: Sequence[Sample]) -> tuple[list[Any], list[Any], Array]:
    """Every answer or failure, every truth, and whether the answer parses and is in the format asked for."""
    answers = [parse(task, text) for text in completions]
    truths = [parse_solution(task, sample.solution) for sample in samples]
    pairs = zip(answers, completions, strict=True)
    well_formed = [not isinstance(answer, ParseFailure) and is_well_formed(text) for answer, text in pairs]
    return answers, truths, np.array(well_formed, dtype=np.float64)


def read_boxes(completions: Sequence[str], samples: Sequence[Sample]) -> tuple[Any, ...]:
    """Answers or failures, found boxes, true boxes and crowds, one frame a query; which answers are sound; whose query.

    The last two are `owner`, the sample's place, and `names`, the category: a sample that asks about several categories
    becomes one query for each.
    """
    answers, truth, well_formed = read("detection", completions, samples)
    columns: list[tuple[Any, ...]] = []
    for q, sample in enumerate(samples):
        answer, exact, crowds = answers[q], sample.exact, Detections(np.zeros((0, 4)), np.zeros(0))
        found, true = NOTHING if isinstance(answer, ParseFailure) else answer, truth[q]
        if exact is not None:
            found = replace(found, boxes=convert(found.boxes, MODEL, exact.frame))
            own, others = exact.labels[: len(exact.boxes)], exact.labels[len(exact.boxes) :]
            true = Detections(exact.boxes, np.ones(len(exact.boxes)), labels=own)
            crowds = Detections(exact.crowds, np.ones(len(exact.crowds)), labels=others)
        for name in sample.asked or ("",):  # "": the category needs no label
            parts = (labelled(boxes, name, sample.asked) for boxes in (found, true))
            region = labelled(crowds, name, sample.asked).boxes
            columns.append((answer, *parts, region, well_formed[q], q, name or sample.category))
    *lists, sound, owner, names = (list(column) for column in zip(*columns, strict=True))
    return *lists, np.array(sound), np.array(owner), names


def labelled(boxes: Detections, name: str, asked: Sequence[str] = ()) -> Detections:
    """The boxes with a label.  What has a label that was not asked for is malformed, and counts with the first label.

    >>> two = Detections(np.zeros((2, 4)), np.ones(2), labels=("cat", "dog"))
    >>> [(len(labelled(two, name, ("cat",)).boxes), labelled(two, name, ("cat",)).invalid) for name in ("cat", "dog")]
    [(1, 1), (1, 0)]
    """
    labels, name = [normalise(label) for label in boxes.labels] or [""] * len(boxes.boxes), normalise(name)
    known = {normalise(label) for label in asked} or {""}
    first = not asked or name == normalise(asked[0])
    strays = sum(label not in known for label in labels) + boxes.invalid if first else 0
    mine = np.array([label == name for label in labels], dtype=bool)
    kept = tuple(label for label, is_mine in zip(boxes.labels, mine, strict=False) if is_mine)
    return replace(boxes, boxes=boxes.boxes[mine], confidence=boxes.confidence[mine], invalid=strays, labels=kept)
