"""This module converts boxes from a file's own units (`data.box_format`) to pixels and collects them in tables.

With a wrong `data.box_format` a run trains on boxes in the wrong places: the reward stays near 0 and nothing fails.
Values that cannot be in the chosen units are refused here.  Some mistakes cannot be seen in the numbers, such as 0 to
1000 against pixels of large pictures.  `runs.watches` finds these as soon as the model answers: it compares the
model's boxes with the true boxes in every frame, and prints a warning.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minirft import UserError
from minirft.data.checks import find_picture, floats, usable
from minirft.data.findings import Findings
from minirft.data.tables import Row, Tables, make_tables
from minirft.rewards import MODEL, convert, pixels
from minirft.samples import Frame

BoxFormat = Literal["pixels", "unit", "thousand"]
MIN_BOXES = 3  # fewer prove nothing
SLACK = 0.01  # share of the picture that rounding may leave a box too large
NAMES = {"pixels": "pixels of the picture", "unit": "shares from 0 to 1", "thousand": "thousandths from 0 to 1000"}


@dataclass(frozen=True)
class BoxRow:
    """A `BoxRow` is one row of a file: a picture with its boxes.

    Each box is a category and either [x1, y1, x2, y2] or a text that explains why the box is invalid.
    """

    at: tuple[Any, str]  # the file and the row
    image: str  # the picture's name, which is its id too
    boxes: Sequence[tuple[Any, list[float] | str]] = ()
    instruction: str = ""  # only for grounding
    picture: Any = None  # the picture itself, if the reader has located it already


def four(values: Iterable[Any], sides: bool = False) -> list[float] | str:
    """Return a row's box as corners, or the reason why it is none; with `sides` it is given as [x, y, width, height].

    >>> four(["1", "2", "3", "4"], sides=True), four([1, 2, "three"])
    ([1.0, 2.0, 4.0, 6.0], "has the box [1, 2, 'three'], which is not four numbers; repair or remove it")
    """
    numbers = floats(values)
    if len(numbers) != 4:
        return f"has the box {values}, which is not four numbers; repair or remove it"
    x, y, width, height = numbers
    return [x, y, x + width, y + height] if sides else numbers


def frame_of(box_format: BoxFormat, size: tuple[int, int]) -> Frame:
    """Return the frame in which a file gives its boxes, for a picture of `size`, (width, height)."""
    return {"pixels": pixels(*size), "unit": Frame("unit", 1, 1), "thousand": MODEL}[box_format]


def picture_row(row: BoxRow, folder: Path, findings: Findings, ids: Iterable[str]) -> Row | None:
    """Return the row of "images" for the picture of `row`, with its size, or None if the picture cannot be used.

    The boxes belong to the upright picture, after its EXIF rotation.
    """
    picture = row.picture or find_picture(findings, folder, row.image, row.at, ids)
    header = picture and usable(findings, picture, f"{row.at[0]} names it", ids, turn=True)
    if not header:
        return None
    width, height = header.upright
    place = {"id": row.image, "file_name": row.image, "picture": picture, "at": (picture, "")}
    return place | {"width": width, "height": height, "turn": header.marked}


def tables_of_rows(
    rows: Iterable[BoxRow],
    folder: Path,
    box_format: BoxFormat,
    source: Path,
    findings: Findings,
    names: dict[Any, str] | None = None,
) -> Tables:
    """Convert rows to COCO's three tables.  A picture that several rows name is opened once.

    `names` is {category's id: name}; without it the categories are those of the boxes.
    Raises `UserError` if the numbers cannot be in the units of `box_format`.
    """
    images: dict[str, Row | None] = {}
    annotations, placed = [], []
    for row in rows:
        if row.image not in images:
            images[row.image] = picture_row(row, folder, findings, [f"{row.image}:"])
        if (picture := images[row.image]) is None:
            continue
        placed.append((row, picture))
        for name, box in row.boxes:
            made: Row = {"image_id": row.image, "category_id": name, "bbox": None, "at": row.at}
            if isinstance(box, str):
                made["problem"] = box
            else:
                size = picture["width"], picture["height"]
                x1, y1, x2, y2 = convert(np.array(box, float), frame_of(box_format, size), pixels(*size)).tolist()
                made["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(made if name != "" else made | {"problem": "has no label (or ref); repair or remove it"})
    check_format(placed, box_format, source)
    return make_tables([image for image in images.values() if image], annotations, source, names)


def check_format(placed: Iterable[tuple[BoxRow, Row]], box_format: BoxFormat, source: Path) -> None:
    """Raise `UserError` if the boxes of the rows, each with its picture, cannot be in the units of `box_format`.

    >>> row = BoxRow((Path("a.jsonl"), "row 1"), "1.jpg", [("cat", [0.1, 0.2, 0.5, 0.6])] * 9)
    >>> check_format([(row, {"width": 640, "height": 480})], "pixels", Path("a.jsonl"))
    Traceback (most recent call last):
    minirft.UserError: a.jsonl: all of 9 boxes lie between 0 and 1, so they are no pixels of the picture: set \
data.box_format = "unit"
    """
    sized = [(box, of["width"], of["height"]) for row, of in placed for _, box in row.boxes if not isinstance(box, str)]
    if len(sized) < MIN_BOXES:
        return
    boxes = np.array([box for box, *_ in sized], float)
    largest = boxes.max(-1)
    fits = {
        "pixels": (boxes[:, 2:] <= np.array([size for _, *size in sized], float) + 1).all(-1),
        "unit": largest <= 1 + SLACK,
        "thousand": largest <= 1000 * (1 + SLACK),
    }
    if box_format != "unit" and fits["unit"].all():
        raise UserError(
            f"{source}: all of {len(boxes)} boxes lie between 0 and 1, so they are no {NAMES[box_format]}: "
            f'set data.box_format = "unit"'
        )
    outside = int((~fits[box_format]).sum())
    if 2 * outside > len(boxes):
        fitting = next((name for name in ("pixels", "thousand") if fits[name].all()), None)
        advice = f'set data.box_format = "{fitting}", in which all fit' if fitting else "check data.box_format"
        raise UserError(f"{source}: {outside} of {len(boxes)} boxes are no {NAMES[box_format]}: {advice}")
