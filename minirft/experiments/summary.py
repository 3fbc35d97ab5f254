"""An experiment's file as numbers: means over seeds, and how far apart the methods are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from minirft.experiments.board import Board
from minirft.experiments.settings import HEADLINE, find
from minirft.experiments.statistics import Estimate, difference, estimate

Measured = tuple[list[float], list[list[float]]]  # values by seed, and their resamples
MODES = ("greedy", "sampled")
PAIRS = (
    ("sft", "base"),
    ("rft", "base"),
    ("rft", "sft"),
    ("rft", "sft-reasoning"),
    ("rft", "sft-quick"),
    ("rft-official", "rft"),
)


@dataclass(frozen=True)
class Line:
    """One number of the table: a method, or a difference of two, at a number of shots."""

    part: str
    test: str
    shots: int
    mode: str
    what: str
    found: Estimate


def lines(board: Board, name: str) -> Iterator[Line]:
    """Every number that the cells so far give, of greedy and of sampled answers."""
    for part, spec in find(name).parts.items():
        for test, mode in product(spec.tests, MODES):
            base = measured(board, name, part, "base", 0, test, mode)
            if base:
                yield Line(part, test, 0, mode, "base", estimate(*base))
            for shots in spec.shots:
                methods = find(name).methods
                found = {method: measured(board, name, part, method, shots, test, mode) for method in methods}
                for method, seen in found.items():
                    if seen:
                        yield Line(part, test, shots, mode, method, estimate(*seen))
                for one, other in PAIRS:
                    if pair := _paired(found.get(one), base if other == "base" else found.get(other), other == "base"):
                        yield Line(part, test, shots, mode, f"{one} - {other}", difference(*pair))


def measured(
    board: Board, name: str, part: str, method: str, shots: int, test: str, mode: str = "greedy"
) -> Measured | None:
    """The headline metric of the test cells, in the order of their seeds; None where there are none."""
    metric = HEADLINE[find(name).parts[part].task]
    keys = sorted(
        (key for key in board.cells if (key.part, key.method, key.shots) == (part, method, shots) and not key.tunes),
        key=lambda key: key.seed,
    )
    found = [board.cells[key]["tests"][test][mode] for key in keys]
    return ([x[metric] for x in found], [x["draws"] for x in found]) if found else None


def _paired(one: Measured | None, other: Measured | None, repeat: bool) -> tuple[Measured, Measured] | None:
    """Both for the same seeds; the base, which has no seed, is repeated for each."""
    if not one or not other:
        return None
    if repeat:
        other = (other[0] * len(one[0]), other[1] * len(one[1]))
    return (one, other) if len(one[0]) == len(other[0]) else None


def table(board: Board, name: str) -> str:
    """The lines as text."""
    rows = [f"{'part':<14}{'test':<20}{'shots':>5}  {'mode':<9}{'':<20}{'mean [95% interval]':<26}seeds"]
    for line in lines(board, name):
        sure = " *" if " - " in line.what and line.found.excludes_zero else ""
        which, found = f"{line.part:<14}{line.test:<20}{line.shots:>5}  {line.mode:<9}", line.found
        rows.append(f"{which}{line.what:<20}{found!s:<26}{found.seeds:>5}{sure}")
    return "\n".join(rows)
