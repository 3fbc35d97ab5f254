"""Curves of a run and bars of metrics side by side, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from minirft.show.style import INK, QUIET, RUNS, legend_below, panels, plain_axes

Row = Mapping[str, Any]
WINDOW = 5  # steps in the running mean


def curves(runs: Mapping[str, Sequence[Row]], keys: Sequence[str], kind: str = "train", columns: int = 3) -> Figure:
    """One panel for each key, over the steps of each run: {"RFT": rows, "SFT": rows} as `log.read_log` gives them.

    Rows of kind `train` are a thin line under its running mean over 5 steps; rows of kind `eval` are points, with
    their bootstrap interval where the row has one.

    >>> figure = curves({"RFT": [{"kind": "train", "step": s, "reward": s / 9} for s in range(9)]}, ["reward"])
    >>> figure.axes[0].get_title(loc="left")
    'reward'
    """
    figure, grid = panels(len(keys), columns, 3.3, 2.2)
    shown: dict[str, str] = {}  # run -> colour
    for axes, key in zip(grid, keys, strict=True):
        plain_axes(axes, key)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for colour, (name, rows) in zip(RUNS, runs.items(), strict=False):
            chosen = [row for row in rows if row.get("kind") == kind and row.get(key) is not None]
            if chosen:
                (_points if kind == "eval" else _line)(axes, chosen, key, colour)
                shown[name] = colour
        axes.set_xlim(left=0)
    for axes in grid[-columns:]:
        axes.set_xlabel("step", fontsize=8.5, color=QUIET)
    legend_below(figure, [Line2D([], [], color=c, linewidth=2, label=name) for name, c in shown.items()])
    return figure


def metric_bars(blocks: Mapping[str, Row], keys: Sequence[str], columns: int = 5) -> Figure:
    """One panel for each key with a bar for each block of metrics, {"before": {...}, "after": {...}}, and its interval.

    >>> len(metric_bars({"before": {"ap50": 0.2}, "after": {"ap50": 0.5, "ci": {"ap50": [0.4, 0.6]}}}, ["ap50"]).axes)
    1
    """
    figure, grid = panels(len(keys), columns, 2.2, 2.3)
    for axes, key in zip(grid, keys, strict=True):
        plain_axes(axes, key)
        for place, (colour, block) in enumerate(zip((QUIET, *RUNS), blocks.values(), strict=False)):
            value = block.get(key)
            if value is None:
                axes.text(place, 0, "–", ha="center", va="bottom", color=QUIET)
                continue
            axes.bar(place, value, width=0.7, color=colour)
            low, high = block.get("ci", {}).get(key, (value, value))
            axes.plot([place, place], [low, high], color=INK, linewidth=1.4)
            axes.annotate(
                f"{value:.2f}", (place, max(value, high)), xytext=(0, 2), textcoords="offset points",
                ha="center", fontsize=8, color=INK,
            )  # fmt: skip
        axes.set_xticks(range(len(blocks)), blocks, fontsize=8.5)
        axes.margins(y=0.15)
    return figure


def running_mean(values: Sequence[float], window: int = WINDOW) -> np.ndarray:
    """Mean over `window` neighbours, fewer at the ends: shape kept.

    >>> running_mean([0, 3, 6], window=3).tolist()
    [1.5, 3.0, 4.5]
    """
    ones = np.ones(min(window, len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def _line(axes: Axes, rows: Sequence[Row], key: str, colour: str) -> None:
    steps, values = [row["step"] for row in rows], [row[key] for row in rows]
    axes.plot(steps, values, color=colour, linewidth=0.9, alpha=0.35)
    axes.plot(steps, running_mean(values), color=colour, linewidth=2)


def _points(axes: Axes, rows: Sequence[Row], key: str, colour: str) -> None:
    steps, values = [row["step"] for row in rows], [row[key] for row in rows]
    axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=4.5)
    bounds = [(row["step"], *row["ci"][key]) for row in rows if key in row.get("ci", {})]
    if bounds:
        x, low, high = zip(*bounds, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
