"""When does RFT beat SFT?  Shots across, what the base already knows downwards, the difference in colour and number.

Reinforcement can only favour what is sampled: rows are sorted by the caller from a base that never looks by itself to
one that always does.  A hatched cell may be zero: one of its intervals holds zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from minirft.show.replication import ALL, Line, name_of, settled
from minirft.show.style import INK, QUIET, legend_below, panels, plain_axes, signed

COLOURS = "PuOr"  # orange: SFT is ahead; purple: RFT is; colour-blind readers can tell them apart
REACH = 0.6  # the difference at which the colour is full
PAIRS = ("rft - sft", "rft - sft-reasoning")


def looks(cells: Iterable[Mapping[str, Any]], part: str, test: str = "same", mode: str = "sampled") -> float | None:
    """The share of the base's answers that look before they answer, as its cell says; None without that cell.

    >>> cell = {"key": {"method": "base", "part": "seldom"}, "tests": {"same": {"sampled": {"careful": 0.06}}}}
    >>> looks([cell], "seldom"), looks([cell], "quick")
    (0.06, None)
    """
    for cell in cells:
        if (cell["key"]["method"], cell["key"]["part"]) == ("base", part):
            return cell["tests"][test][mode].get("careful")
    return None


def knowledge_map(
    rows: Mapping[str, Iterable[Line]], *, pairs: Sequence[str] = PAIRS, test: str = "same", mode: str = "greedy"
) -> Figure:
    """A panel for each pair of methods; `rows` is label -> the lines of one part, from the top; one `test` and `mode`.

    Rows of another test are given as lines of that test alone: where a row has no line of `test`, its first is taken.
    Raises `ValueError` for a row of several parts: one would hide the other.
    """
    chosen = {label: _of_one_test(lines, test, mode) for label, lines in rows.items()}
    columns = sorted({x.shots for lines in chosen.values() for x in lines if x.what in pairs}, key=lambda k: k or 10**9)
    pairs = pairs if columns else ()
    figure, grid = panels(len(pairs), len(pairs), 9.0 / max(2, len(pairs)), 1.2 + 0.42 * len(rows))
    for i, (axes, pair) in enumerate(zip(grid, pairs, strict=True)):
        plain_axes(axes, name_of(pair))
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        for y, lines in enumerate(chosen.values()):
            for line in lines:
                if line.what == pair:
                    _cell(axes, columns.index(line.shots), y, line.found)
        axes.set_xticks(range(len(columns)), [str(shots or ALL) for shots in columns])
        axes.set_yticks(range(len(rows)), [*rows] if i == 0 else [""] * len(rows), color=INK, parse_math=False)
        axes.tick_params(length=0)
        axes.set_xlim(-0.5, max(1, len(columns)) - 0.5)
        axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
        axes.set_xlabel("shots of each category", fontsize=8.5, color=QUIET)
    _legend(figure)
    return settled(figure)


def _of_one_test(lines: Iterable[Line], test: str, mode: str) -> list[Line]:
    lines = [line for line in lines if line.mode == mode]
    names = [line.test for line in lines]
    if len({line.part for line in lines}) > 1:
        raise ValueError(f"a row is one part: got {sorted({line.part for line in lines})}")
    test = test if test in names or not names else names[0]
    return [line for line in lines if line.test == test]


def _cell(axes: Axes, x: int, y: int, found: Any) -> None:
    red, green, blue, _ = colour = _colour(found.mean)
    ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else INK
    hatch = None if found.excludes_zero else "////"
    edge = "#b4bcc4" if hatch else "white"
    axes.add_patch(
        Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=colour, edgecolor=edge, hatch=hatch, linewidth=0)
    )
    ground = {"facecolor": colour, "edgecolor": "none", "pad": 1.0}
    axes.text(x, y, signed(found.mean), ha="center", va="center", fontsize=9, color=ink, bbox=ground)


def _colour(difference: float) -> tuple[float, ...]:
    share = TwoSlopeNorm(0, -REACH, REACH)(min(max(difference, -REACH), REACH))
    return colormaps[COLOURS](float(share))


def _legend(figure: Figure) -> None:
    ahead = Patch(facecolor=_colour(0.4), label="RFT ahead")
    behind = Patch(facecolor=_colour(-0.4), label="RFT behind")
    unsure = Patch(facecolor="white", edgecolor="#b4bcc4", hatch="////", label="95% interval holds zero")
    legend_below(figure, [ahead, behind, unsure])
