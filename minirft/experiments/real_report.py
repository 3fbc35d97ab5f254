"""Reports of experiments on real data: the predicted cost before, and the numbers beside the paper's after.

One seed gives an interval over the test questions only; with several, seeds and questions are resampled (`statistics`).
A difference is that of the same seeds on the same questions.  The paper's numbers are printed as published, but not all
are measured alike: its accuracy is the two-way substring rule, its LVIS AP is a mean over ranges of area, and its
untrained model decides which categories are in a picture.
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
from minirft.experiments.real_cells import METHODS, METRIC, Study
from minirft.experiments.summary import Line, lines_of
from minirft.show import name_of

PAPER = Path(__file__).parents[2] / "results" / "paper.json"
"""The paper's tables, if the package is in its repository."""
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
PAIRS = (("rft", "base"), ("rft", "sft"))
COLUMN = {(name, test): at for (name, _, test), at in COUNTERPART.items() if name != "classification"}
COLUMN |= {("grounding", "test"): ("6", "mIoU test"), ("grounding", "val"): ("6", "mIoU val")}

# ------------------------------------------------------------------ predicted cost


def outlook(
    study: Study, seeds: int, tflops: float | None, bandwidth: float | None, processor: str | None
) -> Iterator[dict[str, Any]]:
    """Yield a dry run of each config's methods and tests, with the number of its cells.  Raises like `dry_run`.

    The dry run is that of the most shots, whose pictures include those of fewer shots.
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
    """Yield the rows of an outlook as text, each as soon as it is computed, and the sum."""
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


# ------------------------------------------------------------------ results


def real_lines(study: Study, board: Board) -> Iterator[Line]:
    """Yield every number of the finished cells: each method at each number of shots, and the gain of RFT."""
    for part, spec in study.parts.items():
        metric = METRIC[study.settings(part).data.task]
        for test in spec.tests:
            yield from lines_of(board, part, test, "greedy", metric, spec.shots, METHODS, PAIRS)


def real_table(study: Study, board: Board, paper: Path = PAPER) -> str:
    """Write the lines as text beside the paper's numbers; * marks a difference whose intervals exclude zero."""
    rows = [
        f"{'config':<24}{'test':<8}{'shots':<7}{'metric':<10}{'':<13}{'mean [95% interval]':<26}{'seeds':>5}   paper"
    ]
    for line in real_lines(study, board):
        metric, published = METRIC[study.settings(line.part).data.task], paper_number(study, line, paper)
        shots = "" if line.what == "base" else str(line.shots or "all")
        sure = "*" if " - " in line.what and line.found.excludes_zero else " "
        beside = "" if published is None else f"{published:.3f}"
        what = name_of(line.what).replace("−", "-")
        where = f"{line.part:<24}{line.test:<8}{shots:<7}{metric:<10}{what:<13}"
        rows.append(f"{where}{line.found!s:<26}{line.found.seeds:>5} {sure} {beside}".rstrip())
    return "\n".join(rows)


def paper_number(study: Study, line: Line, paper: Path = PAPER) -> float | None:
    """Return the paper's number for a line, as a share; None if it has none, or if its tables are missing."""
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
