"""An experiment's file as a table: means over seeds, and how far apart the methods are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from minirft.experiments.board import Board
from minirft.experiments.settings import HEADLINE, METHODS, find
from minirft.experiments.statistics import Estimate, difference, estimate

Measured = tuple[list[float], list[list[float]]]  # values by seed, and their resamples
PAIRS = (("rft", "base"), ("rft", "sft"), ("rft", "sft-quick"), ("rft", "sft-reasoning"))


@dataclass(frozen=True)
class Line:
    """One number of the table: a method, or a difference of two, at a number of shots."""

    part: str
    test: str
    shots: int
    what: str
    found: Estimate


def lines(board: Board, name: str) -> Iterator[Line]:
    """Every number that the cells so far give."""
    for part, spec in find(name).parts.items():
        for test in spec.tests:
            base = measured(board, name, part, "base", 0, test)
            if base:
                yield Line(part, test, 0, "base", estimate(*base))
            for shots in spec.shots:
                found = {method: measured(board, name, part, method, shots, test) for method in METHODS}
                for method, seen in found.items():
                    if seen:
                        yield Line(part, test, shots, method, estimate(*seen))
                for one, other in PAIRS:
                    if pair := _paired(found[one], base if other == "base" else found[other], other == "base"):
                        yield Line(part, test, shots, f"{one} - {other}", difference(*pair))


def measured(board: Board, name: str, part: str, method: str, shots: int, test: str) -> Measured | None:
    """Greedy headline metric of the test cells, in the order of their seeds; None where there are none."""
    metric = HEADLINE[find(name).parts[part].task]
    keys = sorted(
        (key for key in board.cells if (key.part, key.method, key.shots) == (part, method, shots) and not key.tunes),
        key=lambda key: key.seed,
    )
    found = [board.cells[key]["tests"][test] for key in keys]
    return ([x["greedy"][metric] for x in found], [x["draws"] for x in found]) if found else None


def _paired(one: Measured | None, other: Measured | None, repeat: bool) -> tuple[Measured, Measured] | None:
    """Both for the same seeds; the base, which has no seed, is repeated for each."""
    if not one or not other:
        return None
    if repeat:
        other = (other[0] * len(one[0]), other[1] * len(one[1]))
    return (one, other) if len(one[0]) == len(other[0]) else None


def table(board: Board, name: str) -> str:
    """The lines as text."""
    rows = [f"{'part':<14}{'test':<12}{'shots':>5}  {'':<20}{'mean [95% interval]':<26}seeds"]
    for line in lines(board, name):
        sure = " *" if " - " in line.what and line.found.excludes_zero else ""
        which, found = f"{line.part:<14}{line.test:<12}{line.shots:>5}", line.found
        rows.append(f"{which}  {line.what:<20}{found!s:<26}{found.seeds:>5}{sure}")
    return "\n".join(rows)
