"""A query is one category in one picture; this module turns completions and samples into queries."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minirft.evaluation.measures import Array
from minirft.rewards import MODEL, Detections, ParseFailure, convert, is_well_formed, normalise, parse, parse_solution
from minirft.samples import Sample, Task

NOTHING = Detections(np.zeros((0, 4)), np.zeros(0))


def parse_all(task: Task, completions: Sequence[str], samples: Sequence[Sample]) -> tuple[list[Any], list[Any], Array]:
    """Parse all answers (or failures) and all truths, and check whether each answer parses and has the right format."""
    answers = [parse(task, text) for text in completions]
    truths = [parse_solution(task, sample.solution) for sample in samples]
    pairs = zip(answers, completions, strict=True)
    well_formed = [not isinstance(answer, ParseFailure) and is_well_formed(text) for answer, text in pairs]
    return answers, truths, np.array(well_formed, dtype=np.float64)


def parse_boxes(completions: Sequence[str], samples: Sequence[Sample]) -> tuple[Any, ...]:
    """Parse detection answers into queries; a question about several categories becomes one query for each.

    The columns are the answers or failures, found boxes, true boxes, crowds, well_formed, owner (the index of the
    sample) and names (the category).  All boxes of a query are in one frame.
    """
    answers, truth, well_formed = parse_all("detection", completions, samples)
    columns: list[tuple[Any, ...]] = []
    for q, sample in enumerate(samples):
        answer, exact, crowds = answers[q], sample.exact, NOTHING
        found, true = NOTHING if isinstance(answer, ParseFailure) else answer, truth[q]
        if exact is not None:
            found = replace(found, boxes=convert(found.boxes, MODEL, exact.frame))
            own, others = exact.labels[: len(exact.boxes)], exact.labels[len(exact.boxes) :]
            true = Detections(exact.boxes, np.ones(len(exact.boxes)), labels=own)
            crowds = Detections(exact.crowds, np.ones(len(exact.crowds)), labels=others)
        for name in sample.asked or ("",):  # "": a question about one category has no labels
            parts = (labelled(boxes, name, sample.asked) for boxes in (found, true))
            region = labelled(crowds, name, sample.asked).boxes
            columns.append((answer, *parts, region, q, name or sample.category))
    *lists, owner, names = (list(column) for column in zip(*columns, strict=True))
    return *lists, well_formed[owner], np.array(owner), names


def labelled(boxes: Detections, name: str, asked: Sequence[str] = ()) -> Detections:
    """Select the boxes with a label.  A label outside `asked` is malformed, and is counted with the first label.

    >>> two = Detections(np.zeros((2, 4)), np.ones(2), labels=("cat", "dog"))
    >>> [(len(labelled(two, name, ("cat",)).boxes), labelled(two, name, ("cat",)).invalid) for name in ("cat", "dog")]
    [(1, 1), (1, 0)]
    """
    labels, name = [normalise(label) for label in boxes.labels] or [""] * len(boxes.boxes), normalise(name)
    known = {normalise(label) for label in asked} or {""}
    first = not asked or name == normalise(asked[0])
    strays = sum(label not in known for label in labels) + boxes.invalid if first else 0
    mine = np.array([label == name for label in labels], dtype=bool)
    return Detections(boxes.boxes[mine], boxes.confidence[mine], invalid=strays)
