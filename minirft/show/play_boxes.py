"""The box playground: sliders for predicted boxes and their confidences on a picture, and three rewards.

The sliders are written as a completion, and the three readings score that text like a model's.  The readings differ in
the matching of boxes, in the denominator, and in the reward for a confidence; the widget shows these differences.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, get_args

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike
from PIL import Image

from minirft import rewards
from minirft.rewards import Array
from minirft.show.pictures import in_pixels, picture_row
from minirft.show.play import Playground, buttons, canvas, slider, table
from minirft.show.plots import bars, heatmap
from minirft.show.style import BLUE, GREEN, INK, ORANGE, VERMILION

PARTS = {"iou": ("R_IoU", BLUE), "confidence": ("R_conf", ORANGE), "format": ("R_format", GREEN)}
ITEM = "{{'Position': [{}, {}, {}, {}], 'Confidence': {:.2f}}}"  # a box with no width can be written too
MOST = 6  # boxes; more rows of sliders than fit on a screen
RANGE = {"low": 0, "high": 1000, "step": 1, "kind": ipywidgets.IntRangeSlider}
Value = tuple[tuple[int, int], tuple[int, int], float]  # (x1, x2), (y1, y2), confidence
FRESH: Value = ((350, 650), (350, 650), 0.5)  # a new box


class Row(NamedTuple):
    """The controls of one predicted box."""

    x: ipywidgets.IntRangeSlider
    y: ipywidgets.IntRangeSlider
    confidence: ipywidgets.FloatSlider
    remove: ipywidgets.Button


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
        stated = np.reshape(confidence, -1).round(2).tolist()
        self.start = [((x1, x2), (y1, y2), c) for (x1, y1, x2, y2), c in zip(boxes, stated, strict=True)]
        self.rows: list[Row] = []
        self._list = ipywidgets.VBox()
        edits = {
            "add a box": lambda: self.set_boxes([*self._values(), FRESH]),
            "copy the last": lambda: self.set_boxes([*self._values(), *self._values()[-1:]]),
            "as it began": lambda: self.set_boxes(self.start),
        }
        self.add, self.copy, _ = made = buttons(edits)
        self._lay_out(self.start)
        super().__init__([[self._list], made])

    def set_boxes(self, values: Sequence[Value]) -> None:
        """Replace all predictions, ((x1, x2), (y1, y2), confidence) each; only the first six are kept."""
        self._lay_out(values)
        self.redraw()

    def predicted(self) -> Array:
        """Return the predicted boxes, (N, 4)."""
        boxes = [(x1, y1, x2, y2) for (x1, x2), (y1, y2), _ in self._values()]
        return np.array(boxes, dtype=np.float64).reshape(-1, 4)

    def confidence(self) -> Array:
        """Return the confidences of the predicted boxes, (N,)."""
        return np.array([row.confidence.value for row in self.rows])

    def completion(self) -> str:
        """Write the predictions as the text of a completion."""
        items = [ITEM.format(x1, y1, x2, y2, c) for (x1, x2), (y1, y2), c in self._values()]
        answer = f"[{', '.join(items)}]" if items else "No Objects"
        return f"<think>a look at the picture</think> <answer>{answer}</answer>"

    def overlap(self) -> Array:
        """Compute the IoU of every predicted box with every true box, (N, M)."""
        return rewards.iou(self.predicted(), self.true)

    def scores(self) -> dict[str, rewards.Score]:
        """Score the completion with each reading, part by part."""
        text, solution = self.completion(), rewards.detection_solution(self.true)
        return {name: rewards.reading("detection", name)(text, solution) for name in get_args(rewards.Variant)}

    def pairs(self) -> dict[str, list[tuple[int, int]]]:
        """Return the pairs (prediction, true box) that each reading matches, counted from 0."""
        overlap, confidence = self.overlap(), self.confidence()
        listed = self.predicted().tolist()
        kept = [n for n, box in enumerate(listed) if box not in listed[:n]]  # the released code drops equal boxes
        of_official = rewards.match_greedy(overlap[kept], confidence[kept], rewards.official.MATCH)
        return {
            "strict": rewards.match_hungarian(overlap, rewards.STRICT.threshold, confidence),
            "paper": rewards.match_greedy(overlap, confidence, rewards.PAPER.threshold),
            "official": [(kept[n], m) for n, m in of_official],
        }

    def figure(self) -> Figure:
        """Draw the picture with all boxes, the IoU of every pair, and the reward of each reading."""
        figure, (left, middle, right) = canvas(3.3, widths=(1.15, 1, 1))
        picture_row([self.picture], ["predicted: confidence, IoU"], [self.true], [self.predicted()],
                    confidence=[self.confidence()], on=left)  # fmt: skip
        _number(left.axes[0], self.picture, self.true, self.predicted())
        scores = self.scores()
        if self.overlap().size:
            _draw_overlap(middle, self.overlap(), self.pairs())
        stacks = {label: [score.parts[part] for score in scores.values()] for part, (label, _) in PARTS.items()}
        names = [f"{name}\n{score.total:.2f}" for name, score in scores.items()]
        bars({"reward, part by part": stacks}, names, stacked=True, horizontal=True, colours=dict(PARTS.values()),
             xlim=(0, 3), on=right)  # fmt: skip
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
        for control in chain(*self.rows):
            control.close()
        self.rows = [_row(number, *value) for number, value in enumerate(values[:MOST], 1)]
        for place, row in enumerate(self.rows):
            self.watch(*row[:3])
            row.remove.on_click(lambda _, place=place: self._drop(place))
        self._list.children = [ipywidgets.HBox(row) for row in self.rows]
        self.add.disabled = len(self.rows) == MOST
        self.copy.disabled = not 0 < len(self.rows) < MOST

    def _values(self) -> list[Value]:
        return [(row.x.value, row.y.value, row.confidence.value) for row in self.rows]

    def _drop(self, place: int) -> None:
        self.set_boxes([value for other, value in enumerate(self._values()) if other != place])


def _row(number: int, x: tuple[int, int], y: tuple[int, int], confidence: float) -> Row:
    remove = ipywidgets.Button(description="remove", layout={"width": "76px"})
    left, top = slider(f"box {number}: x", x, **RANGE, wide=300, named=64), slider("y", y, **RANGE, wide=250, named=18)
    return Row(left, top, slider("c", confidence, 0, 1, wide=250, named=18), remove)


def _letter(m: int) -> str:
    """
    >>> _letter(0), _letter(27)
    ('A', 'B1')
    """
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[m % 26] + (str(m // 26) if m >= 26 else "")


def _number(axes: Axes, image: Image.Image, true: Array, predicted: Array) -> None:
    """Write a letter at each true box's lower right corner and a number at each predicted box's lower left corner."""
    look = {"fontsize": 8.5, "fontweight": "bold", "va": "bottom", "textcoords": "offset points"}
    for m, (_, _, x2, y2) in enumerate(in_pixels(true, image)):
        ground = {"facecolor": "white", "pad": 1.5}
        axes.annotate(_letter(m), (x2, y2), xytext=(0, 1), ha="right", color=INK, bbox=ground, **look)
    corners = [(x1, y2) for x1, _, _, y2 in in_pixels(predicted, image).tolist()]
    for n, corner in enumerate(corners):
        ground = {"facecolor": VERMILION, "edgecolor": "white", "linewidth": 0.5, "pad": 1.5}
        right = 1 + 11 * corners[:n].count(corner)
        axes.annotate(str(n + 1), corner, xytext=(right, 1), ha="left", color="white", bbox=ground, **look)


def _draw_overlap(part: SubFigure, overlap: Array, pairs: dict[str, list[tuple[int, int]]]) -> None:
    """Draw the IoU of every pair as a shade and a number; a frame and names mark what the readings match."""
    names = [f"box {n + 1}" for n in range(len(overlap))], [f"true {_letter(m)}" for m in range(overlap.shape[1])]
    heatmap({"IoU, and who matches it": overlap}, *names, form="{:.2f}", low=0, high=1.25, on=part)
    for text in part.axes[0].texts:
        column, row = text.get_position()
        who = [name for name in pairs if (row, column) in pairs[name]]
        if who:
            matched = "all three" if len(who) == len(pairs) else "\n".join(who)
            text.set_text(f"{text.get_text()}\n{matched}")
            text.set_bbox({"facecolor": "none", "edgecolor": VERMILION, "linewidth": 2})
