"""Methods side by side over all tables: curves over shots, dots with intervals, and the differences that say what held.

What is drawn are the lines of an experiment (`minirft.experiments.summary.lines`) and columns of the paper's tables;
this room reads no file and trains nothing.  Our numbers are shares in [0, 1], the paper's percent, so the two never
share an axis: what can be compared is which method is above, and how the gap goes with shots.  A method has one colour
and one mark everywhere; a difference that may be zero (not `excludes_zero`) is drawn hollow.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from math import log2
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from minirft.show.style import BLUE, GREEN, INK, ORANGE, PINK, QUIET, SKY, legend_below, panels, plain_axes

METHODS = {
    "base": ("base", QUIET, "P"),
    "sft": ("SFT", ORANGE, "s"),
    "sft-reasoning": ("SFT, reasoning", GREEN, "D"),
    "rft": ("RFT", BLUE, "o"),
    "sft-quick": ("SFT, quick thought", PINK, "v"),
    "rft-official": ("RFT, released reward", SKY, "^"),
}
"""Method -> its label, colour and mark in every figure."""
PAIRS = ("rft - sft", "rft - sft-reasoning", "rft - base")
ALL = "all"  # how a number of shots of 0 is called: the whole training set

Column = Mapping[str, Mapping[int, float]]  # method -> shots -> percent, as the paper has it


class Line(Protocol):
    """One number of an experiment: a method or a difference ("rft - sft") of a part's test at a number of shots."""

    part: str
    test: str
    shots: int
    mode: str
    what: str
    found: Any  # mean, low, high and excludes_zero, as `experiments.statistics.Estimate` has them


def of_paper(table: Mapping[str, Any], column: str, model: str = "2B") -> dict[str, dict[int, float]]:
    """A column of one of the paper's tables, method -> shots -> percent; 0 shots are the base or the whole set.

    >>> of_paper({"rows": [{"model": "2B", "shots": "all", "method": "rft", "novel": 31.3}]}, "novel")
    {'rft': {0: 31.3}}
    """
    found: dict[str, dict[int, float]] = {}
    for row in table["rows"]:
        if row["model"] == model and column in row:
            found.setdefault(row["method"], {})[0 if row["shots"] == ALL else row["shots"]] = row[column]
    return found


def name_of(what: str) -> str:
    """The label of a method, or of a difference of two.

    >>> name_of("rft - sft-reasoning")
    'RFT − SFT, reasoning'
    """
    return " − ".join(METHODS[method][0] for method in what.split(" - "))


def shot_curves(
    lines: Iterable[Line],
    metric: str,
    *,
    tests: Sequence[str] = ("same",),
    mode: str = "greedy",
    paper: Mapping[str, Column] | None = None,
) -> Figure:
    """`metric` over shots, a panel for each part and test, a line with its band for each method, the base dashed.

    `paper` has more panels, in percent, {"Flower102": of_paper(tables["2"], "Flower102")}; the same colours.
    """
    lines = [line for line in lines if line.mode == mode and line.test in tests and " - " not in line.what]
    places = list(dict.fromkeys((line.part, line.test) for line in lines))
    paper = paper or {}
    columns = len(places) if 1 < len(places) <= 4 and len(paper) == len(places) else min(4, len(places) + len(paper))
    figure, grid = panels(len(places) + len(paper), columns, 9.0 / max(3, columns), 2.4)
    for axes, (part, test) in zip(grid, places, strict=False):
        here = [line for line in lines if (line.part, line.test) == (part, test)]
        _curves(axes, {what: {x.shots: x.found for x in here if x.what == what} for what in METHODS})
        plain_axes(axes, part if len(tests) == 1 else f"{part}: {test}")
    for axes, (title, column) in zip(grid[len(places) :], paper.items(), strict=True):
        _curves(axes, column)
        plain_axes(axes, f"paper: {title}")
        axes.set_facecolor("#f6f8fa")
    for start, stop, label in ((0, len(places), metric), (len(places), len(grid), "paper's metric, %")):
        _same_height(grid[start:stop])
        for i in range(start, stop):
            if i % columns == 0 or i == start:
                grid[i].set_ylabel(label, fontsize=8.5, color=QUIET)
    for axes in grid:
        axes.set_xlabel("shots of each category", fontsize=8.5, color=QUIET)
    legend_of(figure, {line.what for line in lines} | {method for column in paper.values() for method in column})
    return settled(figure)


def method_dots(
    lines: Iterable[Line], metric: str, *, shots: int = 0, paper: Mapping[str, Column] | None = None
) -> Figure:
    """Every method at one number of shots: its dot and interval, greedy filled and sampled hollow; a panel for a test.

    `paper` has more panels, in percent, as for `shot_curves`.
    """
    lines = [x for x in lines if " - " not in x.what and x.shots == (0 if x.what == "base" else shots)]
    places, paper = list(dict.fromkeys((line.part, line.test) for line in lines)), paper or {}
    shown = [what for what in METHODS if any(line.what == what for line in lines)]
    count = len(places) + len(paper)
    columns = count if count <= 4 else -(-count // 2) if count <= 8 else 4
    figure, grid = panels(count, columns, 9.0 / max(2.5, columns), 0.9 + 0.3 * len(shown))
    parts = len({part for part, _ in places})
    for axes, (part, test) in zip(grid, places, strict=False):
        plain_axes(axes, test if parts == 1 else part if test == "same" else f"{part}: {test}")
        for line in lines:
            if (line.part, line.test) == (part, test):
                greedy = line.mode == "greedy"
                _dot(axes, line.found, shown.index(line.what) + (-0.16 if greedy else 0.16), line.what, filled=greedy)
        axes.set_xlabel(metric, fontsize=8.5, color=QUIET)
    for axes, (title, column) in zip(grid[len(places) :], paper.items(), strict=True):
        plain_axes(axes, f"paper: {title}")
        axes.set_facecolor("#f6f8fa")
        for what in shown:
            value = column.get(what, {}).get(0 if what == "base" else shots)
            if value is not None:
                _, colour, mark = METHODS[what]
                axes.plot([value], [shown.index(what)], mark, color=colour, markersize=6)
        axes.set_xlabel("paper's metric, %", fontsize=8.5, color=QUIET)
    for i, axes in enumerate(grid):
        _rows(axes, [METHODS[what][0] for what in shown] if i % columns == 0 else [""] * len(shown))
        axes.set_xlim(0, 1.03 * axes.get_xlim()[1])  # room for the mark of the largest
    _legend_of_dots(figure, "greedy answers", "sampled answers")
    return settled(figure)


def differences(
    experiments: Mapping[str, Iterable[Line]], *, pairs: Sequence[str] = PAIRS, mode: str = "greedy"
) -> Figure:
    """What held: every difference of two methods with its 95% interval, a panel for each pair, sorted by table.

    `experiments` is title -> lines.  Filled: `excludes_zero`, the bootstrap's interval and the one over the seeds do.
    """
    rows: list[tuple[str, dict[str, Any] | None]] = []
    for title, lines in experiments.items():
        chosen = [line for line in lines if line.mode == mode and line.what in pairs]
        if chosen:
            rows.append((textwrap.shorten(title, 42, placeholder=" ..."), None))
            for part, test, shots in dict.fromkeys((x.part, x.test, x.shots) for x in chosen):
                here = {x.what: x.found for x in chosen if (x.part, x.test, x.shots) == (part, test, shots)}
                rows.append((_place(part, test, shots), here))
    pairs = pairs if rows else ()
    figure, grid = panels(len(pairs), len(pairs), 9.0 / max(2, len(pairs)), 0.9 + 0.2 * len(rows))
    for i, (axes, pair) in enumerate(zip(grid, pairs, strict=True)):
        plain_axes(axes, name_of(pair).replace(", ", ",\n"))
        axes.axvline(0, color=INK, linewidth=1)
        for y, (_, here) in enumerate(rows):
            if here and pair in here:
                found = here[pair]
                _dot(axes, found, y, pair.split(" - ")[1], filled=found.excludes_zero)
        _rows(axes, [label if i == 0 else "" for label, _ in rows])
        for label, (_, here) in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("normal" if here else "bold")
        axes.set_xlabel("difference in share", fontsize=8.5, color=QUIET)
    reach = max((abs(x) for axes in grid for x in axes.get_xlim()), default=1)
    for axes in grid:
        axes.set_xlim(-reach, reach)
    _legend_of_dots(figure, "95% interval without zero", "interval holds zero")
    return settled(figure)


def settled(figure: Figure) -> Figure:
    """The figure laid out once: titles find their place only in drawing, so a first layout leaves them no room."""
    if figure.axes:
        figure.draw_without_rendering()
    return figure


def legend_of(figure: Figure, shown: Iterable[str]) -> None:
    """The methods that are shown, in their order, under the figure."""
    handles = []
    for what in (method for method in METHODS if method in set(shown)):
        label, colour, mark = METHODS[what]
        style = "dashed" if what == "base" else "solid"
        handles.append(
            Line2D([], [], color=colour, marker=None if what == "base" else mark, linestyle=style, label=label)
        )
    if handles:
        legend_below(figure, handles)


def _curves(axes: Axes, found: Mapping[str, Mapping[int, Any]]) -> None:
    """The base as a level, each other method over its shots; numbers of `found` are bare or with an interval."""
    ticks = sorted({shots for what, points in found.items() for shots in points if what != "base"})
    place = {shots: log2(shots) if shots else -1.0 for shots in ticks}
    for what, points in found.items():
        _, colour, mark = METHODS[what]
        if what == "base":
            for level in points.values():
                axes.axhline(getattr(level, "mean", level), color=colour, linestyle="dashed", linewidth=1.4)
            continue
        x = [place[shots] for shots in sorted(points)]
        seen = [points[shots] for shots in sorted(points)]
        if seen:
            means = [getattr(point, "mean", point) for point in seen]
            axes.plot(x, means, color=colour, marker=mark, markersize=4.5, linewidth=1.8)
        if seen and hasattr(seen[0], "low"):
            low, high = [point.low for point in seen], [point.high for point in seen]
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.set_xticks([*place.values()], [str(shots or ALL) for shots in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _place(part: str, test: str, shots: int) -> str:
    """
    >>> _place("flower", "same", 1), _place("65 base", "novel", 0)
    ('flower, 1 shot', '65 base, novel')
    """
    counted = f"{shots} shot{'s' * (shots > 1)}" if shots else ""
    return ", ".join(filter(None, (part, "" if test == "same" else test, counted)))


def _same_height(grid: Sequence[Axes]) -> None:
    top = max((axes.get_ylim()[1] for axes in grid), default=1)
    for axes in grid:
        axes.set_ylim(0, top)


def _dot(axes: Axes, found: Any, y: float, what: str, *, filled: bool) -> None:
    _, colour, mark = METHODS[what]
    axes.plot([found.low, found.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    face = colour if filled else "white"
    axes.plot([found.mean], [y], mark, color=colour, markerfacecolor=face, markersize=5.5)


def _legend_of_dots(figure: Figure, filled: str, hollow: str) -> None:
    handle = {"color": INK, "marker": "o", "linestyle": "none"}
    names = {filled: INK, hollow: "none"}
    legend_below(figure, [Line2D([], [], label=name, markerfacecolor=face, **handle) for name, face in names.items()])


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """Rows named from above; a faint line to each."""
    axes.set_yticks(range(len(labels)), labels, fontsize=8.5, color=INK, parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e8ec", linewidth=0.6)
