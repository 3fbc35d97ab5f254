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

from jinja2 import StrictUndefined, Template

from minirft.cost import Method, Rates, dry_run, spell
from minirft.experiments.cells import Key
from minirft.experiments.real_cells import METHODS, Study
from minirft.show import Line, of_paper

TRAINING: dict[str, Method] = {"sft": "sft", "rft": "grpo"}
PAPER = Path(__file__).parents[2] / "results" / "paper.json"
"""The paper's tables, if the package is in its repository."""


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
            found = dry_run(config, TRAINING.get(what, "eval"), Rates.of(config, tflops, bandwidth), processor)
            del found["prompts"]
            yield {"experiment": study.name, "config": part, "what": what, "cells": times, **found}


def outlook_table(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield an outlook as text, each row as soon as it is computed, and the sum."""
    text = Path(__file__).with_name("outlook.txt.jinja").read_text(encoding="utf-8")
    template = Template(text, trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    yield from template.generate(rows=rows, spell=spell)


def paper_number(study: Study, line: Line, paper: Path = PAPER) -> float | None:
    """Return the paper's number for a line, as a share; None if it has none, or if its tables are missing."""
    table, column = study.parts[line.part].columns.get(line.test, ("", ""))
    if not table or not paper.is_file():
        return None
    published = json.loads(paper.read_text(encoding="utf-8"))["tables"][table]
    percent = of_paper(published, column, study.size.upper()).get(line.what, {}).get(line.shots)
    return None if percent is None else percent / 100
