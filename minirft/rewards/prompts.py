"""This module writes the paper's questions (Table 1), and solutions in the answer format of these questions.

Detection, classification and grounding are verbatim from the published data sets, because a prompt is part of the
result.  The authors' mistakes are kept: no space after "tags.", "species name" for cars too, and in grounding
"grouding", a sentence without a verb and a closing bracket without an opening one.

Deviation: the presence question is our own.  The paper's two-stage detection has a first question, whether a category
is in the picture, but its text was not released.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from minirft.rewards.boxes import MODEL

TEXTS = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))


def detection(category: str) -> str:
    """Write the detection question.  Source: Table 1, and the `problem` column of the ViRFT_COCO sets.

    >>> detection("cat").splitlines()[1]
    "If no object belonging to the category 'cat' in the image, return 'No Objects'."
    """
    return TEXTS["detection"].format(category=category)


def detection_together(categories: Sequence[str]) -> str:
    """Write the detection question about several categories, in our own words; the answer has a label for each box.

    >>> detection_together(["cat", "dog"])[:59]
    "Detect all objects belonging to the categories 'cat', 'dog'"
    """
    return TEXTS["together"].format(categories=", ".join(f"'{quotable(name)}'" for name in categories))


def quotable(name: str) -> str:
    """Replace quotation marks in a category's name, so that it can be put in single quotes.

    >>> quotable("bird's nest")
    'bird’s nest'
    """
    return name.replace("'", "’").replace('"', "”")


def classification(family: str, attribute: str | None = None) -> str:
    """Write the fine-grained classification question.  Source: Table 1, and the `problem` column of the ViRFT_CLS sets.

    `family` is one of Table 2 (`prompts.toml`), or any noun, and `attribute` the property in the question ("kind" for
    a noun).

    >>> classification("flower").splitlines()[0]
    'This is an image containing a plant. Please identify the species of the plant based on the image.'
    >>> classification("insect", "order").splitlines()[0]
    'This is an image containing an insect. Please identify the order of the insect based on the image.'
    """
    noun, usual = TEXTS["families"].get(family, (family, "kind"))
    article = "an" if noun[:1].lower() in tuple("aeiou") else "a"
    return TEXTS["classification"].format(a=article, noun=noun, attribute=attribute or usual)


def grounding(instruction: str) -> str:
    """Write the reasoning-grounding question.  Source: the released LISA training prompt with its mistakes.

    >>> grounding("the taller cup")[:86]
    'Output the bounding box in the image corresponding to the instruction: the taller cup '
    """
    return TEXTS["grounding"].format(instruction=instruction)


def presence(category: str) -> str:
    """Write the first question of two-stage detection, in our own words.

    >>> presence("cat").splitlines()[0]
    "Look at the image: is there at least one object of the category 'cat' in it?"
    """
    return TEXTS["presence"].format(category=category)


def detection_solution(boxes: ArrayLike, confidence: ArrayLike = 1, labels: Sequence[str] = ()) -> str:
    """Write boxes of the model frame, (N, 4), as an answer block; no boxes give `No Objects`.

    Coordinates are rounded to whole numbers, and an object thinner than one unit becomes one unit wide, so the text can
    always be parsed.  `confidence` is one number for all boxes or one each; `labels` are one each or none.  Raises
    `ValueError` for a box that is inverted, not finite or outside 0-1000.

    >>> detection_solution([[100, 200, 300, 400.4]])
    "<answer>[{'Position': [100, 200, 300, 400], 'Confidence': 1}]</answer>"
    >>> detection_solution([[100, 200, 300, 400]], 0.5)
    "<answer>[{'Position': [100, 200, 300, 400], 'Confidence': 0.50}]</answer>"
    >>> detection_solution([[100, 200, 300, 400]], labels=["cat"])
    "<answer>[{'Position': [100, 200, 300, 400], 'Label': 'cat', 'Confidence': 1}]</answer>"
    >>> detection_solution([])
    '<answer>No Objects</answer>'
    """
    rows = [_whole(box) for box in np.asarray(boxes, dtype=np.float64).reshape(-1, 4)]
    scores = np.broadcast_to(np.asarray(confidence), len(rows)).tolist()
    names = [f"'Label': '{quotable(label)}', " for label in labels] or [""] * len(rows)
    items = [
        f"{{'Position': [{x1}, {y1}, {x2}, {y2}], {name}'Confidence': {_score(score)}}}"
        for (x1, y1, x2, y2), name, score in zip(rows, names, scores, strict=True)
    ]
    return f"<answer>[{', '.join(items)}]</answer>" if items else "<answer>No Objects</answer>"


def label_solution(name: str) -> str:
    """Write a label as an answer block.

    >>> label_solution("737-200")
    '<answer>737-200</answer>'
    """
    return f"<answer>{name}</answer>"


def grounding_solution(box: ArrayLike) -> str:
    """Write one box of the model frame, (4,), as an answer block; rounding and errors as in `detection_solution`.

    >>> grounding_solution([10, 20, 30, 40])
    '<answer>(10,20),(30,40)</answer>'
    """
    x1, y1, x2, y2 = _whole(np.asarray(box, dtype=np.float64))
    return f"<answer>({x1},{y1}),({x2},{y2})</answer>"


def presence_solution(present: bool) -> str:
    """Write yes or no as an answer block.

    >>> presence_solution(True)
    '<answer>yes</answer>'
    """
    return f"<answer>{'yes' if present else 'no'}</answer>"


def _score(confidence: float) -> str:
    """Write a confidence with two decimals, as the prompt requires; the integer 1 of published solutions stays 1."""
    return str(confidence) if isinstance(confidence, int) else f"{confidence:.2f}"


def _whole(box: np.ndarray) -> tuple[int, int, int, int]:
    """Round a box to whole coordinates, at least one unit wide and high."""
    x1, y1, x2, y2 = box.tolist()
    if not (0 <= x1 < x2 <= MODEL.width and 0 <= y1 < y2 <= MODEL.height):
        raise ValueError(f"expected 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000, got {box.tolist()}")
    (left, right), (top, bottom) = _side(x1, x2), _side(y1, y2)
    return left, top, right, bottom


def _side(low: float, high: float) -> tuple[int, int]:
    """Round both ends; if they meet, return the whole unit that contains `low`."""
    first, last = round(low), round(high)
    return (first, last) if first < last else (math.floor(low), math.floor(low) + 1)
