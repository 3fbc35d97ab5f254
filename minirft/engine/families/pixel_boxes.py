"""This module rescales the boxes in a question or an answer to pixels of the resized picture, as in Qwen2.5-VL.

Samples, rewards, evaluation and the log have boxes in thousandths of the picture's sides.  So a question and a written
answer are converted to pixels before the model reads them, and a sampled answer is converted back to thousandths; no
other code has pixels.  Both conversions give whole numbers, so no side moves by more than half a unit.
"""

import re

from minirft import UserError
from minirft.samples import WITH_BOXES, Sample

ASKED = "between 0 and 1000"  # in the words of `rewards.prompts`
OTHER_WORDS = re.compile(r"\b0\s*(?:-|–|to|and|,)\s*(?:1000|999)\b|thousandth")
LIMIT = 10**6  # of a coordinate that no picture has
_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_N = rf"\s*{_NUMBER}\s*"
_BOX = re.compile(rf"\[{_N},{_N},{_N},{_N}\]|\({_N},{_N}\)\s*,\s*\({_N},{_N}\)", re.ASCII)
Size = tuple[float, float]  # width, height
THOUSAND = (1000, 1000)


def question(sample: Sample, resized: Size) -> str:
    """Rewrite the problem for a model with boxes in pixels of the resized picture.

    Raises `UserError` if it names another frame in other words.

    >>> from pathlib import Path
    >>> question(Sample("0", Path("0.jpg"), "detection", "Boxes (between 0 and 1000, integer)", ""), (56, 84))
    'Boxes (in pixels of the image, which is 56 x 84 pixels, integer)'
    """
    if sample.task not in WITH_BOXES:
        return sample.problem
    if found := OTHER_WORDS.search(sample.problem.replace(ASKED, "")):
        raise UserError(
            f"sample {sample.id}: the problem says {found[0]!r}, and this model answers in pixels of the resized "
            f"picture; write '{ASKED}', which is put into pixels, or no frame at all"
        )
    width, height = resized
    return sample.problem.replace(ASKED, f"in pixels of the image, which is {width} x {height} pixels")


def rescale(text: str, source: Size, target: Size) -> str:
    """Rescale all [x1, y1, x2, y2] and (x1,y1),(x2,y2) in a text from one picture size to another.

    >>> rescale("[{'Position': [28, 0, 56, 42], 'Confidence': 0.9}]", (56, 84), THOUSAND)
    "[{'Position': [500, 0, 1000, 500], 'Confidence': 0.9}]"
    >>> rescale("(0,0),(1000,500)", THOUSAND, (56, 84))
    '(0,0),(56,42)'
    """

    def moved(match: re.Match[str]) -> str:
        box = [float(number) for number in re.findall(_NUMBER, match[0], re.ASCII)]
        scaled = [max(-LIMIT, min(LIMIT, x * target[i % 2] / source[i % 2])) for i, x in enumerate(box)]
        whole = list(map(round, scaled))
        for i in (0, 1):  # what is not empty stays so
            if box[i] < box[i + 2] and whole[i] == whole[i + 2]:
                whole[i] = min(int(scaled[i]), int(target[i]) - 1)
                whole[i + 2] = whole[i] + 1
        numbers = iter(whole)
        return re.sub(_NUMBER, lambda _: str(next(numbers)), match[0], flags=re.ASCII)

    return _BOX.sub(moved, text)
