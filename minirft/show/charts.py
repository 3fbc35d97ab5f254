"""Curves of a run and bars of metrics side by side, with their intervals."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minirft.show.plots import bars, lines
from minirft.show.style import QUIET, RUNS

Row = Mapping[str, Any]


def curves(runs: Mapping[str, Sequence[Row]], keys: Sequence[str], kind: str = "train", **look: Any) -> Figure:
    """Draw the rows of run logs over the steps, {"RFT": rows, "SFT": rows}, with one panel for each key.

    Rows of kind `train` give a pale line under its running mean over 5 steps.  Rows of kind `eval` give points, with
    the bootstrap interval where a row has one.  `look` is that of `lines`.

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
    look = {"style": "o-" if kind == "eval" else "-", "xlabel": "step", "xlim": (0, None), "size": (3.3, 2.2)} | look
    figure = lines(shown, colours=colours, **look)
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def metric_bars(blocks: Mapping[str, Row], keys: Sequence[str], columns: int = 5) -> Figure:
    """Draw a panel for each key: a bar with its interval for each block of metrics, {"before": ..., "after": ...}.

    >>> len(metric_bars({"before": {"ap50": 0.2}, "after": {"ap50": 0.5, "ci": {"ap50": [0.4, 0.6]}}}, ["ap50"]).axes)
    1
    """
    shown, bounds = {}, {}
    for key in keys:
        shown[key] = {name: nan if block.get(key) is None else block[key] for name, block in blocks.items()}
        ends = [block.get("ci", {}).get(key, (shown[key][name],) * 2) for name, block in blocks.items()]
        bounds[key] = tuple(np.transpose(ends))
    colours = dict(zip(blocks, (QUIET, *RUNS), strict=False))
    return bars(shown, intervals=bounds, colours=colours, wide=columns, size=(2.2, 2.3))


def running_mean(values: Sequence[float], window: int = 5) -> np.ndarray:
    """Return the mean over `window` neighbours, fewer at the ends; the shape is kept.

    >>> running_mean([0, 3, 6], window=3).tolist()
    [1.5, 3.0, 4.5]
    """
    ones = np.ones(min(window, len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")
