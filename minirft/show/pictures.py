"""Figures of boxes on pictures: one answer, a group of completions, answers before and after training.

True boxes are dashed black on white and predicted boxes are solid vermilion, so colour is never the only difference.
The label of a predicted box is its confidence and, when it is matched (highest confidence first, IoU >= .5), its IoU.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import Image

from minirft.rewards import MODEL, Detections, ParseFailure, convert, iou, match_greedy, parse, pixels, true_boxes
from minirft.samples import WITH_BOXES, Sample, Task
from minirft.show.style import BLUE, INK, PAPER, QUIET, VERMILION, Drawing, Part, legend_below, panels, png, signed

LEGEND = [
    Line2D([], [], color="black", linestyle=(0, (4, 3)), linewidth=1.6, label="true box"),
    Line2D([], [], color=VERMILION, linewidth=2, label="predicted box: confidence, IoU"),
]
NONE = np.zeros((0, 4))
SMALLEST = 448  # pixels of the longer side below which a picture is enlarged by a whole number
LINE = 42  # characters of a line below a picture
MAX_DRAWN = 50  # boxes of one answer; more would hide the picture


@dataclass(frozen=True)
class Group:
    """The completions of one prompt with their rewards: lists of length G; `parts` has a list for each reward part.

    `failures` has the reason why a completion is unreadable (None if it is readable); `step` is the training step that
    sampled the group.
    """

    sample: Sample
    texts: list[str]
    rewards: list[float]
    advantages: list[float]
    parts: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""  # one sentence: the source of the group and how it was chosen
    failures: list[str | None] = field(default_factory=list)
    step: int = 0


def draw_boxes(
    image: Image.Image,
    true: ArrayLike | None = NONE,
    predicted: ArrayLike = NONE,
    confidence: ArrayLike | None = None,
    *,
    axes: Axes | None = None,
) -> Figure:
    """Draw true boxes (M, 4) and predicted boxes (N, 4) with confidences (N,) on a picture, in the model's frame.

    If `true` is None, the truth is unknown, and no box is called a miss.  The drawing goes into `axes` if given, else
    into a new figure with a legend.  Returns the figure.

    >>> figure = draw_boxes(Image.new("RGB", (64, 48)), true=[[0, 0, 500, 500]], predicted=[[0, 0, 500, 400]])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['IoU .80']
    """
    if axes is None:
        figure, (axes,) = panels(1, 1, 4.2, 4.2 * image.height / image.width + 0.5)
        legend_below(figure, LEGEND)
    axes.imshow(np.asarray(image.convert("RGB")), interpolation="nearest" if image.width < 256 else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(QUIET)
    for box in in_pixels(NONE if true is None else true, image):
        _outline(axes, box, "white", 3.0, "solid")
        _outline(axes, box, "black", 1.6, (0, (4, 3)))
    labels = _labels(np.reshape(predicted, (-1, 4)), true, confidence)
    for box, label in list(zip(in_pixels(predicted, image), labels, strict=True))[:MAX_DRAWN]:
        _outline(axes, box, "white", 3.6, "solid")
        _outline(axes, box, VERMILION, 2.0, "solid")
        _label(axes, box, label, image)
    return axes.figure


Size = tuple[float, float]  # inches of a panel
SIZE = (2.5, 2.95)
Answer = tuple[Sample, str, str, dict[str, Any]]  # sample, text, title, look of the title


def answer_grid(answers: Sequence[Answer | None], columns: int = 4, size: Size = SIZE, on: Part = None) -> Figure:
    """Draw answers on their pictures in a grid; None leaves a place empty."""
    figure, grid = panels(len(answers), columns, *size, on)
    for axes, answer in zip(grid, answers, strict=True):
        if answer is None:
            axes.set_axis_off()
            continue
        sample, text, title, look = answer
        draw_answer(axes, sample, text)
        axes.set_title(title[:34], **{"fontsize": 9.5, "color": INK, "loc": "left", "parse_math": False} | look)
    if any(answer and answer[0].task in WITH_BOXES for answer in answers):
        legend_below(figure, LEGEND)
    return figure


def group_panel(group: Group) -> Figure:
    """Draw each completion of a group on the picture, with its reward r and its advantage A."""
    shown = []
    rows = zip(group.texts, group.rewards, group.advantages, strict=True)
    for number, (text, reward, advantage) in enumerate(rows, start=1):
        title = f"{number}:  r = {reward:.2f}   A = {signed(advantage)}"
        look = {"color": BLUE if advantage > 0 else QUIET, "fontweight": "bold"}
        shown.append((group.sample, text, title, look))
    return answer_grid(shown)


def picture_row(
    images: Sequence[Image.Image | np.ndarray],
    captions: Sequence[str] = (),
    true: Sequence[ArrayLike] = (),
    predicted: Sequence[ArrayLike] = (),
    notes: Sequence[str] = (),
    wide: int = 4,
    size: float | None = None,
    confidence: Sequence[ArrayLike] = (),
    on: Part = None,
) -> Figure:
    """Draw pictures (or RGB arrays) side by side, each with a caption above, boxes (M, 4) and a note below.

    Each list is as long as `images`, or empty.  `size` is the width of a picture in inches, `on` a part of a figure.

    >>> picture_row([Image.new("RGB", (64, 48))] * 2, ["before", "after"]).axes[1].get_title(loc="left")
    'after'
    """
    size = size or 8.4 / min(wide, len(images))
    figure, grid = panels(len(images), wide, size, size + (0.6 if notes else 0.35), on)
    for i, (axes, image) in enumerate(zip(grid, images, strict=True)):
        opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
        boxes = [of[i] if len(of) else NONE for of in (true, predicted)]
        draw_boxes(opened, *boxes, confidence[i] if len(confidence) else None, axes=axes)
        axes.set_title(captions[i] if captions else "", fontsize=9, loc="left", color=INK, parse_math=False)
        axes.set_xlabel(notes[i] if notes else "", fontsize=8.5, color=INK, parse_math=False)
    return figure


def mark(picture: Image.Image, boxes: ArrayLike, confidence: ArrayLike = (), line: str = "") -> Image.Image:
    """Draw boxes, xyxy in pixels, with their confidences on a picture in its own size, and `line` on a strip below it.

    A picture of less than 448 pixels is enlarged, so that the words are readable.

    >>> mark(Image.new("RGB", (100, 50)), [[10, 10, 40, 40]], [0.9]).size
    (500, 250)
    """
    times, below = max(1, -(-SMALLEST // max(picture.size))), 0.3 if line else 0.0
    dpi = times * max(picture.size) / 6  # the longer side has six inches, for the size of words and lines
    wide, high = (times * side / dpi for side in picture.size)
    figure = Drawing(figsize=(wide, high + below), facecolor=PAPER)
    axes = figure.add_axes((0, below / (high + below), 1, high / (high + below)))
    of_model = convert(np.reshape(boxes, (-1, 4)), pixels(*picture.size), MODEL)
    draw_boxes(picture, None, of_model, confidence if np.size(confidence) else None, axes=axes)
    axes.set_axis_off()
    words = " ".join(line.encode("utf-8", "replace").decode().split())[:90]
    figure.text(0.08 / wide, 0.1 / (high + below), words, fontsize=8.5, color=INK, parse_math=False)
    return Image.open(io.BytesIO(png(figure, dpi))).convert("RGB")


def drawing(samples: list[Sample]) -> Figure:
    """Draw samples in a grid, to check a data set before a run: picture, true boxes, question, solution, and size."""
    pictures = [sample.picture() for sample in samples]
    captions = [f"{_cut(s.category, 30)}   {p.width} x {p.height}" for s, p in zip(samples, pictures, strict=True)]
    texts = [[textwrap.fill(_cut(text, 3 * LINE), LINE) for text in (s.problem, s.solution)] for s in samples]
    boxes = [true_boxes(sample) for sample in samples]
    return picture_row(pictures, captions, boxes, notes=["\n".join(text) for text in texts], size=3.2)


def before_after(samples: Sequence[Sample], before: Sequence[str], after: Sequence[str], columns: int = 4) -> Figure:
    """Draw the answers to each picture before training, and below them those after training."""
    columns = min(columns, len(samples))
    shown: list[Answer | None] = []
    for start in range(0, len(samples), columns):
        chosen = range(start, min(start + columns, len(samples)))
        for name, texts, weight in (("before", before, "normal"), ("after", after, "bold")):
            for i in chosen:
                shown.append((samples[i], texts[i], f"{name}: {samples[i].category}", {"fontweight": weight}))
            shown += [None] * (columns - len(chosen))
    return answer_grid(shown, columns)


def boxes_of(task: Task, text: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the boxes of an answer, (N, 4), and their confidences if the task has them; no boxes if it is unreadable.

    >>> boxes_of("grounding", "<answer>(1,2),(3,4)</answer>")[0].tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    answer = parse(task, text)
    if isinstance(answer, Detections):
        return answer.boxes, answer.confidence
    return (answer[None], None) if isinstance(answer, np.ndarray) else (NONE, None)


def draw_answer(axes: Axes, sample: Sample, text: str) -> None:
    """Draw an answer and the true boxes on the picture; write an answer without boxes below the picture."""
    predicted, confidence = boxes_of(sample.task, text)
    draw_boxes(sample.picture(), boxes_of(sample.task, sample.solution)[0], predicted, confidence, axes=axes)
    answer = parse(sample.task, text)
    if isinstance(answer, ParseFailure):
        note = f"unreadable: {answer.reason}"
    elif isinstance(answer, Detections):
        note = f"{answer.invalid} malformed" if answer.invalid else "" if len(answer) else "No Objects"
    else:
        note = "" if isinstance(answer, np.ndarray) else {True: "yes", False: "no"}.get(answer, str(answer)[:30])
    axes.set_xlabel(note, fontsize=8.5, color=INK, parse_math=False)


def _labels(predicted: np.ndarray, true: ArrayLike | None, confidence: ArrayLike | None) -> list[str]:
    overlap = iou(predicted, np.reshape(NONE if true is None else true, (-1, 4)))
    matched = dict(match_greedy(overlap, np.ones(len(predicted)) if confidence is None else confidence))
    places = [f"IoU {_short(overlap[n, matched[n]])}" if n in matched else "miss" for n in range(len(predicted))]
    stated = [""] * len(predicted) if confidence is None else [_short(c) for c in np.asarray(confidence)]
    return stated if true is None else [f"{c}  {place}".strip() for c, place in zip(stated, places, strict=True)]


def _short(share: float) -> str:
    """
    >>> _short(0.5), _short(1.0)
    ('.50', '1.0')
    """
    return "1.0" if share >= 0.995 else f"{share:.2f}"[1:]


def _cut(text: str, limit: int) -> str:
    """Shorten a text to one line.

    >>> _cut("dog", 30), _cut("honorificabilitudinitatibus", 8)
    ('dog', 'honorif…')
    """
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def in_pixels(boxes: ArrayLike, image: Image.Image) -> np.ndarray:
    """Convert boxes to pixels for `imshow`, whose pixel corners lie half a pixel up and left."""
    return convert(np.reshape(boxes, (-1, 4)), MODEL, pixels(image.width, image.height)) - 0.5


def _outline(axes: Axes, box: np.ndarray, colour: str, width: float, style: object) -> None:
    x1, y1, x2, y2 = box
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
    axes.add_patch(patch)


def _label(axes: Axes, box: np.ndarray, text: str, image: Image.Image) -> None:
    """Write a label above its box if there is room, else inside; near the right edge, align it with the right side."""
    inside, late = box[1] < 0.09 * image.height, box[0] > 0.62 * image.width
    ground = {"facecolor": VERMILION, "edgecolor": "none", "pad": 1.2}
    axes.text(
        box[2] if late else box[0], box[1], text, fontsize=7.5, color="white", fontweight="bold", bbox=ground,
        va="top" if inside else "bottom", ha="right" if late else "left", clip_on=True,
    )  # fmt: skip
