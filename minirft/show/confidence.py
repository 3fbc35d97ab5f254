"""Two figures of the cells of an experiment: the calibration of confidences, and the setting that each method chose.

A cell is a mapping of an experiment's file: "key" with the method, part, shots, seed, rate and steps; and its results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minirft.show.replication import METHODS, settled
from minirft.show.style import BLUE, INK, QUIET, SKY, VERMILION, legend_below, panels, plain_axes

Cell = Mapping[str, Any]
Levels = Mapping[str, Sequence[int]]  # stated confidence -> [boxes, hits at IoU .5]
BINS = 10


def levels_of(
    cells: Iterable[Cell], part: str, shots: int, test: str = "same", mode: str = "greedy"
) -> dict[str, Levels]:
    """Return method -> boxes and hits by stated confidence, summed over seeds; the base, which has no shots, included.

    >>> key = {"part": "p", "method": "rft", "shots": 4, "seed": 1}
    >>> cells = [{"key": key, "tests": {"same": {"greedy": {"levels": {"0.85": [3, 2]}}}}}] * 2
    >>> levels_of(cells, "p", 4)
    {'rft': {'0.85': [6, 4]}}
    """
    found: dict[str, dict[str, list[int]]] = {}
    for cell in cells:
        key = cell["key"]
        if "tests" in cell and key["part"] == part and key["shots"] == (0 if key["method"] == "base" else shots):
            for level, (boxes, hits) in cell["tests"][test][mode].get("levels", {}).items():
                kept = found.setdefault(key["method"], {}).setdefault(level, [0, 0])
                kept[0], kept[1] = kept[0] + boxes, kept[1] + hits
    return {method: found[method] for method in METHODS if method in found}


def reliability(levels: Levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean stated confidence, share of hits and number of boxes, for each of 10 equal bins that has a box.

    >>> [x.tolist() for x in reliability({"0.80": [1, 1], "0.85": [1, 0], "1.00": [2, 2]})]
    [[0.825, 1.0], [0.5, 1.0], [2.0, 2.0]]
    """
    stated = np.array([float(level) for level in levels])
    boxes, hits = np.array([*levels.values()], dtype=float).reshape(-1, 2).T
    bins = np.minimum((stated * BINS + 1e-9).astype(int), BINS - 1)
    count, total, right = (np.bincount(bins, weights, BINS) for weights in (boxes, boxes * stated, hits))
    full = count > 0
    return total[full] / count[full], right[full] / count[full], count[full]


def calibration(levels: Mapping[str, Levels]) -> Figure:
    """Draw the share of boxes that hit over the stated confidence, in 10 bins, with one panel for each method.

    The area of a point is its share of the boxes.  On the diagonal a confidence of .8 is right in 8 of 10 cases; below
    the diagonal the model is too sure.
    """
    columns = max(1, len(levels)) if len(levels) < 5 else 3
    figure, grid = panels(len(levels), columns, 9.0 / max(3, columns), 9.0 / max(3, columns) + 0.35)
    for axes, (method, counts) in zip(grid, levels.items(), strict=True):
        label, colour, _ = METHODS[method]
        plain_axes(axes, label)
        stated, right, boxes = reliability(counts)
        axes.plot([0, 1], [0, 1], color=QUIET, linestyle="dashed", linewidth=1)
        axes.plot(stated, right, color=colour, linewidth=1.4)
        axes.scatter(stated, right, s=12 + 240 * boxes / boxes.sum(), color=colour, alpha=0.75, linewidth=0)
        axes.set_xlim(-0.05, 1.08)
        axes.set_ylim(-0.05, 1.05)
        axes.set_aspect("equal")
        axes.set_xlabel("stated confidence", fontsize=8.5, color=QUIET)
    for axes in grid[::columns]:
        axes.set_ylabel("share of boxes that hit", fontsize=8.5, color=QUIET)
    perfect = Line2D([], [], color=QUIET, linestyle="dashed", label="a true confidence")
    area = Line2D([], [], color=QUIET, marker="o", linestyle="none", markersize=9, label="area: share of boxes")
    legend_below(figure, [perfect, area])
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.95))  # square panels are placed without their titles
    return settled(figure)


def learning_choice(cells: Iterable[Cell], part: str, shots: int, metric: str) -> Figure:
    """Draw validation over the length of training: a panel for each method, a line for each learning rate.

    A ring marks the rate and length of the method's test cells; there is no ring before the method is tested.
    """
    cells = [cell for cell in cells if (cell["key"]["part"], cell["key"]["shots"]) == (part, shots)]
    tuned = {method: [c for c in cells if "validation" in c and c["key"]["method"] == method] for method in METHODS}
    tuned = {method: sorted(found, key=lambda c: c["key"]["rate"]) for method, found in tuned.items() if found}
    columns = max(1, len(tuned)) if len(tuned) < 5 else 3
    figure, grid = panels(len(tuned), columns, 9.0 / max(3, columns), 2.5)
    for axes, (method, found) in zip(grid, tuned.items(), strict=True):
        plain_axes(axes, METHODS[method][0])
        tested = {(c["key"]["rate"], c["key"]["steps"]) for c in cells if c["key"]["method"] == method and "tests" in c}
        for colour, mark, cell in zip((SKY, BLUE, INK), "v^o", found, strict=False):
            steps, values = zip(*sorted((int(s), value) for s, value in cell["validation"].items()), strict=True)
            rate = cell["key"]["rate"]
            axes.plot(steps, values, color=colour, marker=mark, markersize=4.5, linewidth=1.6, label=f"{rate:g}")
            chosen = [(s, value) for s, value in zip(steps, values, strict=True) if (rate, s) in tested]
            for place in chosen:
                axes.plot(*place, marker="o", markersize=12, markerfacecolor="none", color=VERMILION, markeredgewidth=2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [str(s) for s in steps])
        axes.set_xlabel("steps of training", fontsize=8.5, color=QUIET)
        axes.legend(title="learning rate", title_fontsize=7.5, fontsize=7.5, frameon=False, labelcolor=INK)
    top = max((axes.get_ylim()[1] for axes in grid), default=1)
    for axes in grid:
        axes.set_ylim(0, 1.12 * top)
    for axes in grid[::columns]:
        axes.set_ylabel(f"{metric}, validation", fontsize=8.5, color=QUIET)
    ring = {"marker": "o", "markersize": 10, "markerfacecolor": "none", "markeredgewidth": 2, "linestyle": "none"}
    legend_below(figure, [Line2D([], [], color=VERMILION, label="chosen", **ring)])
    return settled(figure)
