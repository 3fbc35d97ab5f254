"""Two figures of the cells of an experiment: the calibration of confidences, and the setting that each method chose.

A cell is a mapping of an experiment's file: "key" with the method, part, shots, seed, rate and steps; and its results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minirft.show.plots import lines
from minirft.show.replication import METHODS, settled
from minirft.show.style import BLUE, GREEN, INK, ORANGE, PINK, QUIET, SKY, VERMILION

Cell = Mapping[str, Any]
Levels = Mapping[str, Sequence[int]]  # stated confidence -> [boxes, hits at IoU .5]
BINS = 10
RING = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgewidth": 2, "linestyle": ""}


def levels_of(cells: Iterable[Cell], part: str, shots: int) -> dict[str, Levels]:
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
            for level, (boxes, hits) in cell["tests"]["same"]["greedy"].get("levels", {}).items():
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
    found = {METHODS[method][0]: reliability(counts) for method, counts in levels.items()}
    diagonal, colours = (
        {"a true confidence": ([0, 1], [0, 1])},
        {f"_{name}": colour for name, colour, _ in METHODS.values()},
    )
    figure = lines(
        {name: diagonal | {f"_{name}": (stated, right)} for name, (stated, right, _) in found.items()},
        style={"a true confidence": "--"}, colours=colours | {"a true confidence": QUIET}, **_columns(len(found), 0.35),
        xlabel="stated confidence; area: share of boxes", ylabel="share of boxes that hit",
        xlim=(-0.05, 1.08), ylim=(-0.05, 1.05), aspect="equal",
    )  # fmt: skip
    for axes, (name, (stated, right, boxes)) in zip(figure.axes, found.items(), strict=True):
        axes.scatter(
            stated, right, s=12 + 240 * boxes / boxes.sum(), color=colours[f"_{name}"], alpha=0.75, linewidth=0
        )
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.95))  # square panels are placed without their titles
    return settled(figure)


def learning_choice(cells: Iterable[Cell], part: str, shots: int, metric: str) -> Figure:
    """Draw validation over the length of training: a panel for each method, a line for each learning rate.

    A ring marks the rate and length of the method's test cells; there is no ring before the method is tested.
    """
    cells = [cell for cell in cells if (cell["key"]["part"], cell["key"]["shots"]) == (part, shots)]
    cells = sorted(cells, key=lambda cell: cell["key"].get("rate") or 0)
    shown: dict[str, dict[str, Any]] = {}
    ticks: dict[str, list[int]] = {}
    for method, (title, *_) in METHODS.items():
        keys = [cell["key"] for cell in cells if cell["key"]["method"] == method and "tests" in cell]
        tested = {(key["rate"], key["steps"]) for key in keys}
        for cell in [c for c in cells if c["key"]["method"] == method and "validation" in c]:
            curve, rate = {int(step): value for step, value in cell["validation"].items()}, cell["key"]["rate"]
            ticks[title] = sorted(curve)
            name = f"learning rate {rate:g}"
            shown.setdefault(title, {})[name] = (ticks[title], [curve[step] for step in ticks[title]])
            chosen = [step for step in curve if (rate, step) in tested]
            if chosen:
                shown[title]["chosen"] = (chosen, [curve[step] for step in chosen])
    rates = sorted(
        {name for of in shown.values() for name in of if name != "chosen"}, key=lambda x: float(x.split()[-1])
    )
    top = max((max(curve[1]) for of in shown.values() for curve in of.values()), default=1)
    figure = lines(
        {title: {name: of[name] for name in (*rates, "chosen") if name in of} for title, of in shown.items()},
        style=dict(zip(rates, ("v-", "^-", "o-", "s-", "D-", "P-"), strict=False)) | {"chosen": RING},
        colours=dict(zip(rates, (SKY, BLUE, INK, GREEN, ORANGE, PINK), strict=False)) | {"chosen": VERMILION},
        xscale="log", xticks=ticks, xticklabels=ticks, xlabel="steps of training", ylabel=f"{metric}, validation",
        ylim=(0, 1.12 * top), **_columns(len(shown), -0.5),
    )  # fmt: skip
    return settled(figure)


def _columns(count: int, taller: float) -> dict[str, Any]:
    columns = max(1, count) if count < 5 else 3
    return {"wide": columns, "size": (9.0 / max(3, columns), 9.0 / max(3, columns) + taller)}
