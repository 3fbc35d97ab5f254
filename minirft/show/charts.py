"""Curves of a run and bars of metrics side by side, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minirft.show.plots import lines
from minirft.show.style import INK, QUIET, RUNS, panels, plain_axes

Row = Mapping[str, Any]
WINDOW = 5  # steps in the running mean


def curves(runs: Mapping[str, Sequence[Row]], keys: Sequence[str], kind: str = "train", columns: int = 3) -> Figure:
    """Draw the rows of run logs over the steps, {"RFT": rows, "SFT": rows}, with one panel for each key.

    Rows of kind `train` give a pale line under its running mean over 5 steps.  Rows of kind `eval` give points, with
    the bootstrap interval where a row has one.

    >>> figure = curves({"RFT": [{"kind": "train", "step": s, "reward": s / 9} for s in range(9)]}, ["reward"])
    >>> figure.axes[0].get_title(loc="left")
    'reward'
    """
    shown: dict[str, dict[str, tuple]] = {key: {} for key in keys}
    colours: dict[str, Any] = {}
    for key in keys:
        for colour, (name, rows) in zip(RUNS, runs.items(), strict=False):
            chosen = [row for row in rows if row.get("kind") == kind and row.get(key) is not None]
            if not chosen:
                continue
            steps, values = [row["step"] for row in chosen], [row[key] for row in chosen]
            colours |= {name: colour, f"_{name}": (colour, 0.35)}  # the legend leaves out a name that begins with "_"
            if kind == "eval":
                bounds = [row.get("ci", {}).get(key, (row[key], row[key])) for row in chosen]
                shown[key][name] = (steps, values, *np.transpose(bounds))
            else:
                shown[key] |= {f"_{name}": (steps, values), name: (steps, running_mean(values))}
    look = {"style": "o-" if kind == "eval" else "-", "xlabel": "step", "xlim": (0, None)}
    figure = lines(shown, colours=colours, wide=columns, size=(3.3, 2.2), **look)
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def metric_bars(blocks: Mapping[str, Row], keys: Sequence[str], columns: int = 5) -> Figure:
    """Draw a panel for each key: a bar with its interval for each block of metrics, {"before": ..., "after": ...}.

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
    """Return the mean over `window` neighbours, fewer at the ends; the shape is kept.

    >>> running_mean([0, 3, 6], window=3).tolist()
    [1.5, 3.0, 4.5]
    """
    ones = np.ones(min(window, len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")
