"""An experiment's file as a table: means over seeds, and how far apart the methods are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from minirft.experiments.board import Board
from minirft.experiments.settings import EXPERIMENTS, HEADLINE, find
from minirft.experiments.statistics import Estimate, difference, estimate

Measured = tuple[list[float], list[list[float]]]  # values by seed, and their resamples
MODES = ("greedy", "sampled")
PAIRS = (
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


# ------------------------------------------------------------------ beside the paper

PAPER_COLUMN = {
    ("coco-fewshot", "same"): ("3", "average"),
    ("lvis-fewshot", "same"): ("4", "average"),
    ("out-of-domain", "same"): ("5", "average"),
    ("grounding", "all"): ("6", "mIoU test"),
    ("open-vocabulary", "novel"): ("7", "novel"),
    ("open-vocabulary", "base"): ("7", "base"),
    ("open-vocabulary", "all"): ("7", "all"),
    ("open-vocabulary", "rare"): ("8", "rare"),
}
FAMILY_COLUMN = {"flower": "Flower102", "pet": "Pets37", "aircraft": "FGVC-Aircraft", "car": "Cars196"}
LABELS = {
    "base": "base",
    "sft": "SFT",
    "sft-reasoning": "SFT, reasoning",
    "rft": "RFT",
    "sft-quick": "SFT, quick thought",
    "rft-official": "RFT, released reward",
}
GAPS = tuple(f"{one} - {other}" for one, other in PAIRS)


def markdown(folder: Path, paper: Path) -> str:
    """Every experiment in `folder` as a Markdown table, Qwen2-VL-2B's numbers of the paper in the last column.

    Ours are shares in [0, 1], the paper's percent; a difference in bold has an interval without zero.
    """
    tables = json.loads(paper.read_text(encoding="utf-8"))["tables"]
    blocks = []
    for name, experiment in EXPERIMENTS.items():
        file = folder / f"{name}.json"
        board = Board.open(file, name) if file.exists() else None
        rows = [*_rows(board, name, tables)] if board else []
        if board and rows:  # none of an experiment that has only begun
            metric = ", ".join(sorted({HEADLINE[part.task] for part in experiment.parts.values()}))
            head = [
                f"## {experiment.title}",
                "",
                f"{experiment.paper[:1].upper()}{experiment.paper[1:]}; ours: {metric}.",
            ]
            columns = [*_methods(name).values(), *map(_label_of_gap, _gaps(name)), "paper: base, SFT, RFT"]
            titles = "| part | test | shots | answers | " + " | ".join(columns) + " |"
            blocks.append(
                "\n".join([*head, "", titles, "|" + "---|" * titles.count(" |"), *rows, "", _costs(board, name)])
            )
    return "\n\n".join(blocks)


def _methods(name: str) -> dict[str, str]:
    return {method: LABELS[method] for method in ("base", *find(name).methods)}


def _gaps(name: str) -> list[str]:
    return [gap for gap in GAPS if all(method in _methods(name) for method in gap.split(" - "))]


def _label_of_gap(gap: str) -> str:
    return " - ".join(LABELS[method] for method in gap.split(" - "))


def _rows(board: Board, name: str, tables: dict[str, Any]) -> Iterator[str]:
    found = {(line.part, line.test, line.shots, line.mode, line.what): line.found for line in lines(board, name)}
    for key in dict.fromkeys(key[:4] for key in found if key[4] == "rft"):
        part, test, shots, mode = key
        means = [found.get((part, test, shots if what != "base" else 0, mode, what)) for what in _methods(name)]
        if None in means or len({estimate.seeds for estimate in means[1:]}) > 1:
            continue  # not finished
        gaps = [found[(*key, gap)] for gap in _gaps(name)]
        paper = _of_paper(tables, name, part, test, shots) if mode == "greedy" else ""
        cells = [part, test, str(shots or "all"), mode, *map(_short, means), *map(_gap, gaps), paper]
        yield "| " + " | ".join(cells) + " |"


def _costs(board: Board, name: str) -> str:
    """What a run of each method cost on average, over its tested cells."""
    said = []
    for method in find(name).methods:
        cells = [cell for key, cell in board.cells.items() if key.method == method and not key.tunes]
        seconds, seen, sampled = (
            sum(cell[what] for cell in cells) / len(cells)
            for what in ("seconds_training", "pictures_seen", "completions_sampled")
        )
        completions = f", {sampled:.0f} completions" if sampled else ""
        said.append(f"{LABELS[method]} {seconds:.0f} s, {seen:.0f} pictures{completions}")
    return "Training took on average: " + "; ".join(said) + "."


def _short(found: Estimate) -> str:
    return f"{found.mean:.2f}"


def _gap(found: Estimate) -> str:
    text = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
    return f"**{text}**" if found.excludes_zero else text


def _of_paper(tables: dict[str, Any], name: str, part: str, test: str, shots: int) -> str:
    number, column = PAPER_COLUMN.get((name, test), ("2", FAMILY_COLUMN.get(part, "")))
    rows = [row for row in tables[number]["rows"] if row["model"] == "2B" and column in row]
    wanted = {"base": rows[0]["shots"] if rows else 0, "sft": shots or "all", "rft": shots or "all"}
    values = [[row[column] for row in rows if (row["method"], row["shots"]) == pair] for pair in wanted.items()]
    return ", ".join(f"{value[0]:.1f}" for value in values) if all(values) else ""
