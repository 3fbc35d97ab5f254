"""The box playground: sliders for predicted boxes and their confidences on a picture, and three rewards.

The sliders are written as a completion, and the three readings score that text like a model's.  The readings differ in
the matching of boxes, in the denominator, and in the reward for a confidence; the widget shows these differences.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import Image

from minirft.rewards import (
    MODEL,
    PAPER,
    STRICT,
    Array,
    ParseFailure,
    Score,
    Variant,
    convert,
    iou,
    match_greedy,
    match_hungarian,
    official,
    pixels,
    reading,
)
from minirft.show.pictures import draw_boxes
from minirft.show.play import Playground, canvas, plot_axes, table
from minirft.show.style import BLUE, GREEN, INK, ORANGE, QUIET, VERMILION

READINGS = get_args(Variant)  # strict, paper, official
PARTS = {"iou": ("R_IoU", BLUE), "confidence": ("R_conf", ORANGE), "format": ("R_format", GREEN)}
MOST = 6  # boxes; more rows of sliders than fit on a screen
ABOVE_HALF = float(np.nextafter(0.5, 1))  # the released code matches above 0.5, the paper's reading from 0.5 on
Value = tuple[tuple[int, int], tuple[int, int], float]  # (x1, x2), (y1, y2), confidence
FRESH: Value = ((350, 650), (350, 650), 0.5)  # a new box


@dataclass(frozen=True, eq=False)
class Row:
    """The controls of one predicted box."""

    x: ipywidgets.IntRangeSlider
    y: ipywidgets.IntRangeSlider
    confidence: ipywidgets.FloatSlider
    remove: ipywidgets.Button

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return x1, y1, x2, y2 in the model's frame."""
        (x1, x2), (y1, y2) = self.x.value, self.y.value
        return x1, y1, x2, y2


class BoxPlayground(Playground):
    """This widget moves predicted boxes on a picture with true boxes, and shows IoU, matching and reward.

    `true` is (M, 4) and `predicted` (N, 4), in the model's 0-1000 frame, `confidence` (N,).  At most 6 boxes.

    >>> box = [100, 100, 500, 500]
    >>> play = BoxPlayground(Image.new("RGB", (64, 64)), [box, [600, 600, 900, 900]], [box], [1.0])
    >>> {name: score.parts["iou"] for name, score in play.scores().items()}
    {'strict': 0.5, 'paper': 1.0, 'official': 0.5}
    """

    def __init__(self, image: Image.Image, true: ArrayLike, predicted: ArrayLike, confidence: ArrayLike) -> None:
        self.picture = image
        self.true = np.asarray(true, dtype=np.float64).reshape(-1, 4)
        boxes = np.asarray(predicted, dtype=np.float64).reshape(-1, 4).round().astype(int).tolist()
        self.start = [
            ((x1, x2), (y1, y2), round(float(c), 2))
            for (x1, y1, x2, y2), c in zip(boxes, np.reshape(confidence, -1), strict=True)
        ]
        self.rows: list[Row] = []
        self.add, self.copy, self.again = (
            ipywidgets.Button(description=words) for words in ("add a box", "copy the last", "as it began")
        )
        self.add.on_click(lambda _: self._append(FRESH))
        self.copy.on_click(lambda _: self._append(self._values()[-1]))
        self.again.on_click(lambda _: self.set_boxes(self.start))
        self._list = ipywidgets.VBox()
        self._lay_out(self.start)
        super().__init__([self._list, ipywidgets.HBox([self.add, self.copy, self.again])])

    def set_boxes(self, values: Sequence[Value]) -> None:
        """Replace all predictions, ((x1, x2), (y1, y2), confidence) each; only the first six are kept."""
        self._lay_out(values)
        self.redraw()

    def predicted(self) -> Array:
        """Return the predicted boxes, (N, 4)."""
        return np.array([row.box for row in self.rows], dtype=np.float64).reshape(-1, 4)

    def confidence(self) -> Array:
        """Return the confidences of the predicted boxes, (N,)."""
        return np.array([row.confidence.value for row in self.rows])

    def completion(self) -> str:
        """Write the predictions as the text of a completion."""
        return f"<think>a look at the picture</think> {_answer(self.predicted(), self.confidence())}"

    def solution(self) -> str:
        """Write the true boxes as the text of a solution."""
        return _answer(self.true, np.ones(len(self.true)))

    def overlap(self) -> Array:
        """Compute the IoU of every predicted box with every true box, (N, M)."""
        return iou(self.predicted(), self.true)

    def scores(self) -> dict[str, Score]:
        """Score the completion with each reading, part by part."""
        text, solution = self.completion(), self.solution()
        return {name: reading("detection", name)(text, solution) for name in READINGS}

    def pairs(self) -> dict[str, list[tuple[int, int]]]:
        """Return the pairs (prediction, true box) that each reading matches, counted from 0."""
        overlap, confidence = self.overlap(), self.confidence()
        kept = _first_of_equals(self.completion(), self.predicted())
        of_official = match_greedy(overlap[kept], confidence[kept], ABOVE_HALF)
        return {
            "strict": match_hungarian(overlap, STRICT.threshold, confidence),
            "paper": match_greedy(overlap, confidence, PAPER.threshold),
            "official": [(kept[n], m) for n, m in of_official],
        }

    def figure(self) -> Figure:
        """Draw the picture with all boxes, the IoU of every pair, and the reward of each reading."""
        figure, (left, *_) = canvas(4.1, widths=(1, 1), left=0.01, bottom=0.03, top=0.93, wspace=0.22)
        figure.axes[1].remove()
        draw_boxes(self.picture, self.true, self.predicted(), self.confidence(), axes=left)
        left.set_title(
            "true: letters; predicted: confidence, IoU", loc="left", fontsize=10, fontweight="bold", color=INK
        )
        _number(left, self.picture, self.true, self.predicted())
        _draw_overlap(figure.add_axes((0.565, 0.575, 0.42, 0.33)), self.overlap(), self.pairs())
        _draw_scores(figure.add_axes((0.565, 0.13, 0.42, 0.28)), self.scores())
        return figure

    def words(self) -> str:
        """Show the completion, and a table with the matched pairs and reward parts of each reading."""
        pairs, overlap = self.pairs(), self.overlap()
        rows = []
        for name, score in self.scores().items():
            matched = [f"{n + 1}–{_letter(m)} IoU {overlap[n, m]:.2f}" for n, m in pairs[name]]
            parts = [f"{value:.2f}" for value in score.parts.values()]
            note = "the answer cannot be read" if score.failure else ", ".join(matched) or "none"
            rows.append([name, note, *parts, f"<b>{score.total:.2f}</b>"])
        head = ["reading", "matched pairs", *(name for name, _ in PARTS.values()), "reward"]
        return f"<code>{html.escape(self.completion())}</code>{table(head, rows)}"

    def _lay_out(self, values: Sequence[Value]) -> None:
        for row in self.rows:
            for control in (row.x, row.y, row.confidence, row.remove):
                control.close()
        self.rows = [_row(number, *value) for number, value in enumerate(values[:MOST], 1)]
        for row in self.rows:
            self.watch(row.x, row.y, row.confidence)
            row.remove.on_click(lambda _, row=row: self._drop(row))
        self._list.children = [ipywidgets.HBox([row.x, row.y, row.confidence, row.remove]) for row in self.rows]
        self.add.disabled = len(self.rows) == MOST
        self.copy.disabled = not 0 < len(self.rows) < MOST

    def _values(self) -> list[Value]:
        return [(row.x.value, row.y.value, row.confidence.value) for row in self.rows]

    def _append(self, value: Value) -> None:
        self.set_boxes([*self._values(), value])

    def _drop(self, gone: Row) -> None:
        kept = [value for row, value in zip(self.rows, self._values(), strict=True) if row is not gone]
        self.set_boxes(kept)


def _row(number: int, x: tuple[int, int], y: tuple[int, int], confidence: float) -> Row:
    wide, narrow = {"width": "300px"}, {"width": "250px"}
    named, short = {"description_width": "64px"}, {"description_width": "18px"}
    whole = {"min": 0, "max": 1000}
    return Row(
        ipywidgets.IntRangeSlider(value=x, description=f"box {number}: x", style=named, layout=wide, **whole),
        ipywidgets.IntRangeSlider(value=y, description="y", style=short, layout=narrow, **whole),
        ipywidgets.FloatSlider(confidence, min=0, max=1, step=0.01, description="c", style=short, layout=narrow),
        ipywidgets.Button(description="remove", layout={"width": "76px"}),
    )


def _answer(boxes: Array, confidence: Array) -> str:
    """
    >>> _answer(np.array([[0.0, 1, 2, 3]]), np.array([0.5]))
    "<answer>[{'Position': [0, 1, 2, 3], 'Confidence': 0.50}]</answer>"
    """
    rows = zip(boxes.tolist(), confidence, strict=True)
    items = [f"{{'Position': [{', '.join(f'{v:g}' for v in box)}], 'Confidence': {c:.2f}}}" for box, c in rows]
    return f"<answer>{'[' + ', '.join(items) + ']' if items else 'No Objects'}</answer>"


def _first_of_equals(completion: str, boxes: Array) -> list[int]:
    """Return the indices of the boxes that the released code keeps: the first of equal boxes."""
    found = official.detections(completion)
    listed = [tuple(box) for box in boxes.tolist()]
    return [] if isinstance(found, ParseFailure) else [listed.index(position) for position, _ in found]


def _letter(m: int) -> str:
    """
    >>> _letter(0), _letter(27)
    ('A', 'B1')
    """
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[m % 26] + (str(m // 26) if m >= 26 else "")


def _number(axes: Axes, image: Image.Image, true: Array, predicted: Array) -> None:
    """Write a letter at each true box's lower right corner and a number at each predicted box's lower left corner."""
    frame = pixels(image.width, image.height)
    look = {
        "fontsize": 8.5,
        "fontweight": "bold",
        "va": "bottom",
        "annotation_clip": True,
        "textcoords": "offset points",
    }
    for m, (_, _, x2, y2) in enumerate(convert(true, MODEL, frame) - 0.5):
        ground = {"facecolor": "white", "pad": 1.5}
        axes.annotate(_letter(m), (x2, y2), xytext=(0, 1), ha="right", color=INK, bbox=ground, **look)
    corners = [(x1, y2) for x1, _, _, y2 in (convert(predicted, MODEL, frame) - 0.5).tolist()]
    for n, corner in enumerate(corners):
        ground = {"facecolor": VERMILION, "edgecolor": "white", "linewidth": 0.5, "pad": 1.5}
        right = 1 + 11 * corners[:n].count(corner)
        axes.annotate(str(n + 1), corner, xytext=(right, 1), ha="left", color="white", bbox=ground, **look)


def _draw_overlap(axes: Axes, overlap: Array, pairs: dict[str, list[tuple[int, int]]]) -> None:
    """Draw the IoU of every pair as a shade and a number, with the readings that match the pair below the number."""
    axes.set_title("IoU of each pair, and who matches it", loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=QUIET, labelsize=9)
    count, truths = overlap.shape
    if not overlap.size:
        axes.set(xticks=[], yticks=[])
        axes.text(
            0.5,
            0.5,
            "no predicted box" if truths else "no true box",
            transform=axes.transAxes,
            ha="center",
            va="center",
            color=QUIET,
        )
        return
    axes.imshow(overlap, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    axes.hlines(np.arange(1, count) - 0.5, -0.5, truths - 0.5, color="white", linewidth=3)
    axes.vlines(np.arange(1, truths) - 0.5, -0.5, count - 0.5, color="white", linewidth=3)
    axes.set_xticks(range(truths), [f"true {_letter(m)}" for m in range(truths)])
    axes.set_yticks(range(count), [f"box {n + 1}" for n in range(count)])
    for n, m in np.ndindex(count, truths):
        who = [name for name in pairs if (n, m) in pairs[name]]
        text = f"{overlap[n, m]:.2f}" + (
            f"\n{'all three' if len(who) == len(pairs) else ', '.join(who)}" if who else ""
        )
        colour = "white" if overlap[n, m] > 0.7 else INK
        if who:
            look = {"edgecolor": VERMILION, "linewidth": 2.5, "zorder": 3}
            axes.add_patch(Rectangle((m - 0.47, n - 0.46), 0.94, 0.92, fill=False, **look))
        axes.text(m, n, text, ha="center", va="center", fontsize=7.5, color=colour, linespacing=1.1)


def _draw_scores(axes: Axes, scores: dict[str, Score]) -> None:
    """Draw one stacked bar for each reading."""
    plot_axes(axes, "reward, part by part")
    axes.grid(False)
    names = list(scores)
    for place, score in enumerate(scores.values()):
        start = 0.0
        for part, value in score.parts.items():
            axes.barh(place, value, left=start, height=0.62, color=PARTS[part][1])
            if value >= 0.3:
                ink = INK if part == "confidence" else "white"
                axes.text(start + value / 2, place, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
            start += value
        axes.text(start + 0.05, place, f"{score.total:.2f}", va="center", fontsize=9, fontweight="bold", color=INK)
    axes.set(xlim=(0, 3.4), ylim=(len(names) - 0.4, -0.6))
    axes.set_yticks(range(len(names)), names, fontsize=9, color=INK)
    for place, (name, colour) in enumerate(PARTS.values()):
        axes.text(place * 0.9, 3.3, f"■ {name}", color=colour, fontsize=8.5, fontweight="bold", va="top")
