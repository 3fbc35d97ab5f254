"""The tables of docs/replication.md: every experiment beside the paper, and effect by effect what held."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minirft.experiments.board import Board
from minirft.experiments.settings import CONTROLS, EXPERIMENTS, HEADLINE, METHODS, find
from minirft.experiments.statistics import Estimate
from minirft.experiments.summary import MODES, lines

LABELS = {
    "base": "base",
    "sft": "SFT",
    "sft-reasoning": "SFT, reasoning",
    "rft": "RFT",
    "sft-quick": "SFT, quick thought",
    "rft-official": "RFT, released reward",
}
FAMILY_COLUMN = {"flower": "Flower102", "pet": "Pets37", "aircraft": "FGVC-Aircraft", "car": "Cars196"}
COUNTERPART = {
    **{("classification", family, "same"): ("2", column) for family, column in FAMILY_COLUMN.items()},
    ("coco-fewshot", "8 categories", "same"): ("3", "average"),
    ("lvis-fewshot", "6 rare", "same"): ("4", "average"),
    ("out-of-domain", "outlines", "same"): ("5", "average"),
    ("grounding", "239 pictures", "all"): ("6", "mIoU test"),
    ("open-vocabulary", "65 base", "novel"): ("7", "novel"),
    ("open-vocabulary", "65 base", "base"): ("7", "base"),
    ("open-vocabulary", "65 base", "all"): ("7", "all"),
    ("open-vocabulary", "65 base", "rare"): ("8", "rare"),
}
"""(experiment, part, test) -> the table of the paper and its column."""
MAIN = ("rft - base", "rft - sft", "rft - sft-reasoning")
AGAINST_CONTROLS = ("rft - sft-quick", "rft-official - rft")
Tables = dict[str, Any]
Found = dict[tuple[str, str, int, str, str], Estimate]  # (part, test, shots, mode, what)


def markdown(folder: Path, paper: Path) -> str:
    """Every finished row of every experiment in `folder`, Qwen2-VL-2B's numbers of the paper in the last column.

    Ours are shares in [0, 1], the paper's percent; of a difference in bold both intervals exclude zero.
    """
    tables = read_paper(paper)
    blocks = [block for name, board in boards(folder) for block in _blocks(name, board, tables)]
    return "\n\n".join([_comparisons("\n".join(blocks)), *blocks])


def effects(folder: Path, paper: Path) -> str:
    """Table by table, in how many rows a difference of the paper has the same sign here, as a Markdown table."""
    tables, rows = read_paper(paper), []
    for name, board in boards(folder):
        found = _found(board, name)
        for number in _numbers(name):
            for gap in ("rft - base", "rft - sft", "sft - base"):
                cells = [*_signs(name, number, gap, found, tables)]
                if cells:
                    rows.append("| " + " | ".join([number, _label(gap), *cells]) + " |")
    head = "| table | difference | the paper | ours, greedy | ours, sampled |"
    return "\n".join([head, "|" + "---|" * 5, *rows])


def boards(folder: Path) -> Iterator[tuple[str, Board]]:
    """The experiments that have a file in `folder`."""
    for name in EXPERIMENTS:
        if (folder / f"{name}.json").exists():
            yield name, Board.open(folder / f"{name}.json", name)


def read_paper(path: Path) -> Tables:
    """The paper's tables by number."""
    return json.loads(path.read_text(encoding="utf-8"))["tables"]


def of_paper(tables: Tables, name: str, part: str, test: str, shots: int) -> dict[str, float]:
    """The paper's numbers for base, SFT and RFT on 2B, percent; empty where the row has no counterpart there."""
    number, column = COUNTERPART.get((name, part, test), ("", ""))
    rows = [row for row in tables.get(number, {"rows": []})["rows"] if row["model"] == "2B" and column in row]
    wanted = {"base": rows[0]["shots"] if rows else 0, "sft": shots or "all", "rft": shots or "all"}
    return {
        row["method"]: row[column] for row in rows if row["method"] in wanted and wanted[row["method"]] == row["shots"]
    }


# ------------------------------------------------------------------ one experiment


def _blocks(name: str, board: Board, tables: Tables) -> Iterator[str]:
    found = _found(board, name)
    finished = [*_finished(name, found)]
    if not finished:
        return
    experiment = find(name)
    metric = ", ".join(sorted({HEADLINE[part.task] for part in experiment.parts.values()}))
    yield f"## {experiment.title}"
    yield f"In the paper: {experiment.paper}. Ours: {metric}."
    yield from _on_the_paper(name, tables)
    methods = ("base", *METHODS)
    for mode in MODES:
        with_paper = mode == "greedy" and any(of_paper(tables, name, *row) for row in finished)
        columns = [*(LABELS[method] for method in methods), *map(_label, MAIN), *["paper: base, SFT, RFT"] * with_paper]
        rows = []
        for row in finished:
            numbers = of_paper(tables, name, *row)
            paper = [", ".join(f"{value:.1f}" for value in numbers.values())] * with_paper
            rows.append((row, [*_means(found, row, mode, methods), *_gaps(found, row, mode, MAIN), *paper]))
        yield _table(f"{mode.capitalize()} answers", columns, rows)
    if CONTROLS[0] in experiment.methods:
        columns = [*(f"{LABELS[c]}, {mode}" for mode in MODES for c in CONTROLS)]
        columns += [f"{_label(gap)}, {mode}" for mode in MODES for gap in AGAINST_CONTROLS]
        rows = [
            (
                row,
                [cell for mode in MODES for cell in _means(found, row, mode, CONTROLS)]
                + [cell for mode in MODES for cell in _gaps(found, row, mode, AGAINST_CONTROLS)],
            )
            for row in finished
        ]
        yield _table("Controls", columns, rows)
    yield _costs(board, name)


def _comparisons(tables: str) -> str:
    """How many differences the tables show, how many in bold, and how many bold ones chance alone would make.

    >>> _comparisons("| **+0.05 [+0.02, +0.08]** | -0.01 [-0.02, +0.00] |")
    'The tables show 2 differences, 1 of them in bold. At 95% one in twenty is expected in bold where nothing differs.'
    """
    shown = re.findall(r"(\**)[+-]\d\.\d\d \[", tables)
    bold = sum(map(bool, shown))
    return (
        f"The tables show {len(shown)} differences, {bold} of them in bold. "
        "At 95% one in twenty is expected in bold where nothing differs."
    )


def _numbers(name: str) -> list[str]:
    """The paper's tables that an experiment re-enacts."""
    return list(dict.fromkeys(table for (of, _, _), (table, _) in COUNTERPART.items() if of == name))


def _on_the_paper(name: str, tables: Tables) -> Iterator[str]:
    """What the paper measured, and where its numbers do not fit together."""
    for number in _numbers(name):
        notes = " ".join(tables[number]["notes"])
        yield f"Table {number} of the paper: {tables[number]['metric']}. {notes}".strip()


def _table(title: str, columns: Iterable[str], rows: Iterable[tuple[tuple[str, str, int], list[str]]]) -> str:
    head = ["part", "test", "shots", *columns]
    lines = [f"*{title}*", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (part, test, shots), cells in rows:
        lines.append("| " + " | ".join([part, test, str(shots or "all"), *cells]) + " |")
    return "\n".join(lines)


def _found(board: Board, name: str) -> Found:
    return {(line.part, line.test, line.shots, line.mode, line.what): line.found for line in lines(board, name)}


def _finished(name: str, found: Found) -> Iterator[tuple[str, str, int]]:
    """The rows of which every method has as many seeds."""
    for part, test, shots in dict.fromkeys(key[:3] for key in found if key[4] == "rft"):
        seen = [found.get((part, test, shots, "greedy", method)) for method in find(name).methods]
        if (part, test, 0, "greedy", "base") in found and None not in seen and len({x.seeds for x in seen if x}) == 1:
            yield part, test, shots


def _means(found: Found, row: tuple[str, str, int], mode: str, methods: Iterable[str]) -> list[str]:
    part, test, shots = row
    return [f"{found[part, test, shots * (what != 'base'), mode, what].mean:.2f}" for what in methods]


def _gaps(found: Found, row: tuple[str, str, int], mode: str, gaps: Iterable[str]) -> list[str]:
    return [_gap(found[(*row, mode, gap)]) for gap in gaps]


def _gap(found: Estimate) -> str:
    text = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
    return f"**{text}**" if found.excludes_zero else text


def _label(gap: str) -> str:
    return " - ".join(LABELS[method] for method in gap.split(" - "))


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


# ------------------------------------------------------------------ effect by effect


def _signs(name: str, number: str, gap: str, found: Found, tables: Tables) -> Iterator[str]:
    """The paper's differences in points, and in how many rows ours is surely that, not sure, surely the opposite."""
    one, other = gap.split(" - ")
    rows = [row for row in _finished(name, found) if COUNTERPART.get((name, *row[:2]), ("",))[0] == number]
    papers = [of_paper(tables, name, *row) for row in rows]
    if not rows:
        return
    points = [paper[one] - paper[other] for paper in papers]
    yield f"{points[0]:+.1f}" if len(points) == 1 else f"{min(points):+.1f} to {max(points):+.1f}"
    for mode in MODES:
        ours = [found[(*row, mode, gap)] for row in rows]
        same = sum(x.excludes_zero and (x.mean > 0) == (point > 0) for x, point in zip(ours, points, strict=True))
        unsure = sum(not x.excludes_zero for x in ours)
        means = [x.mean for x in ours]
        span = f"{means[0]:+.2f}" if len(ours) == 1 else f"{min(means):+.2f} to {max(means):+.2f}"
        counts = {"same sign": same, "not sure": unsure, "opposite": len(ours) - same - unsure}
        yield f"{span}: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)
