"""The numbers of an experiment's file: means over seeds, and differences of methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

from minirft.experiments.board import Board
from minirft.experiments.settings import HEADLINE, find
from minirft.experiments.statistics import Estimate, difference, estimate

Measured = tuple[list[float], list[list[float]]]  # values by seed, and their resamples
BySeed = dict[int, tuple[float, list[float]]]  # seed -> the headline metric, and its resamples
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
    """One number of the table: of a method, or of a difference of two methods, at a number of shots."""

    part: str
    test: str
    shots: int
    mode: str
    what: str
    found: Estimate


def lines(board: Board, name: str) -> Iterator[Line]:
    """Yield every number of the finished cells, for greedy and for sampled answers."""
    methods = find(name).methods
    for part, spec in find(name).parts.items():
        for test, mode in product(spec.tests, MODES):
            yield from lines_of(board, part, test, mode, HEADLINE[spec.task], spec.shots, methods)


def lines_of(
    board: Board,
    part: str,
    test: str,
    mode: str,
    metric: str,
    shots: Iterable[int],
    methods: Iterable[str],
    pairs: Iterable[tuple[str, str]] = PAIRS,
) -> Iterator[Line]:
    """Yield the numbers of one test: the base, each method at each number of shots, and differences on common seeds."""
    look = partial(_by_seed, board, part, test=test, mode=mode, metric=metric)
    base = look("base", 0)
    if base:
        yield Line(part, test, 0, mode, "base", estimate(*_columns(base)))
    for k in shots:
        found = {method: look(method, k) for method in methods}
        for method, seen in found.items():
            if seen:
                yield Line(part, test, k, mode, method, estimate(*_columns(seen)))
        # The base has no seed; it is compared with each.
        found["base"] = {seed: cell for cell in base.values() for seen in found.values() for seed in seen}
        for one, other in pairs:
            a, b = found.get(one, {}), found.get(other, {})
            if both := sorted(a.keys() & b.keys()):
                pair = (_columns({seed: x[seed] for seed in both}) for x in (a, b))
                yield Line(part, test, k, mode, f"{one} - {other}", difference(*pair))


def measured(
    board: Board, name: str, part: str, method: str, shots: int, test: str, mode: str = "greedy"
) -> Measured | None:
    """Return the headline metric of the test cells, in the order of their seeds; None if there are no cells."""
    found = _by_seed(board, part, method, shots, test, mode, HEADLINE[find(name).parts[part].task])
    return _columns(found) if found else None


def _by_seed(board: Board, part: str, method: str, shots: int, test: str, mode: str, metric: str) -> BySeed:
    cells = {
        key.seed: cell["tests"][test][mode]
        for key, cell in board.cells.items()
        if (key.part, key.method, key.shots) == (part, method, shots) and not key.tunes
    }
    return {seed: (cell[metric], cell["draws"]) for seed, cell in sorted(cells.items())}


def _columns(cells: BySeed) -> Measured:
    return [value for value, _ in cells.values()], [draws for _, draws in cells.values()]


def table(board: Board, name: str) -> str:
    """Write the lines as text; * marks a difference whose intervals exclude zero."""
    rows = [f"{'part':<14}{'test':<20}{'shots':>5}  {'mode':<9}{'':<20}{'mean [95% interval]':<26}seeds"]
    for line in lines(board, name):
        sure = " *" if " - " in line.what and line.found.excludes_zero else ""
        which, found = f"{line.part:<14}{line.test:<20}{line.shots:>5}  {line.mode:<9}", line.found
        rows.append(f"{which}{line.what:<20}{found!s:<26}{found.seeds:>5}{sure}")
    return "\n".join(rows)
