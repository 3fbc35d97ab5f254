"""This module counts what a set of samples holds, and warns of properties that would spoil a run."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from minirft.data.identity import picture_keys
from minirft.data.screening import key
from minirft.data.shots import is_present
from minirft.rewards import true_boxes
from minirft.samples import Sample

THIN = 10  # thousandths of the picture; an error of a few thousandths misses a box this thin (IoU < .5)
UNEQUAL = 20  # ratio of the largest to the smallest category
SHOWN = 5  # names in a warning


def summarise(samples: Sequence[Sample]) -> dict[str, Any]:
    """Count samples, pictures, boxes, the share of absent questions, and all of these by category, ready for JSON.

    In grounding the categories are instructions, so they are counted but not listed.
    """
    table: dict[str, dict[str, int]] = {}
    for sample in samples:
        row = table.setdefault(sample.category, {"samples": 0, "absent": 0, "boxes": 0})
        row["samples"] += 1
        row["absent"] += not is_present(sample)
        row["boxes"] += len(true_boxes(sample))
    listed = {sample.task for sample in samples} != {"grounding"}
    return {
        "samples": len(samples),
        "pictures": len({key(sample) for sample in samples}),
        "boxes": sum(row["boxes"] for row in table.values()),
        "absent": sum(row["absent"] for row in table.values()) / max(len(samples), 1),
        "categories": len(table),
        "by_category": dict(sorted(table.items(), key=lambda item: -item[1]["samples"])) if listed else {},
    }


def warnings(
    samples: Sequence[Sample],
    max_completion_length: int,
    held_out: Sequence[Sample] = (),
    wanted: Sequence[str] = (),
) -> list[str]:
    """Return one line for each property that would spoil training on `samples` or make `held_out` an unfair test.

    `wanted` are the categories that the settings name.
    """
    lines, tasks = [], {sample.task for sample in samples}
    present, absent = Counter[str](), Counter[str]()
    for sample in samples:
        (present if is_present(sample) else absent)[sample.category] += 1
    if tasks & {"detection", "presence"} and not absent:
        lines.append("no question is about an absent category: nothing teaches the answer No Objects (or no)")
    never = [name for name in dict.fromkeys([*wanted, *absent]) if name not in present]
    if never:
        lines.append(f"in no picture: {_some(never)}")
    if present and "grounding" not in tasks and max(present.values()) >= UNEQUAL * min(present.values()):
        (most, many), (least, few) = present.most_common()[0], present.most_common()[-1]
        lines.append(f"unequal categories: {many} pictures of {most}, {few} of {least}; data.shots evens them out")
    long = [sample.id for sample in samples if len(re.findall(r"\d", sample.solution)) > max_completion_length]
    if long:
        limit = f"the {max_completion_length} tokens of max_completion_length, and every digit is a token"
        lines.append(f"{len(long)} solutions have more digits than {limit}: {_some(long)}")
    boxes = np.concatenate([np.zeros((0, 4)), *(true_boxes(sample) for sample in samples)])
    thin = int(((boxes[:, 2:] - boxes[:, :2]).min(-1, initial=np.inf) < THIN).sum()) if len(boxes) else 0
    if thin > len(boxes) / 10:
        lines.append(f"{thin} of {len(boxes)} boxes are thinner than {THIN} thousandths of the picture: hard to hit")
    twice = [name for (_, name), count in Counter((key(s), s.problem) for s in samples).items() if count > 1]
    if twice:
        lines.append(f"{len(twice)} questions are asked more than once about the same picture")
    return lines + _copies(samples, held_out)


def _copies(samples: Sequence[Sample], held_out: Sequence[Sample]) -> list[str]:
    """Return warnings of pictures with equal content under different names, within a part or in both."""
    contents, lines = picture_keys([*samples, *held_out]), []
    trained, tested = contents[: len(samples)], set(contents[len(samples) :])
    places: dict[Any, set[str]] = {}
    for sample, content in zip(samples, trained, strict=True):
        places.setdefault(content, set()).add(key(sample))
    copies = sum(len(files) - 1 for files in places.values())
    if copies:
        example = next(sorted(files) for files in places.values() if len(files) > 1)
        lines.append(f"{copies} pictures are copies of others, such as {example[0]} and {example[1]}")
    shared = [min(files) for content, files in places.items() if content in tested]
    if shared:
        lines.append(f"{len(shared)} pictures are both trained and evaluated on, such as {min(shared)}")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
