"""This module writes the question of a sample: the paper's or your own template, and the labels of a closed set.

It also joins the detection questions about one picture into questions about several categories.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minirft import UserError
from minirft.data.checks import choose, usable
from minirft.data.findings import Findings, report
from minirft.data.settings import FAMILY, FIELD, DataConfig
from minirft.rewards import parse_solution, prompts
from minirft.samples import Sample, Task, TrueBoxes

LISTED = 30  # most labels of an own set that are listed in a question
_FORMATS = ("Output the thinking process", "Write down your reasoning")  # the start of the answer instructions


@dataclass(frozen=True)
class Labelled:
    """A `Labelled` is a picture with its label; `advice` is part of the error if the picture is missing."""

    id: str
    image: Any
    label: str
    advice: str = "check data.folder"


def label_samples(
    data: DataConfig, source: Path, rows: Collection[Labelled], findings: Findings, known: Collection[str] = ()
) -> list[Sample]:
    """Return a classification sample for each row with a chosen label; an unusable picture goes to `findings`.

    `known` are all labels of the set in their order, if the rows do not contain them all.  EXIF rotations are applied,
    except in the published sets.  Raises `UserError` for an unknown category, and when no sample is left.
    """
    chosen = choose(data.categories, known or sorted({row.label for row in rows}), source)
    own, wanted = data.kind not in FAMILY, set(chosen)
    text = label_question(data, chosen)
    samples = []
    for row in rows:
        if row.label in wanted and (header := usable(findings, row.image, row.advice, [row.id], turn=own)):
            solution, upright = prompts.label_solution(row.label), own and header.marked
            samples.append(Sample(row.id, row.image, "classification", text, solution, row.label, upright=upright))
    if not samples:
        raise UserError(f"{source} has no picture with a label to ask about; check the data settings")
    return samples


def question(task: Task, what: str, template: str = "", usual: str = "") -> str:
    """Return the question of `task` about `what`: a category, an instruction, or a family for classification.

    `template` replaces the paper's question.  The paper's answer instructions are added, unless the template contains
    <answer>.  {category} or {instruction} in it becomes `what`; other braces stay.  `usual` is the question without a
    template, if it is not the paper's.

    >>> question("detection", "cat", "Where is every {category}?").splitlines()[0]
    'Where is every cat?'
    >>> question("detection", "cat") == prompts.detection("cat")
    True
    """
    usual = usual or getattr(prompts, task)(what)
    if not template:
        return usual
    text = template.replace(FIELD[task], what) if FIELD[task] else template
    if "<answer>" in template:
        return text
    start = min(place for mark in _FORMATS if (place := usual.find(mark)) >= 0)
    return f"{text}\n{usual[start:]}"


def label_question(data: DataConfig, labels: Sequence[str]) -> str:
    """Return the classification question of a set, the same for all its pictures.

    {labels} in `data.question` becomes the list of labels.  Without it, the list is added to the question if
    `data.list_labels` is "yes", or if it is "auto" and the set is the user's own with at most `LISTED` labels (the
    published sets keep the paper's words).  Without the list a model cannot know that a dog's label is "dogs" here.

    >>> label_question(DataConfig("folder", "classification"), ["dogs", "cats"]).splitlines()[0][-33:]
    'The answer is one of: dogs, cats.'
    """
    listed, own = ", ".join(labels), data.kind not in FAMILY
    if own and (pair := one_class_twice(labels)):
        report(f"the labels {pair[0]!r} and {pair[1]!r} look like one class: rename one, or answers to it are wrong")
    text = question("classification", FAMILY.get(data.kind, data.family), data.question.replace("{labels}", listed))
    if "{labels}" in data.question:
        return text
    if data.list_labels == "yes" or (data.list_labels == "auto" and own and 1 < len(labels) <= LISTED):
        first, _, rest = text.partition("\n")
        return f"{first} The answer is one of: {listed}.\n{rest}"
    if own and (plurals := [label for label in labels if is_plural(label)]):
        report(
            f"labels such as {plurals[0]!r} are plurals, and {plurals[0][:-1]!r} would earn nothing: name them as they "
            f'are to be answered, or set data.list_labels = "yes"'
        )
    return text


def one_class_twice(labels: Sequence[str]) -> tuple[str, str] | None:
    """Return the first two labels that differ only in case or in a plural s, or None.

    >>> one_class_twice(["cat", "dogs", "Dog"])
    ('dogs', 'Dog')
    """
    first: dict[str, str] = {}
    for label in labels:
        stem = label.casefold()
        other = first.setdefault(stem[:-1] if is_plural(stem) else stem, label)
        if other is not label:
            return other, label
    return None


def is_plural(label: str) -> bool:
    """Return whether a label ends like an English plural.

    >>> is_plural("dogs"), is_plural("grass"), is_plural("ibis"), is_plural("cactus")
    (True, False, False, False)
    """
    return label.endswith("s") and not label.endswith(("ss", "us", "is"))


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
