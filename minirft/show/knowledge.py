"""A map of when RFT beats SFT: columns are shots, rows are bases, each cell is the difference of the two methods.

Reinforcement can only favour answers that are sampled.  The caller sorts the rows, from a base that never looks by
itself to one that always does.  The difference of a hatched cell may be zero: one of its intervals holds zero.
"""

from collections.abc import Iterable, Mapping
from math import nan
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from minirft.show.plots import heatmap
from minirft.show.replication import ALL, Line, name_of, settled
from minirft.show.style import legend_below

COLOURS = "PuOr"  # orange: SFT is ahead; purple: RFT is; colour-blind readers can tell them apart
REACH = 0.6  # the difference that has the full colour
UNSURE = {"edgecolor": "#b4bcc4", "hatch": "////", "linewidth": 0}
PAIRS = ("rft - sft", "rft - sft-reasoning")


def knowledge_map(rows: Mapping[str, Iterable[Line]]) -> Figure:
    """Draw a panel for each pair of methods; `rows` is label -> the lines of one part, from the top.

    A row shows the greedy answers to its test "same", or to its first test if it has no such test.
    Raises `ValueError` for a row with lines of several parts, because one part would hide another.
    """
    cells = {label: _of_one_test(lines) for label, lines in rows.items()}
    columns = sorted({k for of in cells.values() for what, k in of if what in PAIRS}, key=lambda k: k or 10**9)
    pairs = PAIRS if columns else ()
    found = {pair: [[of.get((pair, shots)) for shots in columns] for of in cells.values()] for pair in pairs}
    size = (9.0 / max(2, len(found)), 1.2 + 0.42 * len(rows))
    shares = {name_of(pair): [[cell.mean if cell else nan for cell in row] for row in of] for pair, of in found.items()}
    shots = [str(shots or ALL) for shots in columns]
    figure = heatmap(
        shares, [*rows], shots, form="{:+.2f}", colours=COLOURS, low=-REACH, high=REACH, wide=len(PAIRS), size=size,
        xlabel="shots of each category",
    )  # fmt: skip
    for i, (axes, of) in enumerate(zip(figure.axes, found.values(), strict=True)):
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelleft=i == 0)
        for y, row in enumerate(of):
            for x, cell in enumerate(row):
                if cell and not cell.excludes_zero:
                    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, **UNSURE))
        for text in axes.texts:
            text.set(bbox={"facecolor": _colour(float(text.get_text())), "edgecolor": "none", "pad": 1.0})
    ahead = Patch(facecolor=_colour(0.4), label="RFT ahead")
    behind = Patch(facecolor=_colour(-0.4), label="RFT behind")
    legend_below(figure, [ahead, behind, Patch(facecolor="white", label="95% interval holds zero", **UNSURE)])
    return settled(figure)


def _of_one_test(lines: Iterable[Line]) -> dict[tuple[str, int], Any]:
    """Return (what, shots) -> estimate."""
    lines = [line for line in lines if line.mode == "greedy"]
    if len({line.part for line in lines}) > 1:
        raise ValueError(f"a row is one part: got {sorted({line.part for line in lines})}")
    names = [line.test for line in lines]
    return {(x.what, x.shots): x.found for x in lines if x.test == ("same" if "same" in names else names[0])}


def _colour(difference: float) -> tuple[float, ...]:
    """Return the colour of a difference in the map."""
    return colormaps[COLOURS](0.5 + difference / (2 * REACH))
