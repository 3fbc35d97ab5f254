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

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from minirft import UserError
from minirft.data.checks import choose, find_picture, usable
from minirft.data.findings import Findings
from minirft.data.lvis import listed
from minirft.data.questions import question as ask
from minirft.data.settings import DataConfig
from minirft.data.tables import (
    Box,
    Key,
    Pairs,
    Row,
    Tables,
    category_names,
    read_pairs,
    sized_pictures,
    without_phantoms,
)
from minirft.rewards import MODEL, convert, pixels, prompts
from minirft.samples import Sample, TrueBoxes


def samples_of_tables(
    data: DataConfig, tables: Tables, source: Path, findings: Findings, only: Collection[str] | None = None
) -> list[Sample]:
    """Each pair of a picture and a category that is asked about becomes a sample, in the order of both.

    `data.negatives` is the share of samples about a category that the picture does not show, drawn from all such pairs
    by `data.seed`; a larger share only adds, and where there are too few pairs all are taken.  `only` names the samples
    by their ids instead, absent ones too: those of a split.  What cannot be right goes to `findings`.
    """
    folder, names = data.images or (source if source.is_dir() else source.parent), category_names(tables, source)
    chosen = choose(data.categories, names.values() if data.categories else without_phantoms(tables, names), source)
    pictures = sized_pictures(tables["images"], folder, findings)
    pairs, crowds = read_pairs(tables["annotations"], pictures, names, source, findings)
    asked = _present(pairs, chosen, source, findings)
    may_lack = None
    if data.kind == "lvis":
        may_lack = [key for key in listed(pictures, "neg_category_ids", names, chosen) if key not in pairs]
        partly = listed(pictures, "not_exhaustive_category_ids", names, chosen) if data.task == "detection" else ()
        asked = [key for key in asked if key not in partly]
        if not asked:
            raise UserError(f"{source}: no picture is marked exhaustively for {', '.join(chosen[:20])}; choose others")
    if only is None:
        count = round(len(asked) * data.negatives / (1 - data.negatives))
        asked += _absent(pairs, list(pictures), chosen, may_lack, count, data.seed)
    else:
        absent = [key for key in _named(only, pictures, chosen) if key not in pairs] if may_lack is None else may_lack
        ids = set(only)
        asked = [key for key in asked + absent if sample_id(key) in ids]
    place = {picture: position for position, picture in enumerate(pictures)}
    rank = {name: position for position, name in enumerate(chosen)}
    asked.sort(key=lambda key: (place[key[0]], rank[key[1]]))
    found = {picture: _find(folder, pictures[picture], findings) for picture in dict.fromkeys(key[0] for key in asked)}
    return [
        _sample(data, *here, pictures[key[0]], key, pairs.get(key, []), crowds.get(key, []))
        for key in asked
        if (here := found[key[0]]) is not None
    ]


def _present(pairs: Pairs, chosen: list[str], source: Path, findings: Findings) -> list[Key]:
    """The pairs of the chosen categories that have a box; `UserError` when there are none."""
    wanted = set(chosen)
    present = [key for key, boxes in pairs.items() if boxes and key[1] in wanted]
    if not present:
        why = f"{len(findings.bad)} rows are bad, the first: {next(iter(findings.bad))}" if findings.bad else ""
        what = f"{source} has no box of {', '.join(chosen[:20]) or 'any category'}"
        raise UserError(f"{what}; {why or 'choose other categories'}")
    return present


def sample_id(key: Key) -> str:
    """
    >>> sample_id((139, "cat"))
    '139:cat'
    """
    return f"{key[0]}:{key[1]}"


def _absent(
    pairs: Pairs, pictures: list[Any], chosen: list[str], may_lack: list[Key] | None, count: int, seed: int
) -> list[Key]:
    """Up to `count` of the (picture, category) that the file does not mention, or of those that it says are absent."""
    generator = np.random.default_rng(seed)
    if may_lack is not None:
        return [may_lack[i] for i in generator.permutation(len(may_lack))[:count]]
    first = {picture: position * len(chosen) for position, picture in enumerate(pictures)}
    mentioned = [first[picture] + chosen.index(name) for picture, name in pairs if name in chosen]
    absent = np.setdiff1d(np.arange(len(pictures) * len(chosen)), np.array(mentioned, dtype=np.int64))
    drawn = generator.permutation(absent)[:count].tolist()
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


def _find(folder: Path, row: Row, findings: Findings) -> tuple[Any, bool] | None:
    """Where the picture of a row is, and whether to turn it: if that gives the size that its annotations are for."""
    ids = [f"{row['id']}:"]
    if "turn" in row:
        return row["picture"], row["turn"]
    source = row.get("picture") or find_picture(findings, folder, str(row["file_name"]), row["at"], ids)
    header = source and usable(findings, source, "check data.images", ids)
    if not header:
        return None
    stored, annotated = (header.width, header.height), (row["width"], row["height"])
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


def _sample(
    data: DataConfig, image: Any, upright: bool, row: Row, key: Key, found: list[Box], crowds: list[Box]
) -> Sample:
    name, frame, exact = key[1], pixels(row["width"], row["height"]), None
    if data.task == "presence":
        solution = prompts.presence_solution(bool(found))
    else:
        exact = TrueBoxes(frame, *(np.reshape(np.array(rows, float), (-1, 4)) for rows in (found, crowds)))
        boxes = convert(exact.boxes, frame, MODEL).clip(0, MODEL.width)
        solution = prompts.detection_solution(boxes)
    problem = ask(data.task, name, data.question)
    return Sample(sample_id(key), image, data.task, problem, solution, name, exact=exact, upright=upright)
