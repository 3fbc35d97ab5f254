"""COCO-format annotations as samples: one question for each category in a picture.

    instances.json    {"images": [{"id", "file_name", "width", "height"}, ...], "categories": [{"id", "name"}, ...],
                       "annotations": [{"image_id", "category_id", "bbox": [x, y, width, height]}, ...]}
    pictures/
      000000000009.jpg    the "file_name" of a row of "images"

Only the headers of the pictures are read, to see that each opens and has the size its annotations were made for;
a picture is decoded when it is asked about.  Every row that cannot be right is refused by name, before any training.

Deviations from COCO.  A solution names no crowd regions, because "detect all" has no true list of boxes for them; a
category that a picture shows only as a crowd is not asked about in it, neither as present nor as absent.  The boxes of
a solution are rounded to whole units of the model's frame, a thousandth of the picture.  `Sample.exact` keeps boxes
and crowds as they are in the file: evaluation scores these.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minirft import UserError
from minirft.data.checks import choose, picture_size
from minirft.rewards import MODEL, convert, pixels, prompts
from minirft.samples import Sample, TrueBoxes

TOLERANCE = 1.0  # pixels a box may reach over the edge, as rounding does; it is clipped
FIELDS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
Row = dict[str, Any]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
Key = tuple[Any, str]  # a picture's id and a category
Pairs = dict[Key, list[Box]]
Task = Literal["detection", "presence"]


def load_coco(
    annotations: str | Path,
    images: str | Path,
    categories: Sequence[str] | None = None,
    *,
    task: Task = "detection",
    negatives: float = 0.0,
    seed: int = 0,
    bad_boxes: Literal["refuse", "drop"] = "refuse",
    only: Collection[str] | None = None,
) -> list[Sample]:
    """The samples of a COCO-format file, by picture and category; no `categories` means all of the file's.

    `negatives` in [0, 1) is the share of samples about a category that the picture does not show, drawn from all such
    pairs by `seed`; a larger share only adds, and where there are too few pairs all are taken.  `only` names the
    samples by their ids instead, absent ones too: those of a split.  With `bad_boxes="drop"` a box that is inverted,
    empty or outside its picture is left out as a crowd is (COCO train2017 itself holds two of height 0).

    Raises `UserError` naming the file and the row for everything that cannot be right.

    >>> load_coco("nowhere.json", "nowhere")
    Traceback (most recent call last):
    minirft.UserError: no annotations at nowhere.json; check data.annotations
    """
    source, folder = Path(annotations), Path(images)
    data = read_tables(source, FIELDS)
    names = category_names(data, source)
    chosen = choose(categories, names.values(), source)
    pictures = {row["id"]: row for row in data["images"]}
    pairs, crowds = read_pairs(data["annotations"], pictures, names, source, bad_boxes == "drop")
    present = present_pairs(pairs, chosen, source)
    if only is None:
        asked = present + _absent(pairs, list(pictures), chosen, absent_count(present, negatives), seed)
    else:
        absent, ids = [key for key in _named(only, pictures, chosen) if key not in pairs], set(only)
        asked = [key for key in present + absent if sample_id(key) in ids]
    return write_samples(asked, pairs, crowds, pictures, chosen, folder, task)


def category_names(data: dict[str, list[Row]], source: str | Path) -> dict[Any, str]:
    """Returns the name of each category by its id.

    Of categories with one name, that with boxes is meant.  Raises `UserError` where several of them have boxes: an
    answer has a name alone, so nobody could say of which of them it is.

    >>> rows = [{"id": 0, "name": "cat"}, {"id": 1, "name": "cat"}]
    >>> category_names({"categories": rows, "annotations": [{"category_id": 1}]}, "cats.json")
    {1: 'cat'}
    """
    used = {row["category_id"] for row in data["annotations"]}
    names: dict[Any, str] = {}
    ids: dict[str, Any] = {}
    for row in sorted(data["categories"], key=lambda row: row["id"] not in used):
        name = str(row["name"])
        if name not in ids:
            names[row["id"]], ids[name] = name, row["id"]
        elif row["id"] in used and row["id"] != ids[name]:
            raise UserError(
                f"{source}: the categories {ids[name]!r} and {row['id']!r} are both called {name!r} and both have "
                f"boxes: rename one, or give the boxes of both one category_id"
            )
    return {row["id"]: names[row["id"]] for row in data["categories"] if row["id"] in names}


def present_pairs(pairs: Pairs, chosen: list[str], source: Path) -> list[Key]:
    """The pairs of the chosen categories that have a box; `UserError` when there are none."""
    wanted = set(chosen)
    present = [key for key, boxes in pairs.items() if boxes and key[1] in wanted]
    if not present:
        raise UserError(f"{source} has no box of {', '.join(chosen) or 'any category'}; choose other categories")
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
) -> list[Sample]:
    """The questions about the pairs `asked`, in the order of the pictures and then of the categories."""
    place = {picture: position for position, picture in enumerate(pictures)}
    rank = {name: position for position, name in enumerate(chosen)}
    asked = sorted(asked, key=lambda key: (place[key[0]], rank[key[1]]))
    for picture in dict.fromkeys(picture for picture, _ in asked):
        _check_picture(folder, pictures[picture])
    return [_sample(task, folder, pictures[key[0]], key, pairs.get(key, []), crowds.get(key, [])) for key in asked]


def sample_id(key: Key) -> str:
    """
    >>> sample_id((139, "cat"))
    '139:cat'
    """
    return f"{key[0]}:{key[1]}"


def read_tables(source: Path, needed: dict[str, tuple[str, ...]]) -> dict[str, list[Row]]:
    """The tables of the file, each row with the fields that are `needed`."""
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no annotations at {source}; check data.annotations") from None
    except (OSError, ValueError) as error:  # bad JSON and bad UTF-8 are ValueErrors
        raise UserError(f"{source} cannot be read as JSON ({error}); give a COCO-format file") from None
    for table, fields in needed.items():
        rows = data.get(table) if isinstance(data, dict) else None
        if not isinstance(rows, list):
            raise UserError(f"{source} has no list {table!r}; give a COCO-format file")
        for number, row in enumerate(rows):
            lacking = [field for field in fields if not isinstance(row, dict) or field not in row]
            if lacking:
                raise UserError(
                    f"{source}: {table}[{number}] has no {' and no '.join(lacking)}; repair or remove the row"
                )
    for number, row in enumerate(data["images"]):
        if not _numbers([row["width"], row["height"]]) or min(row["width"], row["height"]) < 1:
            raise UserError(
                f"{source}: images[{number}] has size {row['width']!r} x {row['height']!r}; give it in pixels"
            )
    return data


def read_pairs(
    rows: list[Row], pictures: dict[Any, Row], names: dict[Any, str], source: Path, drop: bool
) -> tuple[Pairs, Pairs]:
    """The boxes of every (picture, category) that the file mentions, without the bad ones if `drop`; and its crowds."""
    pairs: Pairs = {}
    crowds: Pairs = {}
    for number, row in enumerate(rows):
        where = f"{source}: annotations[{number}]"
        if row["image_id"] not in pictures:
            raise UserError(
                f"{where} is of image {row['image_id']!r}, which 'images' does not list; repair or remove the row"
            )
        if row["category_id"] not in names:
            raise UserError(
                f"{where} is of category {row['category_id']!r}, which 'categories' does not list; repair the row"
            )
        picture, name = pictures[row["image_id"]], names[row["category_id"]]
        boxes = pairs.setdefault((row["image_id"], name), [])
        box, crowd = _corners(row["bbox"], picture), row.get("iscrowd")
        if isinstance(box, tuple):
            (crowds.setdefault((row["image_id"], name), []) if crowd else boxes).append(box)
        elif not drop and not crowd:
            raise UserError(f"{where}, a {name} in {picture['file_name']}: the box {row['bbox']} {box}; repair the row")
    return pairs, crowds


def _corners(bbox: Any, picture: Row) -> Box | str:
    """A COCO box [x, y, width, height] as corners, at most `TOLERANCE` outside the picture, or what is wrong with it.

    >>> _corners([10, 20, 30, 40.5], {"width": 40, "height": 60})
    (10, 20, 40, 60.5)
    >>> _corners([10, 20, -3, 40], {"width": 40, "height": 60})
    'is inverted or empty (COCO boxes are [x, y, width, height])'
    """
    if not isinstance(bbox, list) or len(bbox) != 4 or not _numbers(bbox):
        return "is not four finite numbers"
    x, y, width, height = bbox
    right, bottom = picture["width"], picture["height"]
    if max(-x, -y, x + width - right, y + height - bottom) > TOLERANCE:
        return f"reaches outside the picture of {right} x {bottom} pixels (COCO boxes are [x, y, width, height])"
    inside = max(x, 0) < min(x + width, right) and max(y, 0) < min(y + height, bottom)
    return (x, y, x + width, y + height) if inside else "is inverted or empty (COCO boxes are [x, y, width, height])"


def _numbers(values: list[Any]) -> bool:
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


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
    named = [(by_text.get(name.split(":", 1)[0]), name.split(":", 1)[-1]) for name in ids]
    return [key for key in named if key[0] is not None and key[1] in chosen]


def _check_picture(folder: Path, row: Row) -> None:
    path = folder / str(row["file_name"])
    width, height = picture_size(path)
    if (width, height) != (row["width"], row["height"]):
        raise UserError(
            f"{path} is {width} x {height} pixels, its annotations are for {row['width']} x {row['height']}: "
            f"every box would be off; annotate this file, or save it upright if a camera only marked it as turned"
        )


def _sample(task: Task, folder: Path, row: Row, key: Key, found: list[Box], crowds: list[Box]) -> Sample:
    name, frame, exact = key[1], pixels(row["width"], row["height"]), None
    if task == "presence":
        problem, solution = prompts.presence(name), prompts.presence_solution(bool(found))
    else:
        exact = TrueBoxes(frame, *(np.reshape(np.array(rows, float), (-1, 4)) for rows in (found, crowds)))
        boxes = convert(exact.boxes, frame, MODEL).clip(0, MODEL.width)
        problem, solution = prompts.detection(name), prompts.detection_solution(boxes)
    return Sample(sample_id(key), folder / str(row["file_name"]), task, problem, solution, name, exact=exact)
