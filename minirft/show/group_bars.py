"""Bars over the completions of one group: probabilities, rewards, advantages, gradients.

One place for each completion, o1 to oG, and one bar for each thing that is compared there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from minirft.show.style import INK, QUIET, RUNS, legend_below, panels, plain_axes

MAX_LABELLED = 2  # series whose bars carry their number; more would overlap


def completion_bars(
    series: Mapping[str, Sequence[float]],
    unit: str,
    title: str = "",
    *,
    axes: Axes | None = None,
    form: str = "{:.2f}",
) -> Figure:
    """{name: G values} as G places of bars side by side; `unit` labels the vertical axis, `form` the bars ("": none).

    Draws into `axes` where given (the legend is then the caller's, see `bar_handles`), else into a new figure; returns
    the figure.  Raises `ValueError` on an empty `series` or on series of different lengths.

    >>> figure = completion_bars({"reward": [2.0, 0.5]}, "reward")
    >>> [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    ['o1', 'o2']
    """
    lengths = {len(values) for values in series.values()}
    if len(lengths) != 1:
        raise ValueError(f"one value for each completion in every series, got lengths {sorted(lengths)}")
    if axes is None:
        figure, (axes,) = panels(1, 1, 7.0, 2.6)
        if len(series) > 1:
            legend_below(figure, bar_handles(series))
    plain_axes(axes, title)
    axes.axhline(0, color=QUIET, linewidth=0.8)
    width, shown = 0.8 / len(series), form and len(series) <= MAX_LABELLED
    for place, (colour, values) in enumerate(zip(RUNS, series.values(), strict=False)):
        shift = (place - (len(series) - 1) / 2) * width
        drawn = axes.bar(
            [i + shift for i in range(len(values))], [float(v) for v in values], width * 0.95, color=colour
        )
        if shown:
            axes.bar_label(drawn, fmt=form, fontsize=8, color=INK, padding=2)
    axes.set_xticks(range(lengths.pop()), [f"o{i + 1}" for i in range(len(values))])
    axes.set_ylabel(unit, fontsize=9, color=INK)
    axes.margins(y=0.16)
    return axes.figure


def bar_handles(names: Sequence[str] | Mapping[str, object]) -> list[Patch]:
    """The legend of bars drawn by `completion_bars`, in their order.

    >>> [patch.get_label() for patch in bar_handles(["reference", "optimum"])]
    ['reference', 'optimum']
    """
    return [Patch(color=colour, label=name) for colour, name in zip(RUNS, names, strict=False)]
