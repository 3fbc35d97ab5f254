"""Which coordinates is the model speaking in?  Pixels, 0 to 1 and swapped axes, told by how well the boxes would fit.

A model asked for thousandths of the picture that answers in pixels earns nothing, and the log says no more than 0.
Here every answer is read without asking that its boxes lie in the frame, as if it were in each of five frames, and
compared with the true boxes:

    frame        a box [x1, y1, x2, y2] is read as
    model        thousandths of width and height: what the prompts ask for
    pixels       pixels of the picture as it is on disk
    resized      pixels of the picture as the processor hands it to the model (Qwen2.5-VL's habit)
    unit         shares of width and height, 0 to 1
    swapped      thousandths, but [y1, x1, y2, x2]

The fit of an answer is Σ IoU / max(n_pred, n_true) over the best matching.  One lucky answer proves nothing, so there
is a verdict only over a batch, when another frame fits clearly better on average.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from minirft.pictures import open_picture, size_of
from minirft.rewards.answers import MAX_CHARACTERS, MAX_PREDICTIONS, extract, true_boxes
from minirft.rewards.boxes import MODEL, Array, convert, pixels
from minirft.rewards.detection import iou, match_hungarian
from minirft.samples import Frame, Sample

OTHERS = {
    "pixels": "pixels of the picture",
    "resized": "pixels of the picture as it was resized for the model",
    "unit": "shares of width and height from 0 to 1",
    "swapped": "y before x",
}
MIN_ANSWERS = 16  # with boxes, on pictures with boxes
MARGIN = 0.15  # mean fit that the other frame must gain
_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_FOUR = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]", re.ASCII)
_CORNERS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)", re.ASCII)
Size = tuple[float, float]  # width, height


@dataclass(frozen=True)
class Fits:
    """What each frame makes of a batch of answers.

    `frame` fits best by far, or is "model".  `mean` is each frame's mean fit over `answers` answers, `better` in how
    many it fits better than the model's.
    """

    frame: str
    mean: dict[str, float]
    better: dict[str, int]
    answers: int

    @property
    def warning(self) -> str | None:
        """One line for the log, or None where nothing is wrong.

        >>> Fits("unit", {"model": 0.01, "unit": 0.62}, {"unit": 9}, 10).warning
        '9 of 10 answers fit better as shares of width and height from 0 to 1 (mean IoU 0.62, as thousandths 0.01): \
answers must be 0 to 1000 of width and height, x first; check the prompt, and the model'
        """
        if self.frame == "model":
            return None
        return (
            f"{self.better[self.frame]} of {self.answers} answers fit better as {OTHERS[self.frame]} "
            f"(mean IoU {self.mean[self.frame]:.2f}, as thousandths {self.mean['model']:.2f}): "
            f"answers must be 0 to 1000 of width and height, x first; check the prompt, and the model"
        )


def check_frames(
    texts: Sequence[str], samples: Sequence[Sample], resize: Callable[[tuple[int, int]], Size] | None = None
) -> Fits:
    """Which frame a batch of completions is in: one sample for each text; `resize` gives the size that the model saw.

    Answers without boxes, and those about an absent category, say nothing and are left out.  Only the headers of
    pictures are read.
    """
    answers = []
    for text, sample in zip(texts, samples, strict=True):
        found, truth = boxes_anywhere(text), true_boxes(sample)
        if len(found) and len(truth):
            size = displayed_size(sample)
            answers.append((found, truth, size, resize(size) if resize else None))
    return judge(answers)


def judge(answers: Iterable[tuple[Array, Array, Size, Size | None]]) -> Fits:
    """The verdict on (predicted (N, 4) in whatever frame, true (M, 4) in the model's, size, size as resized or None).

    >>> true = np.array([[100.0, 200, 300, 600]])
    >>> judge([(true / 1000, true, (640, 480), None)] * 16).frame, judge([(true, true, (640, 480), None)] * 16).frame
    ('unit', 'model')
    """
    fits = [
        {name: _fit(boxes, truth) for name, boxes in _readings(found, size, resized).items()}
        for found, truth, size, resized in answers
    ]
    names = ["model", *(name for name in OTHERS if any(name in fit for fit in fits))]
    mean = {name: float(np.mean([fit.get(name, 0.0) for fit in fits])) if fits else 0.0 for name in names}
    better = {name: sum(fit.get(name, 0.0) > fit["model"] + 1e-9 for fit in fits) for name in names[1:]}
    best = max(names, key=mean.__getitem__)
    clear = len(fits) >= MIN_ANSWERS and mean[best] >= mean["model"] + MARGIN
    return Fits(best if clear else "model", mean, better, len(fits))


def boxes_anywhere(text: str) -> Array:
    """Every [a, b, c, d] and (a,b),(c,d) of an answer as a row, whatever frame it is in: (N, 4).

    Without an answer block the whole text is read.

    >>> boxes_anywhere("<answer>[{'Position': [0.1, 0.2, 0.5, 0.6], 'Confidence': 1}]</answer>").tolist()
    [[0.1, 0.2, 0.5, 0.6]]
    >>> boxes_anywhere("(12,5),(1800,900)").tolist()
    [[12.0, 5.0, 1800.0, 900.0]]
    """
    answer = extract(text[:MAX_CHARACTERS])[1]
    text = text[:MAX_CHARACTERS] if answer is None else answer
    found = _FOUR.findall(text) or _CORNERS.findall(text)
    return np.array(found[:MAX_PREDICTIONS], dtype=np.float64).reshape(-1, 4)


def _readings(found: Array, size: Size, resized: Size | None) -> dict[str, Array]:
    """The boxes in the model's frame, were they in each of the five."""
    return {
        "model": found,
        "pixels": convert(found, pixels(*size), MODEL),
        **({"resized": convert(found, pixels(*resized), MODEL)} if resized else {}),
        "unit": convert(found, Frame("unit", 1, 1), MODEL),
        "swapped": found[:, [1, 0, 3, 2]],
    }


def _fit(found: Array, truth: Array) -> float:
    overlap = iou(found, truth)
    return float(sum(overlap[pair] for pair in match_hungarian(overlap, 0.0)) / max(len(found), len(truth)))


def displayed_size(sample: Sample) -> tuple[int, int]:
    """Width and height of a sample's picture as it is handed on, in pixels; only the header is read.

    >>> displayed_size(Sample("s0", Image.new("RGB", (4, 3)), "presence", "A cat?", "<answer>yes</answer>"))
    (4, 3)
    """
    if isinstance(sample.image, Image.Image):
        return size_of(sample.image, sample.upright)
    with open_picture(sample.image) as picture:
        return size_of(picture, sample.upright)
