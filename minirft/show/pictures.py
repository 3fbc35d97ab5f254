"""Boxes on pictures: one answer, a group of completions side by side, answers before and after training.

True boxes are dashed black on white, predicted ones solid vermilion, so that colour is never the only difference.
A prediction says its confidence and, when it is matched (the surest first, IoU >= .5), its IoU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import Image

from minirft.rewards import MODEL, Detections, ParseFailure, convert, iou, match_greedy, parse, pixels
from minirft.samples import Sample, Task
from minirft.show.style import BLUE, INK, QUIET, VERMILION, legend_below, panels, signed

LEGEND = [
    Line2D([], [], color="black", linestyle=(0, (4, 3)), linewidth=1.6, label="true box"),
    Line2D([], [], color=VERMILION, linewidth=2, label="predicted box: confidence, IoU"),
]
NONE = np.zeros((0, 4))
MAX_DRAWN = 50  # boxes of one answer; more would hide the picture


@dataclass(frozen=True)
class Group:
    """The completions of one prompt with what each earned: lists of length G, `parts` one list for each reward."""

    sample: Sample
    texts: list[str]
    rewards: list[float]
    advantages: list[float]
    parts: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""  # where it is from and how it was picked, in a sentence


def draw_boxes(
    image: Image.Image,
    true: ArrayLike = NONE,
    predicted: ArrayLike = NONE,
    confidence: ArrayLike | None = None,
    *,
    axes: Axes | None = None,
) -> Figure:
    """A picture with its true boxes (M, 4) and an answer's boxes (N, 4) and confidences (N,), in the model's frame.

    Draws into `axes` where given, else into a new figure with a legend; returns the figure.

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
    for box in _in_pixels(true, image):
        _outline(axes, box, "white", 3.0, "solid")
        _outline(axes, box, "black", 1.6, (0, (4, 3)))
    labels = _labels(np.reshape(predicted, (-1, 4)), np.reshape(true, (-1, 4)), confidence)
    for box, label in list(zip(_in_pixels(predicted, image), labels, strict=True))[:MAX_DRAWN]:
        _outline(axes, box, "white", 3.6, "solid")
        _outline(axes, box, VERMILION, 2.0, "solid")
        _label(axes, box, label, image)
    return axes.figure


def group_panel(group: Group, columns: int = 4) -> Figure:
    """The completions of one group on its picture, each with its reward r and advantage A."""
    figure, grid = panels(len(group.texts), columns, 2.5, 2.95)
    rows = zip(grid, group.texts, group.rewards, group.advantages, strict=True)
    for number, (axes, text, reward, advantage) in enumerate(rows, start=1):
        draw_answer(axes, group.sample, text)
        colour = BLUE if advantage > 0 else QUIET
        title = f"{number}:  r = {reward:.2f}   A = {signed(advantage)}"
        axes.set_title(title, fontsize=9.5, color=colour, fontweight="bold", loc="left")
    legend_below(figure, LEGEND)
    return figure


def picture_row(
    images: Sequence[Image.Image | np.ndarray],
    captions: Sequence[str] = (),
    true: Sequence[ArrayLike] = (),
    predicted: Sequence[ArrayLike] = (),
    notes: Sequence[str] = (),
    wide: int = 4,
    size: float | None = None,
) -> Figure:
    """Pictures (or arrays of colours) side by side, each with a caption above, boxes (M, 4) and a note below it.

    Each list is as long as `images`, or empty.  `size` is the width of a picture in inches.

    >>> picture_row([Image.new("RGB", (64, 48))] * 2, ["before", "after"]).axes[1].get_title(loc="left")
    'after'
    """
    size = size or 8.4 / min(wide, len(images))
    figure, grid = panels(len(images), wide, size, size + 0.25)
    for i, (axes, image) in enumerate(zip(grid, images, strict=True)):
        opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
        draw_boxes(opened, *([boxes[i] if len(boxes) else NONE for boxes in (true, predicted)]), axes=axes)
        axes.set_title(captions[i] if captions else "", fontsize=9, loc="left", color=INK, parse_math=False)
        axes.set_xlabel(notes[i] if notes else "", fontsize=8.5, color=INK, parse_math=False)
    return figure


def before_after(samples: Sequence[Sample], before: Sequence[str], after: Sequence[str], columns: int = 4) -> Figure:
    """What was answered about each picture before and after training, one above the other."""
    columns = min(columns, len(samples))
    bands = [range(start, min(start + columns, len(samples))) for start in range(0, len(samples), columns)]
    figure, grid = panels(2 * columns * len(bands), columns, 2.5, 2.9)
    for axes in grid:
        axes.set_axis_off()
    for band, chosen in enumerate(bands):
        for row, (name, texts) in enumerate((("before", before), ("after", after))):
            for column, i in enumerate(chosen):
                axes = grid[(2 * band + row) * columns + column]
                axes.set_axis_on()
                draw_answer(axes, samples[i], texts[i])
                title = f"{name}: {samples[i].category}"[:34]
                weight = "bold" if name == "after" else "normal"
                axes.set_title(title, fontsize=9.5, color=INK, fontweight=weight, loc="left", parse_math=False)
    legend_below(figure, LEGEND)
    return figure


def boxes_of(task: Task, text: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The boxes of an answer, (N, 4), and their confidences where the task has them; none when it does not parse.

    >>> boxes_of("grounding", "<answer>(1,2),(3,4)</answer>")[0].tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    answer = parse(task, text)
    if isinstance(answer, Detections):
        return answer.boxes, answer.confidence
    return (answer[None], None) if isinstance(answer, np.ndarray) else (NONE, None)


def draw_answer(axes: Axes, sample: Sample, text: str) -> None:
    """One answer on its picture with the true boxes; what has no box is said below it."""
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


def _labels(predicted: np.ndarray, true: np.ndarray, confidence: ArrayLike | None) -> list[str]:
    overlap = iou(predicted, true)
    matched = dict(match_greedy(overlap, np.ones(len(predicted)) if confidence is None else confidence))
    places = [f"IoU {_short(overlap[n, matched[n]])}" if n in matched else "miss" for n in range(len(predicted))]
    if confidence is None:
        return places
    return [f"{_short(c)}  {place}" for c, place in zip(np.asarray(confidence), places, strict=True)]


def _short(share: float) -> str:
    """
    >>> _short(0.5), _short(1.0)
    ('.50', '1.0')
    """
    return "1.0" if share >= 0.995 else f"{share:.2f}"[1:]


def _in_pixels(boxes: ArrayLike, image: Image.Image) -> np.ndarray:
    """Boxes of the model's frame where `imshow` puts pixel corners: half a pixel up and left."""
    return convert(np.reshape(boxes, (-1, 4)), MODEL, pixels(image.width, image.height)) - 0.5


def _outline(axes: Axes, box: np.ndarray, colour: str, width: float, style: object) -> None:
    x1, y1, x2, y2 = box
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
    axes.add_patch(patch)


def _label(axes: Axes, box: np.ndarray, text: str, image: Image.Image) -> None:
    """Above the box where there is room, else inside it; to the left of its right side near the picture's edge."""
    inside, late = box[1] < 0.09 * image.height, box[0] > 0.62 * image.width
    ground = {"facecolor": VERMILION, "edgecolor": "none", "pad": 1.2}
    axes.text(
        box[2] if late else box[0], box[1], text, fontsize=7.5, color="white", fontweight="bold", bbox=ground,
        va="top" if inside else "bottom", ha="right" if late else "left", clip_on=True,
    )  # fmt: skip
