"""The numbers of an experiment's file: means over seeds, and differences of methods."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import product

from minirft.experiments.board import Board
from minirft.experiments.real import RealPart
from minirft.experiments.settings import CONTROLS, METHODS, Part, find
from minirft.experiments.statistics import Estimate, difference, estimate
from minirft.show import Line, name_of

Measured = tuple[list[float], list[list[float]]]  # values by seed, and their resamples
BySeed = dict[int, tuple[float, list[float]]]  # seed -> the metric of comparison, and its resamples
MODES = ("greedy", "sampled")
PAIRS = ("sft - base", "rft - base", "rft - sft", "rft - sft-reasoning", "rft - sft-quick", "rft-official - rft")


def lines(board: Board, name: str, parts: Mapping[str, Part | RealPart] | None = None) -> Iterator[Line]:
    """Yield every number of the finished cells, for greedy and for sampled answers.

    The base comes first, then each method at each number of shots, and differences on common seeds.  The parts are by
    default those of the tiny world.
    """
    for part, spec in (parts or find(name).parts).items():
        for test, mode in product(spec.tests, MODES):
            look = partial(_by_seed, board, part, test=test, mode=mode, metric=spec.metric)
            for shots, what, found in _compared(look, spec.shots):
                yield Line(part, test, shots, mode, what, found, spec.metric)


def _compared(look: Callable[[str, int], BySeed], shots: Iterable[int]) -> Iterator[tuple[int, str, Estimate]]:
    """Yield (shots, what, number) of one test and mode."""
    base = look("base", 0)
    if base:
        yield 0, "base", estimate(*_columns(base))
    for k in shots:
        found = {method: seen for method in METHODS + CONTROLS if (seen := look(method, k))}
        for method, seen in found.items():
            yield k, method, estimate(*_columns(seen))
        # The base has no seed; it is compared with each.
        found["base"] = {seed: cell for cell in base.values() for seen in found.values() for seed in seen}
        for what in PAIRS:
            a, b = (found.get(method, {}) for method in what.split(" - "))
            if both := sorted(a.keys() & b.keys()):
                pair = (_columns({seed: x[seed] for seed in both}) for x in (a, b))
                yield k, what, difference(*pair)


def measured(
    board: Board, name: str, part: str, method: str, shots: int, test: str, mode: str = "greedy"
) -> Measured | None:
    """Return the headline metric of the test cells, in the order of their seeds; None if there are no cells."""
    found = _by_seed(board, part, method, shots, test, mode, find(name).parts[part].metric)
    return _columns(found) if found else None


def _by_seed(board: Board, part: str, method: str, shots: int, test: str, mode: str, metric: str) -> BySeed:
    cells = {
        key.seed: cell["tests"][test][mode]
        for key, cell in board.cells.items()
        if (key.part, key.method, key.shots) == (part, method, shots) and not key.tunes and mode in cell["tests"][test]
    }
    return {seed: (cell[metric], cell["draws"]) for seed, cell in sorted(cells.items())}


def _columns(cells: BySeed) -> Measured:
    return [value for value, _ in cells.values()], [draws for _, draws in cells.values()]


def table(found: Iterable[Line], paper: Callable[[Line], float | None] = lambda line: None) -> str:
    """Write lines as text, beside the paper's numbers; * marks a difference whose intervals exclude zero."""
    rows = [("part", "test", "shots", "answers", "metric", "", "mean [95% interval]", "seeds", "paper")]
    for line in found:
        sure = " *" if " - " in line.what and line.found.excludes_zero else ""
        published = "" if (number := paper(line)) is None else f"{number:.3f}"
        shots, what = "" if line.what == "base" else str(line.shots or "all"), name_of(line.what).replace("−", "-")
        which = (line.part, line.test, shots, line.mode, line.metric, what)
        rows.append((*which, f"{line.found}{sure}", str(line.found.seeds), published))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
