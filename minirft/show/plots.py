"""Figures of one call: curves, bars, histograms and heatmaps, one panel or several side by side.

Every call takes {title of a panel: data}, `wide`, the number of panels side by side (3), and `size`, the inches of one
panel, or `on`, a part of a figure that the panels fill.  Other keywords (`xlabel`, `ylim`, `xscale`, `xticks` and so
on) go to matplotlib's `Axes.set` of every panel; a mapping has one value for each title.  A name has one colour in all
panels and one entry in the legend; an empty name, or a name that begins with "_", has no entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from minirft.show.style import GRID, INK, QUIET, RUNS, VERMILION, legend_below, panels, plain_axes

Size = tuple[float, float]  # inches of a panel
SIZES = {1: (7.2, 2.7), 2: (4.2, 2.6)}  # panels side by side -> size of each
COLOURS = (*RUNS, VERMILION, INK)
DASHED = {"linestyle": (0, (4, 3)), "linewidth": 1.2}


def lines(
    data: Mapping[str, Any],
    x: ArrayLike | None = None,
    *,
    style: str | Mapping[str, str | Mapping[str, Any]] = "-",
    colours: Mapping[str, str] | None = None,
    across: Mapping[str, ArrayLike] | None = None,
    at: Mapping[str, ArrayLike] | None = None,
    spans: Mapping[str, ArrayLike] | None = None,
    notes: Mapping[str, Size] | None = None,
    **look: Any,
) -> Figure:
    """Draw curves: {title: {name: curve}}, or {title: curve} for a panel with one curve.

    A curve is its y-values (over `x`, or over 0, 1, 2, ...), a tuple (x, y), or (x, y, low, high) with a band.
    `style` is matplotlib's, for all curves or by name: "o" draws points, {"marker": "o"} and so on sets the properties
    of a line.  `across`, `at` and `spans` draw horizontal
    lines, vertical lines and shaded stretches of x, in the colour of the curve of that name, or else in grey.  `notes`
    writes words, {text: (x, y)}.

    >>> figure = lines({"J": {"climb": [0, 1, 2]}, "KL": {"climb": ([1, 2], [0.1, 0.2])}}, across={"bound": 2})
    >>> [len(axes.lines) for axes in figure.axes], [text.get_text() for text in figure.legends[0].texts]
    ([2, 2], ['climb', 'bound'])
    """
    curves = {title: of if isinstance(of, Mapping) else {"": of} for title, of in data.items()}
    colour = _colours([name for of in curves.values() for name in of], colours)
    figure, grid = _grid(list(curves), look)
    for axes, of in zip(grid, curves.values(), strict=True):
        for name, curve in of.items():
            if not (isinstance(curve, tuple) and np.ndim(curve[0])):
                curve = (range(len(curve)) if x is None else x, curve)
                if x is None:
                    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            places, y, *band = map(_numbers, curve)
            form = style if isinstance(style, str) else style.get(name, "-")
            marks, own = ((form,), {}) if isinstance(form, str) else ((), form)
            usual = {"color": colour[name], "linewidth": 1.8, "markersize": 5, "label": name}
            axes.plot(places, y, *marks, **usual | own)
            if band:
                axes.fill_between(places, *band, color=colour[name], alpha=0.15, linewidth=0)
        _guides(axes, colour, across or {}, at or {}, spans or {})
        for text, place in (notes or {}).items():
            axes.text(*place, text, ha="center", fontsize=8.5, color=INK, bbox={"color": "white", "pad": 1})
    return _finished(figure, grid, look)


def bars(
    data: Mapping[str, Any],
    names: Sequence[object] | None = None,
    *,
    form: str | Callable[[float], str] = "{:.2f}",
    stacked: bool = False,
    horizontal: bool = False,
    intervals: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    colours: Mapping[str, str] | None = None,
    across: Mapping[str, ArrayLike] | None = None,
    **look: Any,
) -> Figure:
    """Draw bars: {title: {series: values}} side by side or stacked, or {title: {name: value}}, one bar for each name.

    The places are `names`, by default the completions o1, o2, ...  `form` is the format of the number at a bar ("" for
    none; more than two series have none); nan is a dash.  `intervals`, {series: (low, high)}, or {title: (low, high)}
    where each bar has a name, adds a line to each bar, and `across` a line over all bars.
    Raises `ValueError` when the series of a panel differ in length.

    >>> figure = bars({"": {"reward": [2.0, 0.5]}})
    >>> [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    ['o1', 'o2']
    """
    alone = {title for title, of in data.items() if all(np.ndim(value) == 0 for value in of.values())}
    groups = {title: {"": [*of.values()]} if title in alone else of for title, of in data.items()}
    colour = _colours([name for of in groups.values() for name in of], colours)
    figure, grid = _grid(list(groups), look)
    for axes, (title, of) in zip(grid, groups.items(), strict=True):
        inks: dict[str, Any] = dict(colour)
        places = [f"o{p + 1}" for p in range(len(next(iter(of.values()))))] if names is None else names
        if title in alone:
            inks[""] = [(colours or {}).get(str(bar), colour[""]) for bar in data[title]]
            places = [*data[title]] if names is None else names
        spread = {name: (intervals or {}).get(title if title in alone else name) for name in of}
        _bars(axes, of, [*map(str, places)], inks, spread, form, stacked, horizontal)
        _guides(axes, colour, *(({}, across or {}) if horizontal else (across or {}, {})), {})
    return _finished(figure, grid, look)


def histogram(
    data: Mapping[str, ArrayLike], bins: ArrayLike = 20, *, at: Mapping[str, ArrayLike] | None = None, **look: Any
) -> Figure:
    """Draw histograms of {title: values}, with a number of bins or with given bounds; `at` draws vertical lines.

    >>> [int(bar.get_height()) for bar in histogram({"std": [0.1, 0.2, 0.9]}, [0, 0.5, 1]).axes[0].patches]
    [2, 1]
    """
    figure, grid = _grid(list(data), look)
    for axes, values in zip(grid, data.values(), strict=True):
        axes.hist(_numbers(values), bins, color=RUNS[0], rwidth=0.92)
        _guides(axes, dict.fromkeys(at or {}, VERMILION), {}, at or {}, {})
    return _finished(figure, grid, look)


def heatmap(
    data: Mapping[str, ArrayLike],
    rows: Sequence[object] | None = None,
    columns: Sequence[object] | None = None,
    *,
    form: str = "",
    label: str = "",
    colours: str = "Blues",
    low: float | None = None,
    high: float | None = None,
    **look: Any,
) -> Figure:
    """Draw matrices as colours, {title: (rows, columns)}, from `low` to `high`; nan stays blank.

    `form` is the format of the number in each cell ("" for none).  A `label` adds a colour bar.

    >>> heatmap({"R": [[0.0, 1.0]]}, ["o1"], ["paper", "strict"], form="{:.1f}").axes[0].texts[1].get_text()
    '1.0'
    """
    figure, grid = _grid(list(data), look)
    for axes, values in zip(grid, data.values(), strict=True):
        matrix = _numbers(values).astype(float)
        image = axes.imshow(matrix, cmap=colours, vmin=low, vmax=high, aspect="auto")
        axes.grid(visible=False)
        for (row, column), value in np.ndenumerate(matrix):
            if form and not np.isnan(value):
                ink = "white" if sum(image.cmap(image.norm(value))[:3]) < 1.5 else INK
                axes.text(column, row, form.format(value), ha="center", va="center", fontsize=8, color=ink)
        for ticks, names in ((axes.set_yticks, rows), (axes.set_xticks, columns)):
            if names is not None:
                ticks(range(len(names)), [str(name) for name in names])
    if label:
        figure.colorbar(image, ax=grid, label=label)
    return _finished(figure, grid, look)


def _numbers(values: Any) -> np.ndarray:
    tensor = torch.as_tensor(values) if hasattr(values, "ndim") else torch.tensor([*values], dtype=torch.float64)
    return tensor.detach().numpy()


def _colours(names: Sequence[str], overrides: Mapping[str, str] | None) -> dict[str, str]:
    """Give each name a colour, in the order of the palette, unless one was chosen for it."""
    free = iter(COLOURS * len(names))
    return {name: (overrides or {}).get(name) or next(free) for name in dict.fromkeys(names)}


def _grid(titles: Sequence[str], look: dict[str, Any]) -> tuple[Figure, list[Axes]]:
    wide, size = min(look.setdefault("wide", 3), len(titles)), look.pop("size", None)
    figure, grid = panels(len(titles), wide, *(size or SIZES.get(wide, (8.7 / wide, 2.4))), look.pop("on", None))
    for axes, title in zip(grid, titles, strict=True):
        plain_axes(axes, title)
    return figure, grid


def _bars(
    axes: Axes, series: Mapping[str, ArrayLike], names: Sequence[str], colours: Mapping[str, Any],
    intervals: Mapping[str, Any], form: str | Callable[[float], str], stacked: bool, horizontal: bool,
) -> None:  # fmt: skip
    written = form if callable(form) else form.format
    values = np.stack([_numbers(row) for row in series.values()]).astype(float)
    places, width = np.arange(values.shape[1]), 0.8 if stacked else 0.8 / len(series)
    for k, (name, row) in enumerate(zip(series, values, strict=True)):
        where = places if stacked else places + (k - (len(series) - 1) / 2) * width
        start = values[:k].sum(0) if stacked else np.zeros_like(row)
        draw, over = (axes.barh, {"left": start}) if horizontal else (axes.bar, {"bottom": start})
        if intervals[name]:
            low, high = map(_numbers, intervals[name])
            over["xerr" if horizontal else "yerr"] = np.nan_to_num([row - low, high - row])
        drawn = draw(where, np.nan_to_num(row), 0.95 * width, color=colours[name], label=name, ecolor=INK, **over)
        if form and not stacked and len(series) <= 2:
            labels = ["–" if np.isnan(value) else written(value) for value in row]
            axes.bar_label(drawn, labels, fontsize=8, color=INK, padding=2)
    if horizontal:
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
    else:
        axes.axhline(0, color=QUIET, linewidth=0.8)
        axes.set_xticks(places, names)
        axes.margins(y=0.16)


def _guides(axes: Axes, colour: Mapping[str, str], across: Mapping, at: Mapping, spans: Mapping) -> None:
    named = axes.get_legend_handles_labels()[1]
    for line, guides in ((axes.axhline, across), (axes.axvline, at)):
        for name, values in guides.items():
            label = f"_{name}" if name in named else name
            for value in np.ravel(values):
                line(value, color=colour.get(name, QUIET), label=label, **DASHED)
    for name, stretches in spans.items():
        for stretch in np.reshape(stretches, (-1, 2)):
            axes.axvspan(*stretch, color=colour.get(name, GRID), label=name, zorder=0, linewidth=0)


def _finished(figure: Figure, grid: Sequence[Axes], look: dict[str, Any]) -> Figure:
    """Set labels and limits, and add one legend for all panels."""
    wide = look.pop("wide")
    ordered = sorted(look.items(), key=lambda item: not item[0].endswith("scale"))  # a new scale forgets ticks
    found: dict[str, object] = {}
    for place, axes in enumerate(grid):
        title = axes.get_title(loc="left")
        own = {name: value.get(title) if isinstance(value, Mapping) else value for name, value in ordered}
        axes.set(**{name: value for name, value in own.items() if name != "ylabel" or place % wide == 0})
        if "xticks" in look:
            axes.minorticks_off()
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(fontsize=9, color=INK)
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    if found:
        legend_below(figure, list(found.values()))
    return figure
