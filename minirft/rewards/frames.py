"""The frame check finds the coordinate frame of a model's answers: thousandths, pixels, 0 to 1, or swapped axes.

The prompts require thousandths of the picture (of Qwen2.5-VL: pixels of the resized picture).  A model that answers
in another frame earns 0, and the log shows no reason.
So each answer is interpreted in each of five frames, its boxes may lie anywhere, and they are compared with the true
boxes:

    frame        a box [x1, y1, x2, y2] is in
    model        thousandths of width and height, as the prompts require
    pixels       pixels of the picture as it is on disk
    resized      pixels of the picture after the processor resized it (usual for Qwen2.5-VL)
    unit         shares of width and height, 0 to 1
    swapped      thousandths, but [y1, x1, y2, x2]

The fit of an answer is Σ IoU / max(n_pred, n_true) over the best matching.  One answer can fit by luck, so the result
is about a batch: another frame is reported only if its mean fit is clearly better.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from minirft.pictures import open_picture, size_of
from minirft.rewards.answers import CORNERS, MAX_CHARACTERS, MAX_PREDICTIONS, NUMBER, extract, true_boxes
from minirft.rewards.boxes import MODEL, Array, convert, pixels
from minirft.rewards.detection import iou, match_hungarian
from minirft.samples import Frame, Sample

NAMES = {
    "model": "thousandths",
    "pixels": "pixels of the picture",
    "resized": "pixels of the picture as it was resized for the model",
    "unit": "shares of width and height from 0 to 1",
    "swapped": "y before x",
}
MIN_ANSWERS = 16  # with boxes, on pictures with boxes
MARGIN = 0.15  # by how much the mean fit of another frame must be better
_FOUR = re.compile(rf"\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\]", re.ASCII)
Size = tuple[float, float]  # width, height


@dataclass(frozen=True)
class Fits:
    """`Fits` holds how well each frame fits a batch of answers.

    `frame` is the clearly best frame, or else `home`.  `mean` is each frame's mean fit over `answers` answers;
    `better` counts the answers that the frame fits better than `home`.
    """

    frame: str
    mean: dict[str, float]
    better: dict[str, int]
    answers: int
    home: str = "model"  # the frame that the prompts require

    @property
    def warning(self) -> str | None:
        """Return one line for the log, or None if the frame is right.

        >>> Fits("unit", {"model": 0.01, "unit": 0.62}, {"unit": 9}, 10).warning
        '9 of 10 answers fit better as shares of width and height from 0 to 1 (mean IoU 0.62, as thousandths 0.01): \
answers must be 0 to 1000 of width and height, x first; check the prompt, and the model'
        """
        if self.frame == self.home:
            return None
        wanted = "0 to 1000 of width and height" if self.home == "model" else NAMES[self.home]
        return (
            f"{self.better[self.frame]} of {self.answers} answers fit better as {NAMES[self.frame]} "
            f"(mean IoU {self.mean[self.frame]:.2f}, as {NAMES[self.home]} {self.mean[self.home]:.2f}): "
            f"answers must be {wanted}, x first; check the prompt, and the model"
        )


def check_frames(
    texts: Sequence[str],
    samples: Sequence[Sample],
    resize: Callable[[tuple[int, int]], Size] | None = None,
    rescaled: bool = False,
) -> Fits:
    """Find the frame of a batch of completions, one sample for each text.

    `resize` maps the size of a picture to the size that the model gets.  `rescaled` texts are of a model that answers
    in pixels of this size; they were converted to thousandths, and are converted back here.  Answers without boxes,
    and those about an absent category, carry no information and are left out.  Only the headers of pictures are read.
    """
    answers = []
    for text, sample in zip(texts, samples, strict=True):
        found, truth = boxes_anywhere(text), true_boxes(sample)
        if len(found) and len(truth):
            size = displayed_size(sample)
            resized = resize(size) if resize else None
            found = convert(found, MODEL, pixels(*resized)) if rescaled and resized else found
            answers.append((found, truth, size, resized))
    return judge(answers, "resized" if rescaled else "model")


def judge(answers: Iterable[tuple[Array, Array, Size, Size | None]], home: str = "model") -> Fits:
    """Judge answers: (predicted (N, 4) in an unknown frame, true (M, 4) in the model's, size, resized size or None).

    >>> true = np.array([[100.0, 200, 300, 600]])
    >>> judge([(true / 1000, true, (640, 480), None)] * 16).frame, judge([(true, true, (640, 480), None)] * 16).frame
    ('unit', 'model')
    """
    fits = [
        {name: _fit(boxes, truth) for name, boxes in _in_each_frame(found, size, resized).items()}
        for found, truth, size, resized in answers
    ]
    names = [home, *(name for name in NAMES if name != home and any(name in fit for fit in fits))]
    mean = {name: float(np.mean([fit.get(name, 0.0) for fit in fits])) if fits else 0.0 for name in names}
    better = {name: sum(fit.get(name, 0.0) > fit[home] + 1e-9 for fit in fits) for name in names[1:]}
    best = max(names, key=mean.__getitem__)
    clear = len(fits) >= MIN_ANSWERS and mean[best] >= mean[home] + MARGIN
    return Fits(best if clear else home, mean, better, len(fits), home)


def boxes_anywhere(text: str) -> Array:
    """Find every [a, b, c, d], or else every (a,b),(c,d), of an answer, in any frame: (N, 4).

    A text without an answer block is searched as a whole.

    >>> boxes_anywhere("<answer>[{'Position': [0.1, 0.2, 0.5, 0.6], 'Confidence': 1}]</answer>").tolist()
    [[0.1, 0.2, 0.5, 0.6]]
    >>> boxes_anywhere("(12,5),(1800,900)").tolist()
    [[12.0, 5.0, 1800.0, 900.0]]
    """
    answer = extract(text[:MAX_CHARACTERS])[1]
    text = text[:MAX_CHARACTERS] if answer is None else answer
    found = _FOUR.findall(text) or CORNERS.findall(text)
    return np.array(found[:MAX_PREDICTIONS], dtype=np.float64).reshape(-1, 4)


def _in_each_frame(found: Array, size: Size, resized: Size | None) -> dict[str, Array]:
    """Convert the boxes from each of the five frames to the model's frame."""
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
    """Return width and height, in pixels, of `sample.picture()`; only the header of the file is read.

    >>> displayed_size(Sample("s0", Image.new("RGB", (4, 3)), "presence", "A cat?", "<answer>yes</answer>"))
    (4, 3)
    """
    if isinstance(sample.image, Image.Image):
        return size_of(sample.image, sample.upright)
    with open_picture(sample.image) as picture:
        return size_of(picture, sample.upright)
