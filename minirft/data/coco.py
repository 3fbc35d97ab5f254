"""COCO-format annotations as samples: one question for each category in a picture.

    instances.json    {"images": [{"id", "file_name", "width", "height"}, ...], "categories": [{"id", "name"}, ...],
                       "annotations": [{"image_id", "category_id", "bbox": [x, y, width, height]}, ...]}
    pictures/
      000000000009.jpg    the "file_name" of a row of "images"

Only the headers of the pictures are read here, to see that each opens and has the size its annotations were made for;
`screening` decodes those that are trained on.  What cannot be right is reported to `findings` by file and row.

Deviations from COCO.  A solution names no crowd regions, because "detect all" has no true list of boxes for them; a
category that a picture shows only as a crowd is not asked about in it, neither as present nor as absent.  The boxes of
a solution are rounded to whole units of the model's frame, a thousandth of the picture.  `Sample.exact` keeps boxes
and crowds as they are in the file, but for those clipped to the picture: evaluation scores these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minirft import UserError
from minirft.data.checks import choose, locate, usable
from minirft.data.findings import Findings
from minirft.data.questions import question as ask
from minirft.data.tables import (
    FIELDS,
    Box,
    Key,
    Pairs,
    Row,
    Tables,
    category_names,
    read_pairs,
    read_tables,
    sized_pictures,
    without_phantoms,
)
from minirft.rewards import MODEL, convert, pixels, prompts
from minirft.samples import Sample, TrueBoxes

Task = Literal["detection", "presence"]
Place = tuple[Any, bool]  # a picture, and whether it is to be turned upright


def load_coco(
    annotations: str | Path,
    images: str | Path,
    categories: Sequence[str] | None = None,
    *,
    task: Task = "detection",
    negatives: float = 0.0,
    seed: int = 0,
    only: Collection[str] | None = None,
    findings: Findings | None = None,
    question: str = "",
) -> list[Sample]:
    """The samples of a COCO-format file, by picture and category; no `categories` means all of the file's.

    `negatives` in [0, 1) is the share of samples about a category that the picture does not show, drawn from all such
    pairs by `seed`; a larger share only adds, and where there are too few pairs all are taken.  `only` names the
    samples by their ids instead, absent ones too: those of a split.  `question` is a template with {category} in it,
    in place of the paper's.

    What cannot be right goes to `findings`; without one it is a `UserError` that names the file and the row.

    >>> load_coco("nowhere.json", "nowhere")
    Traceback (most recent call last):
    minirft.UserError: no annotations at nowhere.json; check data.annotations
    """
    findings = findings or Findings()
    source = Path(annotations)
    data = read_tables(source, FIELDS, findings)
    options: dict[str, Any] = {"task": task, "negatives": negatives, "seed": seed, "only": only, "question": question}
    return samples_of_tables(data, source, Path(images), categories, findings=findings, **options)


def samples_of_tables(
    data: Tables,
    source: Path,
    folder: Path,
    categories: Sequence[str] | None,
    *,
    task: Task,
    negatives: float,
    seed: int,
    only: Collection[str] | None,
    findings: Findings,
    question: str = "",
) -> list[Sample]:
    """The samples of tables in COCO's format, wherever they come from; options as in `load_coco`."""
    names = category_names(data, source)
    chosen = choose(categories, names.values() if categories else without_phantoms(data, names), source)
    pictures = sized_pictures(data["images"], folder, findings)
    pairs, crowds = read_pairs(data["annotations"], pictures, names, source, findings)
    present = present_pairs(pairs, chosen, source, findings)
    if only is None:
        asked = present + _absent(pairs, list(pictures), chosen, absent_count(present, negatives), seed)
    else:
        absent, ids = [key for key in _named(only, pictures, chosen) if key not in pairs], set(only)
        asked = [key for key in present + absent if sample_id(key) in ids]
    return write_samples(asked, pairs, crowds, pictures, chosen, folder, task, findings, question)


def present_pairs(pairs: Pairs, chosen: list[str], source: Path, findings: Findings) -> list[Key]:
    """The pairs of the chosen categories that have a box; `UserError` when there are none."""
    wanted = set(chosen)
    present = [key for key, boxes in pairs.items() if boxes and key[1] in wanted]
    if not present:
        why = f"{len(findings.bad)} rows are bad, the first: {next(iter(findings.bad))}" if findings.bad else ""
        what = f"{source} has no box of {', '.join(chosen[:20]) or 'any category'}"
        raise UserError(f"{what}; {why or 'choose other categories'}")
    return present


def absent_count(present: Collection[Key], negatives: float) -> int:
    """How many absent pairs make a share `negatives` of all."""
    return round(len(present) * negatives / (1 - negatives))


def write_samples(
    asked: list[Key],
    pairs: Pairs,
    crowds: Pairs,
    pictures: dict[Any, Row],
    chosen: list[str],
    folder: Path,
    task: Task,
    findings: Findings,
    question: str = "",
) -> list[Sample]:
    """The questions about the pairs `asked`, in the order of the pictures and then of the categories."""
    place = {picture: position for position, picture in enumerate(pictures)}
    rank = {name: position for position, name in enumerate(chosen)}
    asked = sorted(asked, key=lambda key: (place[key[0]], rank[key[1]]))
    found = {picture: _find(folder, pictures[picture], findings) for picture in dict.fromkeys(key[0] for key in asked)}
    return [
        _sample(task, place, pictures[key[0]], key, pairs.get(key, []), crowds.get(key, []), question)
        for key in asked
        if (place := found[key[0]]) is not None
    ]


def sample_id(key: Key) -> str:
    """
    >>> sample_id((139, "cat"))
    '139:cat'
    """
    return f"{key[0]}:{key[1]}"


def _absent(pairs: Pairs, pictures: list[Any], chosen: list[str], count: int, seed: int) -> list[Key]:
    """Up to `count` of the (picture, category) that the file does not mention."""
    first = {picture: position * len(chosen) for position, picture in enumerate(pictures)}
    mentioned = [first[picture] + chosen.index(name) for picture, name in pairs if name in chosen]
    absent = np.setdiff1d(np.arange(len(pictures) * len(chosen)), np.array(mentioned, dtype=np.int64))
    drawn = np.random.default_rng(seed).permutation(absent)[:count].tolist()
    return [(pictures[index // len(chosen)], chosen[index % len(chosen)]) for index in drawn]


def _named(ids: Collection[str], pictures: dict[Any, Row], chosen: list[str]) -> list[Key]:
    """The pairs that ids such as 139:cat name; an id that names none is left out."""
    by_text = {str(picture): picture for picture in pictures}
    found = []
    for name in ids:
        parts = name.split(":")  # a picture's id may be a path, and hold one itself
        places = [(":".join(parts[:i]), ":".join(parts[i:])) for i in range(1, len(parts))]
        found += [(by_text[left], right) for left, right in places if left in by_text and right in chosen]
    return found


def _find(folder: Path, row: Row, findings: Findings) -> Place | None:
    """Where the picture of a row is, and whether to turn it: if that gives the size that its annotations are for."""
    ids, source = [f"{row['id']}:"], row.get("picture")
    try:
        source = source or locate(folder, str(row["file_name"]), findings)
    except UserError as error:
        findings.lose(*row["at"], f"names a picture that is not there: {error}", ids)
        return None
    header = usable(findings, source, "check data.images", ids)
    if header is None:
        return None
    stored, annotated = (header.width, header.height), (row["width"], row["height"])
    if row.get("upright"):  # by the rules of the file's kind
        return source, header.marked
    if stored == annotated:
        if header.marked:
            findings.note("pictures marked as turned by a camera, taken as they are stored", source)
        return source, False
    if header.turned and stored == annotated[::-1]:
        findings.note("pictures turned upright, as their annotations are", source)
        return source, True
    what = (
        f"is {stored[0]} x {stored[1]} pixels, its annotations are for {annotated[0]} x {annotated[1]}: every box "
        f"would be off; annotate this file, or save it upright if a camera only marked it as turned"
    )
    findings.lose(source, "", what, ids)
    return None


def _sample(task: Task, place: Place, row: Row, key: Key, found: list[Box], crowds: list[Box], question: str) -> Sample:
    name, frame, exact = key[1], pixels(row["width"], row["height"]), None
    if task == "presence":
        solution = prompts.presence_solution(bool(found))
    else:
        exact = TrueBoxes(frame, *(np.reshape(np.array(rows, float), (-1, 4)) for rows in (found, crowds)))
        boxes = convert(exact.boxes, frame, MODEL).clip(0, MODEL.width)
        solution = prompts.detection_solution(boxes)
    problem = ask(task, name, question)
    return Sample(sample_id(key), place[0], task, problem, solution, name, exact=exact, upright=place[1])
