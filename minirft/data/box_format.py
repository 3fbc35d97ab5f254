"""In which units a file's boxes are: pixels, 0 to 1, or 0 to 1000; set by `data.box_format`, and checked.

A wrong setting trains on boxes that lie elsewhere, at a reward near 0 and without an error.  What the numbers
themselves contradict is refused here; what they do not (0 to 1000 against pixels of large pictures) shows as soon as
the model answers: `runs.frame_watch` compares its boxes with the truth in every frame and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from minirft import UserError
from minirft.rewards import MODEL, convert, pixels
from minirft.samples import Frame

BoxFormat = Literal["pixels", "unit", "thousand"]
MIN_BOXES = 3  # fewer prove nothing
Size = tuple[int, int]  # width, height
NAMES = {"pixels": "pixels of the picture", "unit": "shares from 0 to 1", "thousand": "thousandths from 0 to 1000"}


def frame_of(box_format: BoxFormat, size: Size) -> Frame:
    """The frame of a file's boxes in a picture of `size`."""
    return {"pixels": pixels(*size), "unit": Frame("unit", 1, 1), "thousand": MODEL}[box_format]


def to_pixels(corners: Sequence[float], box_format: BoxFormat, size: Size) -> list[float]:
    """[x1, y1, x2, y2] in a file's units as pixels.

    >>> to_pixels([250, 500, 750, 1000], "thousand", (640, 480))
    [160.0, 240.0, 480.0, 480.0]
    """
    return [float(value) for value in convert(np.array(corners, float), frame_of(box_format, size), pixels(*size))]


def check_format(boxes: Sequence[Sequence[float]], sizes: Sequence[Size], box_format: BoxFormat, source: Path) -> None:
    """Raise `UserError` where the numbers contradict `box_format`; `boxes` are corners in the file's units.

    >>> check_format([[0.1, 0.2, 0.5, 0.6]] * 9, [(640, 480)] * 9, "pixels", Path("a.jsonl"))
    Traceback (most recent call last):
    minirft.UserError: a.jsonl: all of 9 boxes lie between 0 and 1, so they are no pixels of the picture: set \
data.box_format = "unit"
    """
    if len(boxes) < MIN_BOXES:
        return
    corners, largest = np.array(boxes, float), np.array(boxes, float).max(-1)
    fits = {
        "pixels": (corners[:, 2:] <= np.array(sizes, float) + 1).all(-1),
        "unit": largest <= 1,
        "thousand": largest <= 1000,
    }
    if box_format != "unit" and fits["unit"].all():
        raise UserError(
            f"{source}: all of {len(boxes)} boxes lie between 0 and 1, so they are no {NAMES[box_format]}: "
            f'set data.box_format = "unit"'
        )
    outside = int((~fits[box_format]).sum())
    others = [name for name in ("pixels", "thousand") if name != box_format and fits[name].all()]
    if 2 * outside > len(boxes):
        advice = f'set data.box_format = "{others[0]}", in which all fit' if others else "check data.box_format"
        raise UserError(f"{source}: {outside} of {len(boxes)} boxes are no {NAMES[box_format]}: {advice}")
