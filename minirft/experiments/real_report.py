"""Experiments on real data in print: what they will cost; and afterwards their numbers, the paper's beside.

One seed gives an interval over the test questions alone; of several, both are resampled (`statistics`).  A difference
is that of the same seeds on the same questions.  The paper's numbers stand as it has them, though not all are measured
alike: its accuracy is the two-way substring rule, its LVIS AP a mean over ranges of area, and which categories are in a
picture is asked of the untrained model there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minirft.cost import Method, Rates, dry_run, spell
from minirft.data import FAMILY
from minirft.experiments.board import Board
from minirft.experiments.cells import Key
from minirft.experiments.page import COUNTERPART, FAMILY_COLUMN, LABELS
from minirft.experiments.real_cells import METHODS, METRIC, Study
from minirft.experiments.statistics import difference, estimate
from minirft.experiments.summary import Line

PAPER = Path(__file__).parents[2] / "results" / "paper.json"
"""The paper's tables, where the package lies in its repository."""
COLUMN = {(name, test): at for (name, _, test), at in COUNTERPART.items() if name != "classification"}
COLUMN |= {("grounding", "test"): ("6", "mIoU test"), ("grounding", "val"): ("6", "mIoU val")}
Measured = dict[int, tuple[float, list[float]]]  # seed -> the headline metric, and its resamples

# ------------------------------------------------------------------ before


def outlook(
    study: Study, seeds: int, tflops: float | None, bandwidth: float | None, processor: str | None
) -> Iterator[dict[str, Any]]:
    """A dry run of each config's methods and tests, and how many cells do it.  Raises as `dry_run` does.

    The run looked at is that with most shots, whose pictures hold all others'.
    """
    for part, spec in study.parts.items():
        cells = len(spec.shots) * seeds
        runs = [(what, study.config(Key(study.name, part, what, max(spec.shots), 0)), cells) for what in METHODS]
        asked = [(test, study.test(part, test), 1 + cells * len(METHODS)) for test in spec.tests]
        for what, config, times in runs + asked:
            found = dry_run(config, _method(what), Rates.of(config, tflops, bandwidth), processor)
            del found["prompts"]
            yield {"experiment": study.name, "config": part, "what": what, "cells": times, **found}


def _method(what: str) -> Method:
    return {"sft": "sft", "rft": "grpo"}.get(what, "eval")


def outlook_table(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The rows of an outlook as text, each when it is there, and the sum."""
    counted = "".join(f"{title:>9}" for title in ("samples", "longest", "answers"))
    yield f"{'config':<24}{'what':<11}{'cells':>5}{counted}{'memory':>11}  {'time':<9}in all"
    total, rates = 0.0, ""
    for row in rows:
        time, memory = row["time"], row["memory"]
        total += row["cells"] * time["seconds"]
        rates = f"{time['assumed_tflops']:g} TFLOP/s and {time['assumed_gb_per_second']:g} GB/s"
        what = row["what"] if row["method"] != "eval" else f"ask {row['what']}"
        counts = (
            f"{row['cells']:>5}{row['samples']:>9}{row['prompt_tokens']['longest']:>9}{row['plan']['completions']:>9}"
        )
        peak = f"{memory['peak_gib']:.2f} GiB" if memory else ""
        took = f"{spell(time['seconds']):<9}{spell(row['cells'] * time['seconds'])}"
        yield f"{row['config']:<24}{what:<11}{counts}{peak:>11}  {took}"
    yield f"about {spell(total)} in all, not measured: assumed {rates} (--tflops, --bandwidth), answers at full length"


# ------------------------------------------------------------------ afterwards


def real_lines(study: Study, board: Board) -> Iterator[Line]:
    """Every number that the cells so far give: each method at each number of shots, and what RFT gains."""
    for part, spec in study.parts.items():
        metric = METRIC[study.settings(part).data.task]
        for test in spec.tests:
            base = _measured(board, part, "base", 0, test, metric)
            yield from _line(part, test, 0, "base", base)
            for shots in spec.shots:
                found = {method: _measured(board, part, method, shots, test, metric) for method in METHODS}
                for method, seen in found.items():
                    yield from _line(part, test, shots, method, seen)
                rft = found["rft"]
                for rival, seen in ("base", dict.fromkeys(rft, base.get(0))), ("sft", found["sft"]):
                    seeds = [seed for seed in rft if seen.get(seed)]
                    if seeds:
                        pair = (_columns([values[seed] for seed in seeds]) for values in (rft, seen))
                        yield Line(part, test, shots, "greedy", f"rft - {rival}", difference(*pair))


def real_table(study: Study, board: Board, paper: Path = PAPER) -> str:
    """The lines as text, the paper's numbers beside, where they are known; * marks a difference without zero."""
    rows = [
        f"{'config':<24}{'test':<8}{'shots':<7}{'metric':<10}{'':<13}{'mean [95% interval]':<26}{'seeds':>5}   paper"
    ]
    for line in real_lines(study, board):
        metric, published = METRIC[study.settings(line.part).data.task], paper_number(study, line, paper)
        shots = "" if line.what == "base" else str(line.shots or "all")
        sure = "*" if " - " in line.what and line.found.excludes_zero else " "
        beside = "" if published is None else f"{published:.3f}"
        what = LABELS.get(line.what) or " - ".join(LABELS[one] for one in line.what.split(" - "))
        where = f"{line.part:<24}{line.test:<8}{shots:<7}{metric:<10}{what:<13}"
        rows.append(f"{where}{line.found!s:<26}{line.found.seeds:>5} {sure} {beside}".rstrip())
    return "\n".join(rows)


def paper_number(study: Study, line: Line, paper: Path = PAPER) -> float | None:
    """What the paper has for a line, as a share; None where it has nothing, or its tables are not here."""
    kind = study.settings(line.part).data.kind
    column = COLUMN.get((study.name, line.test)) or (("2", FAMILY_COLUMN[FAMILY[kind]]) if kind in FAMILY else None)
    if column is None or not paper.is_file():
        return None
    rows = json.loads(paper.read_text(encoding="utf-8"))["tables"][column[0]]["rows"]
    for row in rows:
        asked = row["method"] == "base" or row["shots"] == (line.shots or "all")
        if asked and (row["model"], row["method"]) == (study.size.upper(), line.what) and column[1] in row:
            return row[column[1]] / 100
    return None


def _measured(board: Board, part: str, method: str, shots: int, test: str, metric: str) -> Measured:
    found = {}
    for key, cell in sorted(board.cells.items(), key=lambda item: item[0].seed):
        if (key.part, key.method, key.shots) == (part, method, shots):
            answers = cell["tests"][test]["greedy"]
            found[key.seed] = answers[metric], answers["draws"]
    return found


def _columns(found: Iterable[tuple[float, list[float]]]) -> tuple[list[float], list[list[float]]]:
    values, draws = zip(*found, strict=True)
    return list(values), list(draws)


def _line(part: str, test: str, shots: int, what: str, found: Measured) -> Iterator[Line]:
    if found:
        yield Line(part, test, shots, "greedy", what, estimate(*_columns(found.values())))
