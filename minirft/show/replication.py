"""Figures that compare the methods of the experiments: curves over shots, dots with intervals, and differences.

The figures draw the lines of an experiment (`minirft.experiments.summary.lines`) and columns of the paper's tables.
Our numbers are shares in [0, 1] and the paper's are percent, so the two never share an axis.  A reader can compare
which method is better, and how the gap changes with the shots.  A method has one colour and one mark in every figure.
The mark of a difference that may be zero (not `excludes_zero`) is hollow.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minirft.show import plots
from minirft.show.style import BLUE, GREEN, GRID, INK, ORANGE, PINK, QUIET, SKY, legend_below, panels, plain_axes

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
ALL = "all"  # the label of 0 shots: the whole training set
PAPER, PAPER_GROUND = "paper's metric, %", "#f6f8fa"

Dot = tuple[float, Any, str, bool]  # row, an estimate or a number, method, whether it is filled
Column = Mapping[str, Mapping[int, float]]  # method -> shots -> percent, as the paper has it


@dataclass(frozen=True)
class Line:
    """One number of an experiment: of a method or a difference ("rft - sft"), for one part, test and shots."""

    part: str
    test: str
    shots: int
    mode: str
    what: str
    found: Any  # mean, low, high and excludes_zero, as `experiments.statistics.Estimate` has them
    metric: str = ""


def of_paper(table: Mapping[str, Any], column: str, model: str = "2B") -> dict[str, dict[int, float]]:
    """Return a column of one of the paper's tables, method -> shots -> percent; 0 shots are the base or the whole set.

    >>> of_paper({"rows": [{"model": "2B", "shots": "all", "method": "rft", "novel": 31.3}]}, "novel")
    {'rft': {0: 31.3}}
    """
    found: dict[str, dict[int, float]] = {}
    for row in table["rows"]:
        if row["model"] == model and column in row:
            found.setdefault(row["method"], {})[0 if row["shots"] == ALL else row["shots"]] = row[column]
    return found


def name_of(what: str) -> str:
    """Return the label of a method, or of a difference of two methods.

    >>> name_of("rft - sft-reasoning")
    'RFT − SFT, reasoning'
    """
    return " − ".join(METHODS[method][0] for method in what.split(" - "))


def shot_curves(
    lines: Iterable[Line], metric: str, *, tests: Sequence[str] = ("same",), paper: Mapping[str, Column] | None = None
) -> Figure:
    """Draw `metric` over shots: a panel for each part and test, a line with a band for each method, the base dashed.

    `paper` adds panels in percent, in the same colours: {"Flower102": of_paper(tables["2"], "Flower102")}.
    """
    lines = [line for line in lines if line.mode == "greedy" and line.test in tests and " - " not in line.what]
    shown: dict[str, dict[str, Mapping[int, Any]]] = {}
    for line in lines:
        title = line.part if len(tests) == 1 else f"{line.part}: {line.test}"
        shown.setdefault(title, {}).setdefault(line.what, {})[line.shots] = line.found
    ours, papers = [*shown], {f"paper: {title}": column for title, column in (paper or {}).items()}
    shown |= papers
    columns = len(ours) if 1 < len(ours) <= 4 and len(papers) == len(ours) else min(4, len(shown))
    curves, ticks = {}, {}
    for title, found in shown.items():
        curves[title], ticks[title] = _over_shots(found)
    labels = {title: metric if title in ours else PAPER for title in shown}
    figure = plots.lines(
        curves,
        style={label: "--" if what == "base" else f"{mark}-" for what, (label, _, mark) in METHODS.items()},
        colours={label: colour for label, colour, _ in METHODS.values()},
        wide=columns, size=(9.0 / max(3, columns), 2.4), xlabel="shots of each category", ylabel=labels,
        xticks={title: [*places] for title, places in ticks.items()},
        xticklabels={title: [*places.values()] for title, places in ticks.items()},
        ylim={title: (0, 1.05 * top_of(curves, ours if title in ours else papers)) for title in shown},
    )  # fmt: skip
    for axes in figure.axes[len(ours) :]:
        axes.set_facecolor(PAPER_GROUND)
    if papers:
        figure.axes[len(ours)].set_ylabel(PAPER, fontsize=9, color=INK)
    return settled(figure)


def method_dots(
    lines: Iterable[Line], metric: str, *, shots: int = 0, paper: Mapping[str, Column] | None = None
) -> Figure:
    """Draw every method at one number of shots as a dot with its interval, with one panel for each test.

    Filled dots are greedy answers, hollow dots sampled ones.  `paper` adds panels in percent, as in `shot_curves`.
    """
    lines = [x for x in lines if " - " not in x.what and x.shots == (0 if x.what == "base" else shots)]
    several = len({line.part for line in lines}) > 1
    methods = [what for what in METHODS if any(line.what == what for line in lines)]
    shown: dict[str, list[Dot]] = {}
    for line in lines:
        test = line.test if not several else line.part if line.test == "same" else f"{line.part}: {line.test}"
        greedy = line.mode == "greedy"
        place = methods.index(line.what) + (-0.16 if greedy else 0.16)
        shown.setdefault(test, []).append((place, line.found, line.what, greedy))
    labels = dict.fromkeys(shown, metric)
    for title, column in (paper or {}).items():
        numbers = [column.get(what, {}).get(0 if what == "base" else shots) for what in methods]
        dots = [(place, number, methods[place], True) for place, number in enumerate(numbers) if number is not None]
        shown[f"paper: {title}"], labels[f"paper: {title}"] = dots, PAPER
    count = len(shown)
    columns = count if count <= 4 else -(-count // 2) if count <= 8 else 4
    size = (9.0 / max(2.5, columns), 0.9 + 0.3 * len(methods))
    figure = _dots(shown, list(map(name_of, methods)), columns, size, labels, ("greedy answers", "sampled answers"))
    for axes in figure.axes:
        axes.set_xlim(0, 1.03 * axes.get_xlim()[1])  # room for the mark of the largest
    return settled(figure)


def differences(
    experiments: Mapping[str, Iterable[Line]], *, pairs: Sequence[str] = PAIRS, mode: str = "greedy"
) -> Figure:
    """Draw each difference of two methods with its 95% interval: a panel for each pair, sorted by table.

    `experiments` is title -> lines.  A dot is filled if `excludes_zero`: the bootstrap interval and the interval over
    the seeds both exclude zero.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    for title, lines in experiments.items():
        chosen = [line for line in lines if line.mode == mode and line.what in pairs]
        if chosen:
            rows.append((textwrap.shorten(title, 42, placeholder=" ..."), {}))
            for part, test, shots in dict.fromkeys((x.part, x.test, x.shots) for x in chosen):
                here = {x.what: x.found for x in chosen if (x.part, x.test, x.shots) == (part, test, shots)}
                rows.append((_place(part, test, shots), here))
    shown: dict[str, list[Dot]] = {}
    for pair in pairs if rows else ():
        found = {y: here[pair] for y, (_, here) in enumerate(rows) if pair in here}
        dots = [(y, estimate, pair.split(" - ")[1], estimate.excludes_zero) for y, estimate in found.items()]
        shown[name_of(pair).replace(", ", ",\n")] = dots
    size, labels = (9.0 / max(2, len(shown)), 1.2 + 0.2 * len(rows)), dict.fromkeys(shown, "difference in share")
    legend = ("95% interval without zero", "interval holds zero")
    figure = _dots(shown, [label for label, _ in rows], len(shown), size, labels, legend)
    reach = max((abs(x) for axes in figure.axes for x in axes.get_xlim()), default=1)
    for axes in figure.axes:
        axes.axvline(0, color=INK, linewidth=1, zorder=1)
        axes.set_xlim(-reach, reach)
        for label, (_, here) in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("normal" if here else "bold")
    return settled(figure)


def settled(figure: Figure) -> Figure:
    """Lay out a figure once and return it: a first layout leaves no room for titles, which drawing places."""
    if figure.axes:
        figure.draw_without_rendering()
    return figure


def _over_shots(numbers: Mapping[str, Mapping[int, Any]]) -> tuple[dict[str, tuple], dict[float, str]]:
    """Return the curve of each method, {label: (x, mean[, low, high])}, and the ticks; the base is a horizontal line.

    Shots are spaced by doublings; the whole training set (0 shots) comes first.  A number is bare or has an interval.
    """
    every = sorted({shots for what, points in numbers.items() for shots in points if what != "base"})
    place = {shots: log2(shots) if shots else -1.0 for shots in every}
    curves = {}
    for what, points in ((method, numbers[method]) for method in METHODS if method in numbers):
        x = [place[shots] for shots in sorted(points)] if what != "base" else []
        seen = [points[shots] for shots in sorted(points)]
        band = [[getattr(point, end) for point in seen] for end in ("low", "high")] if hasattr(seen[0], "low") else []
        means = [getattr(point, "mean", point) for point in seen]
        if what == "base":
            x, means, band = [min(place.values(), default=0) - 0.3, max(place.values(), default=0) + 0.3], means * 2, []
        curves[METHODS[what][0]] = (x, means, *band)
    return curves, {x: str(shots or ALL) for shots, x in place.items()}


def top_of(curves: Mapping[str, Mapping[str, tuple]], titles: Iterable[str]) -> float:
    """Return the largest y-value of some panels, so that they have one height."""
    return max((max(map(max, curve[1:])) for title in titles for curve in curves[title].values()), default=1)


def _place(part: str, test: str, shots: int) -> str:
    """
    >>> _place("flower", "same", 1), _place("65 base", "novel", 0)
    ('flower, 1 shot', '65 base, novel')
    """
    counted = f"{shots} shot{'s' * (shots > 1)}" if shots else ""
    return ", ".join(filter(None, (part, "" if test == "same" else test, counted)))


def _dots(
    shown: Mapping[str, Sequence[Dot]], rows: Sequence[str], columns: int, size: tuple[float, float],
    labels: Mapping[str, str], legend: tuple[str, str],
) -> Figure:  # fmt: skip
    """Draw a panel for each title with named `rows` from the top; a dot is filled or hollow, as `legend` explains."""
    figure, grid = panels(len(shown), columns, *size)
    for i, (axes, (title, dots)) in enumerate(zip(grid, shown.items(), strict=True)):
        plain_axes(axes, title)
        axes.set_facecolor(PAPER_GROUND if labels[title] == PAPER else "white")
        for y, found, what, filled in dots:
            _, colour, mark = METHODS[what]
            if hasattr(found, "low"):
                axes.plot([found.low, found.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            mean, face = getattr(found, "mean", found), colour if filled else "white"
            axes.plot([mean], [y], mark, color=colour, markerfacecolor=face, markersize=5.5)
        names = rows if i % columns == 0 else [""] * len(rows)
        axes.set_yticks(range(len(rows)), names, fontsize=8.5, color=INK, parse_math=False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.set_xlabel(labels[title], fontsize=8.5, color=QUIET)
    handle = {"color": INK, "marker": "o", "linestyle": "none"}
    faces = zip(legend, (INK, "none"), strict=True)
    legend_below(figure, [Line2D([], [], label=name, markerfacecolor=face, **handle) for name, face in faces])
    return figure
