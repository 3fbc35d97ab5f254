"""Text with a coloured background for each token, which shows a number of the token."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minirft.show.style import BLUE, INK, VERMILION, Part, panels

COLUMNS, MARGIN, LINE = 117, 17, 0.165  # of the drawing: characters, characters before the tokens, inches a line
LONGEST = 600  # characters of one completion that the drawing shows

Placed = tuple[int, int, str, int, int]  # completion, token (-1: the label), text, column, line
Colour = Callable[[int, int], tuple[float, float, float]]  # (completion, token) -> red, green, blue in [0, 1]


def name_of(g: int) -> str:
    """Return the paper's name of completion g of a group: o₁, o₂, ...

    >>> name_of(0), name_of(9)
    ('o₁', 'o₁₀')
    """
    return "o" + "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(g + 1))


def reach(rows: Sequence[Sequence[float]], neutral: float) -> float:
    """Return the 98% quantile of the distances from neutral, which gets the full colour.

    >>> reach([[1.0, 1.5], [0.5]], neutral=1.0)
    0.5
    """
    far = np.abs(np.concatenate([np.zeros(0), *map(np.asarray, rows)]) - neutral)
    return float(np.quantile(far, 0.98) or far.max()) if far.size else 0.0


def shade(value: float, neutral: float, full: float) -> tuple[float, float, float]:
    """Return the colour of a number: blue above neutral, orange below, paler when nearer.

    >>> shade(1.0, 1.0, 0.5), shade(2.0, 1.0, 0.0)
    ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    """
    strength = 0.75 * min(1.0, abs(value - neutral) / full) if full > 0 else 0.0
    ink = to_rgb(BLUE if value > neutral else VERMILION)
    return tuple(1 - strength * (1 - channel) for channel in ink)


def layout(tokens_of: Sequence[Sequence[str]], labels: Sequence[str]) -> list[Placed]:
    """Compute the places of tokens in characters: (completion, token, text, column, line); token -1 is the label."""
    placed, line = [], 0
    for g, tokens in enumerate(tokens_of):
        placed.append((g, -1, labels[g], 0, line))
        column, written = MARGIN, 0
        for t, token in enumerate(tokens):
            token, written = token.replace("\n", "⏎")[: COLUMNS - MARGIN], written + len(token)
            if column + len(token) > COLUMNS:
                column, line = MARGIN, line + 1
            placed.append((g, t, token if written <= LONGEST else "…", column, line))
            if written > LONGEST:
                break
            column += len(token)
        line += 1
    return placed


def token_rows(tokens_of: Sequence[Sequence[str]], heat: Sequence[Sequence[float]], labels: Sequence[str],
               title: str = "", full: float = 3.0) -> Figure:  # fmt: skip
    """Draw completions as text, each token on the colour of its number: white at 0, orange at -`full`, blue at `full`.

    >>> len(token_rows([["<think>", "look"]], [[0.0, -1.5]], ["o1"]).axes[0].texts)
    3
    """
    return draw_tokens(layout(tokens_of, labels), lambda g, t: shade(heat[g][t], 0.0, full), title)


def height_of(places: list[Placed]) -> float:
    """Return the height of a drawing of tokens with its title, in inches."""
    return LINE * (1 + max(line for *_, line in places)) + 0.35


def draw_tokens(places: list[Placed], colour: Colour, title: str, on: Part = None) -> Figure:
    """Draw tokens as text on their colours, in a monospaced font, so that places are counted in characters."""
    figure, (axes,) = panels(1, 1, 8, height_of(places), on)
    axes.set(xlim=(0, COLUMNS), ylim=(1 + max(line for *_, line in places), 0))
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    for g, t, token, column, line in places:
        if t >= 0:
            axes.add_patch(Rectangle((column, line + 0.05), len(token), 0.9, color=colour(g, t), linewidth=0))
        axes.text(
            column, line + 0.5, token, family="monospace", fontsize=7.7, va="center_baseline", color=INK,
            fontweight="bold" if t < 0 else "normal", parse_math=False,
        )  # fmt: skip
    return figure
